"""A multirun: one parent run, a child run for each job, and what becomes of both where a job is mistaken or breaks."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from mlflow import MlflowClient
from mlflow.entities import Run

from lwexp import pictures
from lwexp.config import MLflowConfig
from lwexp.tracking.store import connect

RunHere = Callable[..., Outcome]
SMALL = ["model.hidden_size=8", "data.image_size=8", "batch_size=256", "max_steps=2", "progress=false"]
LSTM = ["model=lstm", *SMALL]
STOPS = """
import torch

class Stops(torch.nn.Module):
    steps = 0  # of all jobs of this process

    def __init__(self, *, num_classes, in_chans):
        super().__init__()
        self.body, self.head = torch.nn.Conv2d(in_chans, 2, 3), torch.nn.Linear(2, num_classes)

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            Stops.steps += 1
            if Stops.steps == 4:  # the second step of the second job
                raise KeyboardInterrupt
        return self.head(self.body(x).mean(dim=(2, 3)))
"""


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and nothing in them; making the tables takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(MLflowConfig(name="mlflow", uri=f"sqlite:///{path}", experiment="none", timeout=8.0, flush_timeout=10.0))
    return path


@pytest.fixture
def client(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """The store that the sweep writes to by default. Pictures take most of so short a run and are not drawn."""
    monkeypatch.setattr(pictures, "write_plots", lambda table, folder: [])
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    return MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/outputs/mlflow.db")


def family(client: MlflowClient) -> tuple[Run, dict[str, Run]]:
    """The parent run, and its children by name."""
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(ids)
    (parent,) = [run for run in runs if run.data.tags.get("lwexp.kind") == "sweep"]
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
    return parent, {run.info.run_name: run for run in children}


def test_jobs_are_children_of_one_parent_and_named_by_what_sets_them_apart(
    lwexp_here: RunHere, client: MlflowClient, tmp_path: Path
) -> None:
    outcome = lwexp_here("run", "-m", *LSTM, "mult=0.9,1.0", "seed=0,1", "epochs=2")
    assert outcome.code == 0, outcome.err
    parent, children = family(client)
    assert parent.info.status == "FINISHED"
    assert "mult=0.9,1.0 seed=0,1" in parent.info.run_name
    assert parent.data.tags["lwexp.overrides"] == " ".join([*LSTM, "mult=0.9,1.0", "seed=0,1", "epochs=2"])
    assert children.keys() == {"mult=0.9 seed=0", "mult=0.9 seed=1", "mult=1.0 seed=0", "mult=1.0 seed=1"}
    for name, child in children.items():
        assert child.info.status == "FINISHED"
        assert child.data.params["seed"] == name[-1]
        assert child.data.params["mult"] == name[5:8]
        assert child.data.metrics["lr/01_lstm"] == pytest.approx(1e-3 * float(name[5:8]))
        history = client.get_metric_history(child.info.run_id, "lr/01_lstm")
        assert sorted(row.step for row in history) == [0, 1]
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert parent.data.tags["lwexp.folder"] == str(folder)
    assert {child.data.tags["lwexp.folder"] for child in children.values()} == {str(folder / str(i)) for i in range(4)}
    assert all((folder / str(i) / "best.safetensors").is_file() for i in range(4))


@pytest.mark.parametrize(("key", "bad", "good", "reason"), [
    ("mult", "-1", "0.9", "should be greater than 0"),
    ("model", "lstmm", "lstm", "no such model; did you mean lstm"),
    ("lr_overrides.head", "-0.1", "0.1", "should be greater than or equal to 0"),
    ("loss.name", "MSE", "NLLLoss", "no such loss in torch.nn; did you mean MSELoss"),
])  # fmt: skip
def test_a_mistaken_job_is_told_and_the_others_complete(
    key: str, bad: str, good: str, reason: str, lwexp_here: RunHere, client: MlflowClient
) -> None:
    options = LSTM if key != "model" else SMALL[1:]
    outcome = lwexp_here("run", "-m", *options, f"{key}={bad},{good}")
    parent, children = family(client)
    assert children.pop(f"{key}={good}").info.status == "FINISHED"
    assert {child.info.status for child in children.values()} <= {"FAILED"}
    assert parent.info.status == "FAILED"
    assert outcome.code == 2
    told, *_, error = outcome.err.splitlines()  # between them, Hydra's own line on the job
    assert "Traceback" not in outcome.err
    assert re.match(rf"job .*{re.escape(key)}={bad}\b.* failed: {re.escape(key)}={bad}(\.0)?: ", told)
    assert re.match(rf"error: {re.escape(key)}={bad}(\.0)?: ", error)
    assert reason in told
    assert reason in error


def test_a_job_that_breaks_fails_alone_and_the_sweep_with_it(lwexp_here: RunHere, client: MlflowClient) -> None:
    outcome = lwexp_here("run", "-m", *LSTM, "optimizer=sgd", "lr=0.1,1e38,0.2", "max_steps=5")
    assert outcome.code == 1
    parent, children = family(client)
    assert {name: child.info.status for name, child in children.items()} == {
        "lr=0.1": "FINISHED", "lr=1e+38": "FAILED", "lr=0.2": "FINISHED",
    }  # fmt: skip
    assert parent.info.status == "FAILED"
    assert "a smaller lr, clip_grad_norm=1 or nonfinite=skip may help" in outcome.err.splitlines()[-1]


def test_an_interrupted_job_ends_the_sweep(lwexp_here: RunHere, client: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "stops.py").write_text(STOPS, encoding="utf-8")
    outcome = lwexp_here("run", "-m", *SMALL[1:], "model=custom", "model._target_=stops.Stops", "seed=0,1,2")
    assert outcome.code == 130
    assert outcome.err == "interrupted\n"
    parent, children = family(client)
    assert {name: child.info.status for name, child in children.items()} == {"seed=0": "FINISHED", "seed=1": "KILLED"}
    assert parent.info.status == "KILLED"


@pytest.mark.parametrize(("option", "line"), [
    ("tracking.uri=htp://server:5000", r"error: tracking\.uri=htp://server:5000: .*"),
    ("epoch=2", r"error: epoch=2: unknown option; did you mean epochs\?"),
    ("decay=linaer", r"error: decay=linaer: no such choice; did you mean linear\?"),
    ("batch_size=0", r"error: batch_size=0: should be greater than or equal to 1"),
])  # fmt: skip
def test_a_mistake_in_all_jobs_is_one_line_before_any_of_them(
    option: str, line: str, lwexp_here: RunHere, tmp_path: Path
) -> None:
    outcome = lwexp_here("run", "-m", *LSTM, "mult=0.9,1.0", option)
    assert outcome.code == 2
    assert re.fullmatch(line + "\n", outcome.err)
    assert outcome.out == ""
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob("mlflow.db"))


def test_a_sweep_without_tracking_leaves_its_folders_only(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("run", "-m", *LSTM, "tracking=none", "seed=0,1", "max_steps=1")
    assert outcome.code == 0, outcome.err
    assert len(list(tmp_path.rglob("best.safetensors"))) == 2
    assert not list(tmp_path.rglob("mlflow.db"))
