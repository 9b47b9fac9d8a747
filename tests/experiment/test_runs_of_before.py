"""Runs and sweeps of an earlier version: what commit 5b3225f has written is read, delivered and resumed bit for bit.

`tests/golden/run_of_before` holds, from the folder `/before`: `run`, stopped by SIGTERM in its second epoch, its store
not reached; `sweep`, of three jobs, interrupted in the second; and `after`, the results when that commit resumed them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from torch import nn

from lwexp.plots import process
from lwexp.tracking import run_status
from lwexp.tracking.journal import Reader
from tests.helpers.commands import GOLDEN, Outcome
from tests.helpers.results import metrics_in
from tests.helpers.tiny_training import flat

RunHere = Callable[..., Outcome]
RECORDED = GOLDEN / "run_of_before"
AFTER = json.loads((RECORDED / "after" / "after.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of so short a run."""
    monkeypatch.setattr(process, "write_plots", lambda *_, **__: [])


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A copy of what was recorded, in the folder in which the commands run."""
    for name in ("run", "sweep"):
        shutil.copytree(RECORDED / name, tmp_path / name)
    return tmp_path


LATER = ("best/", "monitor", "test/top5", "test/ece")  # what versions after that one add


def rounding() -> str:
    """A hash of what a short training gives here: where it is another one, sums are rounded in another order."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lstm, head, images = nn.LSTM(8, 4, 2, batch_first=True), nn.Linear(4, 10), torch.rand(128, 8, 8)
        parameters = [*lstm.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=0.02)
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(lstm(images)[0][:, -1]), torch.arange(128) % 10).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        return sha256(b"".join(p.detach().numpy().tobytes() for p in parameters)).hexdigest()


def check_same(found: Any, expected: Any) -> None:
    """Bit for bit on a machine that rounds as the recording one did, closely on others."""
    if rounding() == AFTER["rounding"]:
        assert flat(found) == flat(expected)
    else:
        assert found.keys() == expected.keys()
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def rows(folder: Path) -> dict[str, float]:
    """The metric rows of a run's journal by `<key> <step>`, without those that came later; each was written once."""
    written = [entry.value for entry in Reader(folder / "journal.lwexp").entries() if entry.kind == "rows"]
    pairs = [(f"{key} {row.step}", value) for row in written for key, value in zip(row.keys, row.values, strict=True)]
    assert len(dict(pairs)) == len(pairs)
    return {key: value for key, value in pairs if not key.startswith(LATER)}


def result(folder: Path) -> dict[str, float]:
    """The metrics in the run's result, without what came later."""
    return {key: value for key, value in metrics_in(folder).items() if not key.startswith(LATER)}


def test_a_run_of_before_goes_on_as_it_did_then(recorded: Path, lwexp_here: RunHere) -> None:
    outcome = lwexp_here("run", "resume=run", "tracking=none")
    assert outcome.code == 0, outcome.err
    folder = recorded / "run"
    assert run_status(folder) == "FINISHED"
    assert json.loads((folder / "resumed.json").read_text(encoding="utf-8"))[0].startswith(
        "step 7 with tracking.name=none"
    )
    for name in ("model.safetensors", "best.safetensors"):
        check_same(load_file(folder / name), load_file(RECORDED / "after" / name))
    check_same(result(folder), result(RECORDED / "after"))
    found, expected = rows(folder), AFTER["rows"]
    assert list(found) == list(expected)
    rates = [name for name in expected if name.startswith("lr/")]
    assert [found[name] for name in rates] == [expected[name] for name in rates]  # no machine rounds these otherwise
    check_same(found, expected)


def test_the_rows_of_a_run_of_before_are_delivered(recorded: Path, lwexp_here: RunHere, empty_store: Path) -> None:
    uri = f"sqlite:///{shutil.copy(empty_store, recorded / 'mlflow.db')}"
    outcome = lwexp_here("sync", "run", f"tracking.uri={uri}")
    assert outcome.code == 0, outcome.err
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("lwexp").experiment_id])
    assert (run.info.run_name, run.info.status) == ("lstm per_parameter linear mult=0.95 seed=0", "KILLED")
    assert (run.data.tags["lwexp.plan"], run.data.tags["lwexp.reason"]) == ("df28dd8468", "interrupted")
    assert (run.data.params["lr"], run.data.params["policy.name"]) == ("0.02", "plateau")
    found = {
        f"{key} {metric.step}": metric.value
        for key in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, key)
    }
    assert found == rows(RECORDED / "run")
    assert len(found) == 80
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"config.yaml", "plan.csv"}


def test_a_sweep_of_before_is_carried_on(recorded: Path, lwexp_here: RunHere) -> None:
    folder = recorded / "sweep"
    before = {path.name: path.read_bytes() for path in (folder / "0").iterdir()}
    outcome = lwexp_here("run", "sweep.resume=sweep", "sweep.isolate=false")
    assert outcome.code == 0, outcome.err
    assert before.items() <= {path.name: path.read_bytes() for path in (folder / "0").iterdir()}.items()
    jobs = [json.loads((folder / str(number) / "job.json").read_text(encoding="utf-8")) for number in range(3)]
    assert [(job["status"], job["attempts"]) for job in jobs] == [("FINISHED", 1), ("FINISHED", 2), ("FINISHED", 1)]
    for number in ("0", "1", "2"):
        check_same(result(folder / number), AFTER["sweep"][number])
    manifest = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    expected = json.loads((RECORDED / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    assert manifest.keys() == expected.keys() | {"config_dir", "config_name"}  # which that version did not keep
    assert (manifest["format"], manifest["points"], manifest["swept"]) == (1, expected["points"], expected["swept"])
