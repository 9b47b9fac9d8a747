"""Mistakes end in one line that names the key, with exit code 2, before anything is trained or tracked."""

from __future__ import annotations

import gc
import re
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from tests.cli.mistakes import CONF, LATE, MISTAKES, PHOTOS, SMALL, assert_nothing_was_done
from tests.helpers.commands import RunCommand, RunHere

COSTLY = """
import sys
import torch
class Costly(torch.nn.Module):
    def __init__(self, *, in_chans, num_classes):
        super().__init__()
        self.body, self.head = torch.nn.Conv2d(in_chans, 2, 3), torch.nn.Linear(2, num_classes)
        if not self.head.weight.is_meta:
            sys.exit(77)
    def forward(self, x):
        return self.head(self.body(x).mean(dim=(2, 3)))
"""


@pytest.mark.usefixtures("materials")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_line_that_names_its_key(mistake: str, lwexp_here: RunHere, tmp_path: Path) -> None:
    options, line = MISTAKES[mistake]
    outcome = lwexp_here("run", *SMALL, *options)
    assert re.fullmatch(rf"error: {line}.*\n", outcome.err), outcome.err
    assert outcome.code == 2
    assert "Traceback" not in outcome.out
    assert_nothing_was_done(tmp_path)


@pytest.mark.parametrize("mistake", LATE)
def test_a_mistake_is_told_before_any_weight_is_allocated(
    mistake: str, lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "costly.py").write_text(COSTLY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    options = [*SMALL, "~model.hidden_size", "model=custom", "model._target_=costly.Costly", "tracking=none"]
    outcome = lwexp_here("run", *options, *mistake.split(";"))
    key = mistake.rpartition(";")[2].partition("=")[0]
    assert outcome.code == 2, outcome
    assert re.fullmatch(rf"error: {re.escape(key)}\b.*\n", outcome.err), outcome.err
    sys.modules.pop("costly", None)
    if mistake == LATE[0]:
        assert lwexp_here("run", *options).code == 77, "the real model tells that it is built"


@pytest.mark.parametrize(
    "mistake", ["freeze=[nope]", "optimizer.betas=[0.9,2]", "policy.warmup_steps=99", "", "optimizer=x"]
)
def test_a_mistake_is_told_before_any_weight_is_downloaded(
    mistake: str, lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> None:
        sys.exit(77)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    options = ["model=torchvision", "model.name=resnet18", "weights=pretrained", "tracking=none", "max_steps=20"]
    outcome = lwexp_here("run", *options, *([mistake] if mistake else []))
    assert outcome.code == (2 if mistake else 77)


def test_corrupt_image_is_named_and_the_run_ends_failed(lwexp_here: RunHere, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for split in ("train", "val"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (8, 8)).save(tmp_path / "photos" / split / name / f"{number}.png")
    (tmp_path / "photos" / "train" / "dog" / "1.png").write_bytes(b"no image")
    for workers in (0, 2):
        options = [*PHOTOS, "data.path=photos", f"data.workers={workers}"]
        outcome = lwexp_here("run", *SMALL, *options)
        assert outcome.code == 2
        assert re.fullmatch(r"error: data\.path=.*photos: cannot read the image train/dog/1\.png: .*\n", outcome.err)
        start = time.monotonic()
        gc.collect()
        assert time.monotonic() - start < 8, "workers that nobody stopped hold up the process, or the sweep's next job"
    connection = sqlite3.connect(tmp_path / "outputs" / "mlflow.db")
    assert connection.execute("SELECT status FROM runs").fetchall() in ([], [("FAILED",), ("FAILED",)])
    connection.close()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("multirun", [[], ["-m", "mult=0.9,1.0"]], ids=["run", "sweep"])
@pytest.mark.parametrize("server", ["silent", "closed"])
def test_server_that_does_not_answer_is_told_and_stops_no_training(
    server: str, multirun: list[str], lwexp_here: RunHere, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue(server)
    options = ["tracking.timeout=0.5", "tracking.flush_timeout=0.2", f"tracking.uri={address}"]
    outcome = lwexp_here("run", *multirun, *SMALL, *options)
    assert outcome.code == 0
    assert re.search(
        rf"^the tracking store {address} is not available \(.*\); the run continues", outcome.out, re.MULTILINE
    )
    assert re.search(r"metric rows not delivered to .*; nothing is lost: python -m lwexp.sync /", outcome.out)
    jobs = [path.parent for path in tmp_path.rglob("best.safetensors")]
    assert len(jobs) == (2 if multirun else 1)
    assert all((job / "journal.lwexp").stat().st_size > 100 for job in jobs)


def test_failure_is_one_line_of_a_real_process_too(
    lwexp_command_cold: RunCommand,
) -> None:
    done = lwexp_command_cold("run", *SMALL, "weights=checkpoint", "weights.path=none.safetensors")
    assert done.returncode == 2
    assert all("…" in line for line in done.stdout.splitlines()), "only what was under way, on a slow machine"
    assert re.fullmatch(r"error: weights\.path=.*\n", done.stderr)


def test_default_patience_with_a_server_is_below_ten_seconds() -> None:
    assert OmegaConf.load(CONF / "tracking" / "mlflow.yaml").timeout < 10
