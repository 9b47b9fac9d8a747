"""Runs that break, diverge or are interrupted, and the folders that runs leave."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from datetime import datetime, tzinfo
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from lwexp.models.lstm import LSTMClassifier
from tests.helpers.commands import RunHere
from tests.helpers.processes import StartCommand
from tests.run.runs import SMALL, UNTRACKED, Store, folders

BREAKS = """
import torch

class Breaks(torch.nn.Module):
    def __init__(self, *, num_classes, in_chans):
        super().__init__()
        self.body, self.head = torch.nn.Conv2d(in_chans, 2, 3), torch.nn.Linear(2, num_classes)
        self.steps = 0

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            self.steps += 1
            if self.steps == 3:
                raise ArithmeticError("the third step breaks")
        return self.head(self.body(x).mean(dim=(2, 3)))
"""


@pytest.mark.usefixtures("no_pictures")
def test_run_that_breaks_ends_failed_with_the_steps_before_it(
    lwexp_here: RunHere, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "breaks.py").write_text(BREAKS, encoding="utf-8")
    with pytest.raises(ArithmeticError, match="the third step breaks"):
        lwexp_here("run", *SMALL[2:], "model=custom", "model._target_=breaks.Breaks")
    run = store.run()
    assert run.info.status == "FAILED"
    assert run.data.tags["lwexp.reason"] == "the third step breaks"
    for key in ("train/loss", "lr/00_head", "lr/01_body"):
        assert [step for step, _ in store.history(run, key)] == [0, 1]


@pytest.mark.usefixtures("no_pictures")
def test_loss_that_is_no_number_ends_the_run_in_one_line(lwexp_here: RunHere, store: Store) -> None:
    outcome = lwexp_here("run", *SMALL, "lr=1e38", "optimizer=sgd")
    assert outcome.code == 1
    assert re.fullmatch(
        r"error: the loss is (nan|inf) at optimizer step \d, where the head \(00_head\) has the rate 1e\+38; "
        r"a smaller lr, clip_grad_norm=1 or nonfinite=skip may help\n",
        outcome.err,
    )
    assert store.run().info.status == "FAILED"


def test_interrupted_runs_end_killed_with_the_exit_code_of_the_signal(
    start_command: StartCommand, start_command_cold: StartCommand, empty_store: Path, tmp_path: Path
) -> None:
    signals = {signal.SIGINT: 130, signal.SIGTERM: 143}
    processes = {}
    try:
        for number in signals:
            outputs = tmp_path / number.name / "outputs"
            outputs.mkdir(parents=True)
            shutil.copy(empty_store, outputs / "mlflow.db")
            start = start_command_cold if number == signal.SIGINT else start_command
            processes[number] = start(
                "run", *SMALL, "max_steps=null", "epochs=100000",
                cwd=outputs.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        for number, process in processes.items():
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("epoch 1/")), None)
            assert line is not None, process.stderr
            process.send_signal(number)
        for number, process in processes.items():
            _, errors = process.communicate(timeout=60)
            assert process.returncode == signals[number]
            assert errors.splitlines()[-1] == "interrupted"
            client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/{number.name}/outputs/mlflow.db")
            run = Store(client).run()
            assert run.info.status == "KILLED"
            steps = [step for step, _ in Store(client).history(run, "lr/00_head")]
            assert len(steps) >= 4
            assert steps == list(range(len(steps)))
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


@pytest.mark.usefixtures("no_pictures")
def test_paths_are_relative_to_where_the_command_is_started(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8), (50 * number, 90, 9)).save(tmp_path / "photos" / name / f"{number}.png")
    torch.save(LSTMClassifier(in_chans=3, img_size=8, num_classes=2, hidden_size=8).state_dict(), tmp_path / "w.pt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = lwexp_here(
        "run", "model=lstm", "model.hidden_size=8", "data=image_folder", "data.path=../photos", "data.image_size=8",
        "data.workers=0", "weights=checkpoint", "weights.path=../w.pt", "weights.strict=true", "batch_size=4",
        "max_steps=2", "progress=false", "hydra.run.dir=outputs/runs/here", *UNTRACKED,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "photos", "w.pt"]
    assert (tmp_path / "elsewhere" / "outputs" / "runs" / "here" / "best.safetensors").is_file()


@pytest.mark.usefixtures("no_pictures")
def test_two_runs_of_the_same_second_have_folders_of_their_own(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Stopped:
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr("hydra.core.utils.datetime", Stopped)
    for _ in range(2):
        assert lwexp_here("run", *SMALL, *UNTRACKED, "max_steps=1").code == 0
    first, second = folders(tmp_path)
    assert {folder.name.rpartition("_")[0] for folder in (first, second)} == {"2026-01-02_03-04-05"}
    assert all((folder / "model.safetensors").is_file() for folder in (first, second))
