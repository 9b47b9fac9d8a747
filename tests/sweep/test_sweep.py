"""A sweep: one parent run, a child run for each job, and the outcome of both if a job has a mistake or breaks.

Most tests run the jobs in this process (`sweep.isolate=false`), which saves the seconds of their imports.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from lwexp.plots import process
from lwexp.sweep.outcome import outcome_of
from tests.helpers.commands import RunCommand, RunHere
from tests.helpers.processes import StartCommand

SMALL = ["data.image_size=8", "batch_size=256", "max_steps=2", "progress=false"]
LSTM = ["model=lstm", "model.hidden_size=8", *SMALL]
HERE = ["sweep.isolate=false", "sweep.report=false"]
ALONE = [*HERE, "sweep.baseline=false"]
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


@pytest.fixture
def client(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """The store that the sweep writes to by default. Plots take most of so short a run and are not drawn."""
    monkeypatch.setattr(process, "write_plots", lambda *_, **__: [])
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
    outcome = lwexp_here("run", "-m", *LSTM, *HERE, "mult=0.9,1.0", "seed=0,1", "epochs=2")
    assert outcome.code == 0, outcome.err
    parent, children = family(client)
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name.startswith("mult=0.9,1.0 seed=0,1 model=lstm ")
    assert parent.data.tags["lwexp.overrides"] == " ".join([*LSTM, *HERE, "mult=0.9,1.0", "seed=0,1", "epochs=2"])
    assert children.keys() == {"mult=0.9 seed=0", "mult=0.9 seed=1", "mult=1.0 seed=0", "mult=1.0 seed=1"}
    for name, child in children.items():
        assert child.info.status == "FINISHED"
        assert child.data.params["seed"] == name[-1]
        assert child.data.params["mult"] == name[5:8]
        assert child.data.metrics["lr/01_lstm"] == pytest.approx(1e-3 * float(name[5:8]))
        history = client.get_metric_history(child.info.run_id, "lr/01_lstm")
        assert sorted(row.step for row in history) == [0, 1]
        assert json.loads(child.data.tags["lwexp.point"]) == {"mult": name[5:8], "seed": name[-1]}
        assert child.data.tags["lwexp.arm"] == ("uniform" if "mult=1.0" in name else "layerwise")
        assert "lwexp.baseline" not in child.data.tags
    assert json.loads(parent.data.tags["lwexp.swept"]) == ["mult", "seed"]
    assert parent.data.tags["lwexp.progress"] == "4 of 4 finished"
    assert parent.data.metrics["sweep/finished"] == 4
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert parent.data.tags["lwexp.folder"] == str(folder)
    assert {child.data.tags["lwexp.folder"] for child in children.values()} == {str(folder / str(i)) for i in range(4)}
    assert all((folder / str(i) / "best.safetensors").is_file() for i in range(4))


@pytest.mark.parametrize(("key", "bad", "good", "reason"), [
    ("mult", "-1", "0.9", "mult=-1: should be greater than 0"),
    ("decay", "linaer", "cosine", "decay=linaer: no such choice; did you mean linear"),
    ("model", "lstmm", "lstm", "model=lstmm: no such model; did you mean lstm"),
    ("lr_overrides.head", "-0.1", "0.1", "lr_overrides.head=-0.1: should be greater than or equal to 0"),
    ("loss.name", "MSE", "NLLLoss", "loss.name=MSE: no such loss in torch.nn; did you mean MSELoss"),
])  # fmt: skip
def test_a_job_with_a_mistake_is_recorded_and_the_others_complete(
    key: str, bad: str, good: str, reason: str, lwexp_here: RunHere, client: MlflowClient, tmp_path: Path
) -> None:
    options = LSTM if key != "model" else SMALL
    outcome = lwexp_here("run", "-m", *options, *ALONE, f"{key}={bad},{good}")
    parent, children = family(client)
    assert children.pop(f"{key}={good}").info.status == "FINISHED"
    assert parent.info.status == "FAILED"
    assert parent.data.tags["lwexp.progress"] == "1 of 2 finished, 1 failed"
    (failed,) = children.values()
    assert failed.info.status == "FAILED"
    assert failed.data.tags["lwexp.reason"].startswith(reason)
    assert json.loads(failed.data.tags["lwexp.point"]) == {key: bad}
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert re.search(rf"^\[./2\] {re.escape(key)}={bad}: failed: {re.escape(reason)}", outcome.err, re.MULTILINE)
    assert outcome.err.splitlines()[-1] == "error: 1 of 2 jobs did not finish"
    assert re.search(rf"^  [01]  {re.escape(key)}={bad} +failed .*{re.escape(reason)}", outcome.out, re.MULTILINE)
    assert "2 jobs: 1 finished, 1 failed" in outcome.out


def test_a_job_that_breaks_fails_alone_and_the_sweep_with_it(lwexp_here: RunHere, client: MlflowClient) -> None:
    outcome = lwexp_here("run", "-m", *LSTM, *ALONE, "optimizer=sgd", "lr=0.1,1e38,0.2", "max_steps=5")
    assert outcome.code == 1
    parent, children = family(client)
    assert {name: child.info.status for name, child in children.items()} == {
        "lr=0.1": "FINISHED", "lr=1e+38": "FAILED", "lr=0.2": "FINISHED",
    }  # fmt: skip
    assert parent.info.status == "FAILED"
    assert "a smaller lr, clip_grad_norm=1 or nonfinite=skip may help" in outcome.out


def test_an_interrupted_job_ends_the_sweep(lwexp_here: RunHere, client: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "stops.py").write_text(STOPS, encoding="utf-8")
    outcome = lwexp_here("run", "-m", *SMALL, *ALONE, "model=custom", "model._target_=stops.Stops", "seed=0,1,2")
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "interrupted"
    assert re.search(r"^resume with: python -m lwexp.run -m sweep.resume=outputs/sweeps/", outcome.out, re.MULTILINE)
    parent, children = family(client)
    assert {name: child.info.status for name, child in children.items()} == {"seed=0": "FINISHED", "seed=1": "KILLED"}
    assert parent.info.status == "KILLED"


@pytest.mark.parametrize(("option", "line"), [
    ("tracking.uri=htp://server:5000", r"error: tracking\.uri=htp://server:5000: .*"),
    ("epoch=2", r"error: epoch=2: unknown option; did you mean epochs\?"),
    ("decay=linaer", r"error: decay=linaer: no such choice; did you mean linear, finder\?"),
    ("batch_size=0", r"error: batch_size=0: should be greater than or equal to 1"),
])  # fmt: skip
def test_a_mistake_in_all_jobs_is_one_line_before_any_of_them(
    option: str, line: str, lwexp_here: RunHere, tmp_path: Path
) -> None:
    outcome = lwexp_here("run", "-m", *LSTM, *ALONE, "mult=0.9,1.0", option)
    assert outcome.code == 2
    assert re.fullmatch(line + "\n", outcome.err)
    assert outcome.out == ""
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob("mlflow.db"))


def test_a_sweep_without_tracking_leaves_its_folders_only(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("run", "-m", *LSTM, *ALONE, "tracking=none", "seed=0,1", "max_steps=1")
    assert outcome.code == 0, outcome.err
    assert len(list(tmp_path.rglob("best.safetensors"))) == 2
    assert not list(tmp_path.rglob("mlflow.db"))


def test_every_seed_and_base_rate_gets_its_uniform_twin(lwexp_here: RunHere, client: MlflowClient) -> None:
    outcome = lwexp_here("run", "-m", *LSTM, *HERE, "mult=0.9,0.8", "lr=0.1,0.2", "seed=0,1", "max_steps=1")
    assert outcome.code == 0, outcome.err
    _, children = family(client)
    twins = {name: child for name, child in children.items() if child.data.tags.get("lwexp.baseline") == "true"}
    assert twins.keys() == {f"mult=1 lr={lr} seed={seed}" for lr in (0.1, 0.2) for seed in (0, 1)}
    assert len(children) == 8 + 4
    for name, child in children.items():
        rates = {value for key, value in child.data.metrics.items() if key.startswith("lr/")}
        assert (len(rates) == 1) == (name in twins) == (child.data.tags["lwexp.arm"] == "uniform")


def test_a_sweep_is_resumed_by_folder_and_by_id(lwexp_here: RunHere, client: MlflowClient, tmp_path: Path) -> None:
    options = [*LSTM, *ALONE, "max_steps=1"]
    assert lwexp_here("run", "-m", *options, "mult=0.9,-1").code == 2
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    parent, children = family(client)
    done = (folder / "0" / "best.safetensors").stat().st_mtime_ns

    again = lwexp_here("run", "-m", *options, "mult=0.90,-1,0.8", f"sweep.resume={folder}")
    assert again.code == 2
    assert "3 jobs, 1 finished before" in again.out
    assert (folder / "0" / "best.safetensors").stat().st_mtime_ns == done
    same, now = family(client)
    assert same.info.run_id == parent.info.run_id
    assert now.keys() == {"mult=0.9", "mult=-1", "mult=0.8"}
    assert all(now[name].info.run_id == child.info.run_id for name, child in children.items())

    by_id = lwexp_here("run", f"sweep.resume={parent.info.run_id[:8]}")  # the command as it was, wherever it is
    assert by_id.code == 2
    assert "3 jobs: 2 finished, 1 failed" in by_id.out
    assert len(family(client)[1]) == 3


def test_a_sweep_resumed_from_another_folder_uses_its_own_store(
    lwexp_here: RunHere, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*LSTM, *ALONE, "max_steps=1"]
    assert lwexp_here("run", "-m", *options, "mult=0.9,-1").code == 2
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = lwexp_here("run", "-m", *options, "mult=0.8", f"sweep.resume=../outputs/sweeps/{folder.name}")
    assert again.code == 2
    assert f"the sweep was started in {tmp_path}; paths are relative to that folder" in again.out
    assert f"resume with: python -m lwexp.run -m sweep.resume={folder}" in again.out
    assert family(client)[1].keys() == {"mult=0.9", "mult=-1", "mult=0.8"}
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_job_refused_before_its_training_is_one_run_with_its_next_attempt(
    lwexp_here: RunHere, client: MlflowClient, tmp_path: Path
) -> None:
    data = ["data=image_folder", "data.path=photos"]
    options = [*LSTM[:2], *SMALL[1:], *ALONE, *data, "data.image_size=8", "batch_size=2", "max_steps=1", "seed=0,1"]
    assert lwexp_here("run", "-m", *options).code == 2
    _, children = family(client)
    assert {child.info.status for child in children.values()} == {"FAILED"}
    assert all("photos" in child.data.tags["lwexp.reason"] for child in children.values())
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for name in "ab":
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (i * 20, 0, 0)).save(tmp_path / "photos" / split / name / f"{i}.png")
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    outcome = lwexp_here("run", "-m", f"sweep.resume={folder}")
    assert outcome.code == 0, outcome.err
    _, again = family(client)
    assert {name: run.info.run_id for name, run in again.items()} == {n: r.info.run_id for n, r in children.items()}
    for child in again.values():
        assert child.info.status == "FINISHED"
        assert child.data.params["batch_size"] == "2"
        assert "lwexp.reason" not in child.data.tags


@pytest.mark.parametrize(("options", "line"), [
    (["hydra/sweeper=basic"], "hydra/sweeper=basic: lwexp sweeps with grid"),
    (["sweep.resume=nowhere"], "sweep.resume=nowhere: no such folder, and no MLflow run id; there are no sweeps"),
    (["sweep.resume=abcdef01"], "sweep.resume=abcdef01: no run of that id is below outputs/"),
    (["sweep.baseline=maybe"], "sweep.baseline=maybe: should be a valid boolean, or 'auto'"),
    (["mult=interval(0.8,1.0)"], "mult=interval(0.8,1.0): has no steps that a grid could take"),
    (["resume=abcdef01"], "resume=abcdef01: is one run, and -m starts many"),
])  # fmt: skip
def test_mistakes_in_how_to_sweep_are_one_line(
    options: list[str], line: str, lwexp_here: RunHere, tmp_path: Path
) -> None:
    outcome = lwexp_here("run", "-m", *LSTM, *HERE, "seed=0,1", *options)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {line}")
    assert len(outcome.err.splitlines()) == 1
    assert not list(tmp_path.rglob("sweep.json"))


def test_a_folder_with_a_sweep_is_refused(lwexp_here: RunHere, client: MlflowClient, tmp_path: Path) -> None:
    options = ["run", "-m", *LSTM, *ALONE, "max_steps=1", "seed=0", f"hydra.sweep.dir={tmp_path}/mine"]
    assert lwexp_here(*options).code == 0
    again = lwexp_here(*options)
    assert again.code == 2
    assert again.err == (
        f"error: hydra.sweep.dir={tmp_path}/mine: holds a sweep already; sweep.resume={tmp_path}/mine resumes it\n"
    )
    assert lwexp_here(*options, "resume=auto").code == 0


def test_a_table_that_cannot_be_written_is_one_line_and_the_sweep_ends(
    lwexp_here: RunHere, client: MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "jobs.csv").mkdir(parents=True)
    outcome = lwexp_here("run", "-m", *LSTM, *ALONE, "max_steps=1", "seed=0", "hydra.sweep.dir=mine")
    assert outcome.code == 0
    assert outcome.err == f"{tmp_path}/mine/jobs.csv cannot be written: Is a directory\n"
    assert family(client)[0].info.status == "FINISHED"


DIES = """
import os, signal
import torch

class Dies(torch.nn.Module):
    def __init__(self, *, num_classes, in_chans, when=""):
        super().__init__()
        self.when = when
        self.body, self.head = torch.nn.Conv2d(in_chans, 2, 3), torch.nn.Linear(2, num_classes)
        self.steps = 0

    def forward(self, x):
        self.steps += self.training and torch.is_grad_enabled()
        if self.steps == 2 and self.when == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        y = self.head(self.body(x).mean(dim=(2, 3)))
        return y * float("nan") if self.steps == 2 and self.when == "diverges" else y
"""


def test_jobs_that_are_killed_diverge_or_have_mistakes_do_not_affect_the_others(
    lwexp_command: RunCommand, client: MlflowClient, tmp_path: Path
) -> None:
    """As the system does where memory runs out: the job's process is killed, not the one that started it."""
    (tmp_path / "dies.py").write_text(DIES, encoding="utf-8")
    custom = ["model=custom", "model._target_=dies.Dies", "model.when=killed,diverges,fine", *SMALL, "mult=0.9,-1"]
    outcome = lwexp_command("run", "-m", *custom, "sweep.baseline=false", "max_steps=3")
    assert outcome.returncode == 1
    assert "Traceback" not in outcome.stderr
    parent, children = family(client)
    assert parent.info.status == "FAILED"
    found = {name: (run.info.status, run.data.tags.get("lwexp.reason", "")) for name, run in children.items()}
    assert found.pop("model.when=fine mult=0.9") == ("FINISHED", "")
    assert found.pop("model.when=killed mult=0.9")[0] == "KILLED"
    status, reason = found.pop("model.when=diverges mult=0.9")
    assert status == "FAILED"
    assert "the loss is nan at optimizer step 1" in reason
    assert len(found) == 3
    assert set(found.values()) == {("FAILED", "mult=-1: should be greater than 0")}
    assert re.search(r"model.when=killed mult=0.9 +killed .*its process was killed by SIGKILL", outcome.stdout)
    assert "6 jobs: 1 finished, 4 failed, 1 killed" in outcome.stdout
    excluded = outcome.stdout.partition("excluded:")[2]  # of the report
    for name, why in (
        ("model.when=killed mult=0.9", "killed: its process was killed by SIGKILL"),
        ("model.when=diverges mult=0.9", "failed: the loss is nan at optimizer step 1"),
        ("model.when=fine mult=-1", "failed: mult=-1: should be greater than 0"),
    ):
        assert f"  {name}: {why}" in excluded
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    deliveries = {json.loads(path.read_text())["pid"] for path in folder.rglob("delivery.json")}
    assert len(deliveries) == 1  # one process delivers for all of them


def test_a_sweep_killed_in_the_middle_and_resumed_runs_each_point_once(
    lwexp_command: RunCommand, start_command: StartCommand, client: MlflowClient, tmp_path: Path
) -> None:
    options = [*LSTM, "seed=0,1,2", "epochs=3", "max_steps=8", "checkpoint.every_steps=1"]
    folder = tmp_path / "outputs" / "sweeps" / "mine"
    with start_command("run", "-m", *options, "hydra.sweep.dir=outputs/sweeps/mine") as launcher:
        deadline = time.monotonic() + 120
        while not list((folder / "1" / "checkpoints").glob("*.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.02)
        launcher.send_signal(signal.SIGKILL)
    assert outcome_of(folder / "0").status == "FINISHED"
    first = (folder / "0" / "model.safetensors").stat().st_mtime_ns

    again = lwexp_command("run", "-m", *options, "sweep.resume=outputs/sweeps/mine")
    assert again.returncode == 0, again.stderr
    assert re.search(
        r"^report: outputs/reports/.*/report.html, attached to the sweep's run", again.stdout, re.MULTILINE
    )
    assert (folder / "0" / "model.safetensors").stat().st_mtime_ns == first
    parent, children = family(client)
    assert parent.info.status == "FINISHED"
    assert children.keys() == {"seed=0", "seed=1", "seed=2"}
    for child in children.values():
        assert child.info.status == "FINISHED"
        rows = client.get_metric_history(child.info.run_id, "train/loss")
        assert sorted(row.step for row in rows) == list(range(8))

    undisturbed = lwexp_command("run", *LSTM, "seed=1", "epochs=3", "max_steps=8", "hydra.run.dir=outputs/alone")
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert (tmp_path / "outputs" / "alone" / "model.safetensors").read_bytes() == (
        folder / "1" / "model.safetensors"
    ).read_bytes()


def test_secrets_are_in_no_file_of_a_sweep_and_needed_again_to_resume(
    lwexp_here: RunHere, client: MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "dies.py").write_text(DIES, encoding="utf-8")
    secret = "model.when='http://anna:s3cret@host/a'"
    options = [*SMALL, *ALONE, "model=custom", "model._target_=dies.Dies", secret, "max_steps=1"]
    assert lwexp_here("run", "-m", *options, "seed=0,1", "hydra.sweep.dir=mine").code == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "dies.py"]
    assert not [path for path in files if b"s3cret" in path.read_bytes()]

    again = lwexp_here("run", "-m", *options, "seed=0,1,2", "sweep.resume=mine")
    assert again.code == 0, again.err
    assert "3 jobs, 2 finished before" in again.out
    assert len(family(client)[1]) == 3
    bare = lwexp_here("run", "-m", "sweep.resume=mine")
    assert bare.code == 2
    assert bare.err.endswith("give the sweep's whole command\n")
