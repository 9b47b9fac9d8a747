"""`resume`: which run is meant, with which config it goes on, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from omegaconf import OmegaConf
from safetensors.torch import load_file

from lwexp.config.schema import MLflowConfig
from lwexp.errors import ConfigError
from lwexp.experiment import folder, job, resume
from lwexp.host.lock import Lock
from lwexp.plots import process
from lwexp.tracking import JournalTracker, ended, has_run, tracker
from lwexp.tracking.journal import Reader
from lwexp.tracking.store import connect
from tests.helpers.commands import Outcome

RunHere = Callable[..., Outcome]
# 4 steps in an epoch, the sixth in the middle of the second
RUN = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256", "epochs=2", "max_steps=6",
       "progress=false", "tracking=none"]  # fmt: skip
ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of so short a run."""
    monkeypatch.setattr(process, "write_plots", lambda table, folder: [])


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Have the training end as a Ctrl-C at once ends it, without a checkpoint, after so many steps; None: go on."""
    real, left = JournalTracker.log, 0

    def stop(steps: int | None) -> None:
        nonlocal left
        left = steps or 10**9

        def log(self: JournalTracker, metrics: Any, step: int) -> None:
            nonlocal left
            real(self, metrics, step)
            left -= "train/loss" in metrics
            if left == 0:
                raise KeyboardInterrupt

        monkeypatch.setattr(JournalTracker, "log", log)

    return stop


@pytest.fixture
def killed(lwexp_here: RunHere, stop_after: Callable[[int | None], None], tmp_path: Path) -> Path:
    """The folder of a run that was stopped after its second step."""
    stop_after(2)
    outcome = lwexp_here("run", *RUN)
    assert outcome.code == 130, outcome.err
    stop_after(None)
    return only_run(tmp_path)


def only_run(base: Path) -> Path:
    (folder,) = (base / "outputs" / "runs").iterdir()
    return folder


def written(folder: Path, values: dict[str, Any]) -> Path:
    """A folder with `values` as the config of a run that had not begun."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)), encoding="utf-8")
    return folder


def composed(lwexp_here: RunHere, *arguments: str) -> dict[str, Any]:
    outcome = lwexp_here("run", *arguments, "--cfg", "job")
    assert outcome.code == 0, outcome.err
    values = OmegaConf.to_container(OmegaConf.create(outcome.out))
    assert isinstance(values, dict)
    return values


def one_line(outcome: Outcome, code: int = 2) -> str:
    """The only line on standard error."""
    assert outcome.code == code, outcome.err
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


# --------------------------------------------------------------------------------------------------- which run is meant


def test_the_command_that_an_interrupted_run_prints_goes_on_in_its_folder(
    lwexp_here: RunHere, stop_after: Callable[[int | None], None], tmp_path: Path
) -> None:
    stop_after(2)
    outcome = lwexp_here("run", *RUN)
    assert outcome.code == 130
    folder = only_run(tmp_path)
    assert ended(folder) == "KILLED"
    (told,) = re.findall(r"go on with: (.*)", outcome.out)
    assert told == f"python -m lwexp.run resume=outputs/runs/{folder.name}"
    hydra = {path: path.read_bytes() for path in (folder / ".hydra").iterdir()}
    log = (folder / "lwexp.log").read_text(encoding="utf-8")
    stop_after(None)

    outcome = lwexp_here("run", *shlex.split(told)[3:])
    assert outcome.code == 0, outcome.err
    assert only_run(tmp_path) == folder
    assert ended(folder) == "FINISHED"
    assert hydra == {path: path.read_bytes() for path in (folder / ".hydra").iterdir()}
    assert (folder / "lwexp.log").read_text(encoding="utf-8").startswith(log)
    assert (folder / "model.safetensors").is_file()


def test_a_run_is_found_by_path_id_and_beginning_of_the_id(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "outputs" / "runs" / "one it's", {"lr": 0.5})
    other = written(tmp_path / "outputs" / "sweeps" / "a" / "0", {"lr": 0.25})
    for place, id_ in ((folder, ID), (other, "012345" + "f" * 26)):
        (place / "delivery.json").write_text(json.dumps({"run_id": id_}), encoding="utf-8")
    monkeypatch.setattr("lwexp.tracking.has_run", lambda folder: True)
    for value in ("outputs/runs/one it's", str(folder), ID, ID.upper(), ID[:7]):
        found = composed(lwexp_here, "tracking=none", f"resume={value}")
        assert (found["lr"], found["resume"]) == (0.5, str(folder))
    assert composed(lwexp_here, "tracking=none", f"resume={ID}", "resume=012345ff")["lr"] == 0.25, "the last one counts"
    line = one_line(lwexp_here("run", "tracking=none", "resume=012345", "--cfg", "job"))
    assert line == f"resume=012345: could be {ID} or 012345{'f' * 26}; give more digits"


def test_a_run_that_is_not_below_outputs_is_found_through_the_store(lwexp_here: RunHere, tmp_path: Path) -> None:
    folder = written(tmp_path / "elsewhere", {"lr": 0.5})
    config = MLflowConfig(
        name="mlflow", uri="sqlite:///my.db", experiment="x", timeout=8.0, flush_timeout=8.0, rates_every=1
    )
    client, _ = connect(config, tmp_path)
    runs = [client.create_run("0", tags={"lwexp.folder": str(place)}) for place in (folder, tmp_path / "gone")]
    here, gone = (run.info.run_id for run in runs)
    for value in (here, here[:12]):
        assert composed(lwexp_here, "tracking.uri=sqlite:///my.db", f"resume={value}")["lr"] == 0.5
    line = one_line(lwexp_here("run", "tracking.uri=sqlite:///my.db", f"resume={gone}"))
    assert f"{tmp_path / 'gone'} is not on this machine" in line
    line = one_line(lwexp_here("run", f"resume={here}"))
    assert "no run of that id is below outputs/ or in the tracking store" in line
    assert not (tmp_path / "outputs").exists(), "asking makes no store"


def test_what_is_no_run_is_refused_with_the_newest_runs(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in enumerate(("d", "a", "c", "b")):
        folder = written(tmp_path / "outputs" / "runs" / name, {"lr": 0.5})
        os.utime(folder / "config.yaml", (1e9 - age, 1e9 - age))
    monkeypatch.setattr("lwexp.tracking.has_run", lambda folder: folder.name in "abcd")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    newest = "the newest runs are outputs/runs/d, outputs/runs/a, outputs/runs/c"
    for value, why in {
        "outputs/runs/e": "no such folder, and no MLflow run id",
        "empty": "holds no run",
        "file": "is a file; give the run's folder",
        "01234": "no such folder, and no MLflow run id",
        "0123456": "no run of that id is below outputs/",
    }.items():
        line = one_line(lwexp_here("run", "tracking=none", f"resume={value}"))
        assert line.startswith(f"resume={value}: {why}")
        assert line.endswith(newest)
    assert len(list((tmp_path / "outputs" / "runs").iterdir())) == 4


@pytest.mark.parametrize(("arguments", "line"), [
    (["-m"], "resume=outputs/runs/one: is one run, and -m starts many; resume=auto goes on with each job's own"),
    (["hydra.mode=MULTIRUN"], "resume=outputs/runs/one: is one run, and -m starts many; resume=auto goes on .*"),
    (["~unfreeze"], "~unfreeze=null: nothing can be deleted from the config of a run that goes on"),
    (["hydra.run.dir=x"], "hydra.run.dir=x: resume goes on in the run's own folder"),
    (["polcy=cosine"], "polcy=cosine: unknown option; did you mean policy\\?"),
    (["policy=cosin"], "policy=cosin: no such choice; did you mean cosine\\?"),
    (["lr=-1"], "lr=-1.*: should be greater than 0"),
])  # fmt: skip
def test_what_cannot_go_with_resume_is_refused(
    arguments: list[str], line: str, lwexp_here: RunHere, tmp_path: Path
) -> None:
    folder = written(tmp_path / "outputs" / "runs" / "one", {"lr": 0.5})
    assert re.fullmatch(line, one_line(lwexp_here("run", "resume=outputs/runs/one", *arguments)))
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


# ----------------------------------------------------------------------------------------------------------- its config


def test_the_config_is_the_runs_with_the_command_line_on_top(lwexp_here: RunHere, tmp_path: Path) -> None:
    before = composed(
        lwexp_here, "model=lstm", "model.hidden_size=8", "policy=cosine", "policy.min_lr=1e-3", "lr=0.5", "epochs=7",
        "lr_overrides={layer4.0: 0.1, fc: 0.2}", "optimizer=lamb", "freeze=[a,b]", "loss.label_smoothing=0.1",
        "checkpoint.remap=true", "checkpoint.allow_targets=[x.y]", "preview.csv=p.csv",
    )  # fmt: skip
    del before["nonfinite"], before["checkpoint"]["keep"]  # as if the version that wrote it had not had them
    written(tmp_path / "run", before)
    defaults = composed(lwexp_here)
    same = composed(lwexp_here, "resume=run")
    expected = before | {"nonfinite": "stop", "resume": str(tmp_path / "run"), "preview": defaults["preview"]}
    expected["checkpoint"] = {**before["checkpoint"], "keep": 2, "remap": False, "allow_targets": []}
    assert same == expected
    assert list(same["lr_overrides"]) == ["layer4.0", "fc"] or list(same["lr_overrides"]) == ["layer4", "fc"]

    now = composed(
        lwexp_here, "policy=linear", "policy.warmup_steps=3", "resume=run", "epochs=9", "model.hidden_size=16",
        "loss.name=NLLLoss",
    )  # fmt: skip
    linear = composed(lwexp_here, "policy=linear", "policy.warmup_steps=3")["policy"]
    assert now == expected | {
        "policy": linear, "epochs": 9, "model": {**before["model"], "hidden_size": 16},
        "loss": {**before["loss"], "name": "NLLLoss"},
    }  # fmt: skip


def test_a_preview_shows_the_plan_of_a_run(lwexp_here: RunHere, tmp_path: Path) -> None:
    model = {"source": "lstm", "hidden_size": 8, "num_layers": 2, "dropout": 0.0, "bidirectional": False}
    written(tmp_path / "run", {"model": model, "lr": 0.125, "preview": {"csv": "no.csv"}})
    outcome = lwexp_here("preview", "resume=run")
    assert outcome.code == 0, outcome.err
    assert "1.250000e-01" in outcome.out
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]
    assert not (tmp_path / "no.csv").exists()


def test_the_order_of_overrides_is_that_of_the_first_start(lwexp_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.yaml").write_text("defaults: [config, _self_]\nlr_overrides: {lstm: 0.1}\n")
    options = ["--config-dir", "mine", "--config-name", "own", *RUN, "lr_overrides={lstm.bias_ih_l0: 0.2}"]
    outcome = lwexp_here("run", *options, "max_steps=1")
    assert outcome.code == 0, outcome.err
    kept = OmegaConf.load(only_run(tmp_path) / "config.yaml")
    assert list(kept.lr_overrides) == ["lstm.bias_ih_l0", "lstm"]


def test_an_address_whose_password_was_not_kept_is_asked_for(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = {"name": "mlflow", "uri": "postgresql://anna:***@db:5432/runs", "experiment": "mine", "timeout": 8.0,
                "flush_timeout": 60.0}  # fmt: skip
    written(tmp_path / "run", {"tracking": tracking})
    line = one_line(lwexp_here("run", "resume=run"))
    assert line.startswith("tracking.uri=postgresql://anna:***@db:5432/runs: the secret in it was not kept")
    again = composed(lwexp_here, "resume=run", "tracking.uri=sqlite:///my.db")["tracking"]
    assert again == {**tracking, "uri": "sqlite:///my.db"}
    assert composed(lwexp_here, "resume=run", "tracking=none")["tracking"] == {"name": "none"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///my.db")
    assert composed(lwexp_here, "resume=run")["tracking"] == {**tracking, "uri": None}


# ------------------------------------------------------------------------------------------------------------- security

WRITES = """
import pathlib
pathlib.Path("executed").touch()
import torch

class Net(torch.nn.Module):
    def __init__(self, *, num_classes, in_chans):
        super().__init__()
        self.body, self.head = torch.nn.Conv2d(in_chans, 2, 3), torch.nn.Linear(2, num_classes)

    def forward(self, x):
        return self.head(self.body(x).mean(dim=(2, 3)))

def halves(model):
    names = [name for name, _ in model.named_parameters()]
    return [("late", names[2:]), ("early", names[:2])]
"""


@pytest.fixture
def evil(lwexp_here: RunHere, tmp_path: Path) -> Path:
    """A config that names code in the current folder, which leaves a file when it is imported."""
    (tmp_path / "evil.py").write_text(WRITES, encoding="utf-8")
    sys.modules.pop("evil", None)
    values = composed(lwexp_here, *RUN[3:], "model=custom", "model._target_=evil.Net", "data.image_size=8")
    values["grouping"] = {"name": "custom", "_target_": "evil.halves"}
    return written(tmp_path / "run", values)


def test_code_that_a_config_names_runs_only_where_the_command_line_allows_it(
    lwexp_here: RunHere, evil: Path, tmp_path: Path
) -> None:
    values = OmegaConf.load(evil / "config.yaml")
    values.checkpoint.allow_targets = ["evil.Net", "evil.halves"]  # of the file itself: counts for nothing
    OmegaConf.save(values, evil / "config.yaml")
    for extra in ([], ["model._target_=evil.Net"], ["checkpoint.allow_targets=[evil.Net]"]):
        line = one_line(lwexp_here("run", "resume=run", *extra))
        assert "the run's config would execute " in line
        assert "evil.halves" in line
        assert not (tmp_path / "executed").exists()
        option = shlex.split(line.partition("; allow it with ")[2])
    assert option == ["checkpoint.allow_targets=[evil.Net,evil.halves]"]
    assert one_line(lwexp_here("preview", "resume=run")).startswith("checkpoint.allow_targets=[]: ")
    assert lwexp_here("run", "resume=run", *option, "max_steps=1").code == 0
    assert (tmp_path / "executed").exists()


def test_what_is_named_again_or_chosen_anew_is_allowed(lwexp_here: RunHere, evil: Path) -> None:
    given = ["model._target_=evil.Net", "grouping._target_=evil.halves"]
    assert composed(lwexp_here, "resume=run", *given)["model"]["_target_"] == "evil.Net"
    assert composed(lwexp_here, "resume=run", "model=lstm", "grouping=top_module")["model"]["source"] == "lstm"


@pytest.mark.parametrize("values", [
    {"model": {"source": "custom", "target": "evil.Net"}},
    {"decay": {"name": "custom", "_target_": "evil.f"}},
    {"policy": {"name": "linear", "deep": {"list": [1, {"_target_": "evil.f"}]}}},
    {"model": {"source": "huggingface", "name": "x", "trust_remote_code": True}},
    {"loss": {"options": {"_target_": "evil.f"}}},
], ids=["alias", "decay", "nested", "remote_code", "loss"])  # fmt: skip
def test_code_is_found_wherever_a_config_names_it(values: dict[str, Any], lwexp_here: RunHere, tmp_path: Path) -> None:
    written(tmp_path / "run", values)
    line = one_line(lwexp_here("run", "resume=run"))
    assert line.startswith("checkpoint.allow_targets=[]: the run's config would execute ")
    assert (
        lwexp_here("run", "resume=run", *shlex.split(line.partition("; allow it with ")[2]), "--cfg", "job").code == 0
    )


@pytest.mark.parametrize(("text", "why"), [
    ("lr: !!python/object/apply:pathlib.Path.touch [executed]", "cannot be read"),
    ("a: [", "cannot be read"),
    ("- 1", "is no config of a run"),
    ("", "is no config of a run"),
    ("a: &x [*x]", "cannot be read"),
    ("data: {name: '${oc.env:SECRET}'}", r"refers to something else: data.name=\$\{oc.env:SECRET\}"),
    ("hydra: {callbacks: {x: {_target_: evil.f}}}", "has a part 'hydra'"),
    ("defaults: [model: lstm]", "has a part 'defaults'"),
    ("model: {defaults: [lstm]}", "has a part 'defaults'"),
    ("model: resnet18", "a group is not a section"),
])  # fmt: skip
def test_a_file_that_is_no_plain_config_is_refused(
    text: str, why: str, lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(text, encoding="utf-8")
    line = one_line(lwexp_here("run", "resume=run"))
    assert re.match(rf"resume={re.escape(str(tmp_path))}/run: its config.yaml .*{why}|.* {why}", line)
    assert "hunter2" not in line
    assert not (tmp_path / "executed").exists()


# ----------------------------------------------------------------------------------------------- what a folder may hold


def test_auto_starts_anew_goes_on_and_leaves_a_finished_run_alone(
    lwexp_here: RunHere, stop_after: Callable[[int | None], None], tmp_path: Path
) -> None:
    options = [*RUN, "hydra.run.dir=here", "resume=auto"]
    stop_after(3)
    assert lwexp_here("run", *options).code == 130
    assert (has_run(tmp_path / "here"), ended(tmp_path / "here")) == (True, "KILLED")
    stop_after(None)
    outcome = lwexp_here("run", *options)
    assert outcome.code == 0, outcome.err
    assert ended(tmp_path / "here") == "FINISHED"
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "here").glob("*.safetensors")}
    best = json.loads((tmp_path / "here" / "result.json").read_text())["val/accuracy"]
    for command in (options, ["resume=here"]):
        outcome = lwexp_here("run", *command)
        assert outcome.code == 0, outcome.err
        assert (
            outcome.out
            == f"the run in {tmp_path / 'here'} had finished, with a best validation accuracy of {best:.2%}\n"
        )
    line = one_line(lwexp_here("run", *options, "lr=0.5", "checkpoint.remap=true"))
    assert line.startswith("lr=0.5: the run was made with other values: lr was 0.001, is 0.5; it has finished")
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "here").glob("*.safetensors")}


def test_from_another_folder_it_goes_on_in_the_same_store_with_the_same_files(
    lwexp_here: RunHere, stop_after: Callable[[int | None], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.save({"head.bias": torch.zeros(10)}, tmp_path / "head.pt")  # a path that counts from where the run began
    options = [option for option in RUN if option != "tracking=none"]
    weights = ["weights=checkpoint", "weights.path=head.pt", "weights.strict=false"]
    monkeypatch.setattr("lwexp.models.weights._check_same_model", lambda *_: None)
    stop_after(2)
    assert lwexp_here("run", *options, *weights, "hydra.run.dir=outputs/runs/mine").code == 130
    stop_after(None)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = lwexp_here("run", "resume=../outputs/runs/mine")
    assert outcome.code == 0, outcome.err
    assert list((tmp_path / "elsewhere").iterdir()) == []
    uri = f"sqlite:///{tmp_path}/outputs/mlflow.db"
    assert f"tracking.uri={uri}" in outcome.out  # the page of that store, not of one here
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("lwexp").experiment_id])
    assert run.info.status == "FINISHED"
    assert {row.step for row in client.get_metric_history(run.info.run_id, "train/loss")} == set(range(6))


def test_a_sweep_goes_on_with_each_jobs_own_run(
    lwexp_here: RunHere, stop_after: Callable[[int | None], None], tmp_path: Path
) -> None:
    options = ["-m", *RUN, "max_steps=2", "seed=0,1", "sweep.isolate=false", "hydra.sweep.dir=here"]
    stop_after(3)
    outcome = lwexp_here("run", *options)
    assert outcome.code == 130
    (told,) = re.findall(r"carry on with: python -m lwexp.run (.*)", outcome.out)
    assert told == "-m sweep.resume=here"
    assert [ended(tmp_path / "here" / name) for name in "01"] == ["FINISHED", "KILLED"]
    stop_after(None)
    outcome = lwexp_here("run", *shlex.split(told))
    assert outcome.code == 0, outcome.err
    assert [ended(tmp_path / "here" / name) for name in "01"] == ["FINISHED", "FINISHED"]
    assert "2 jobs, 1 finished before" in outcome.out
    line = one_line(lwexp_here("run", *options))
    here = tmp_path / "here"
    assert line == f"hydra.sweep.dir={here}: holds a sweep already; sweep.resume={here} carries it on"
    assert lwexp_here("run", *options, "resume=auto").code == 0


def test_a_folder_with_a_run_is_refused_without_resume(lwexp_here: RunHere, killed: Path) -> None:
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    line = one_line(lwexp_here("run", *RUN, f"hydra.run.dir={killed}", "seed=5"))
    assert line.startswith(f"hydra.run.dir={killed}: holds a run already; resume=auto goes on with it")
    assert before == {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}


def test_the_store_has_one_run_that_ends_well(
    lwexp_here: RunHere, stop_after: Callable[[int | None], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "KILLED_SECONDS", 60.0)  # the tables of a new store take time on a busy machine
    options = [option for option in RUN if option != "tracking=none"]
    stop_after(2)
    outcome = lwexp_here("run", *options)
    assert outcome.code == 130, outcome.err
    assert "metric rows of run" in outcome.out, outcome.out
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    (experiment,) = (found for found in client.search_experiments() if found.name == "lwexp")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"
    stop_after(None)
    outcome = lwexp_here("run", f"resume={run.info.run_id[:8]}", "device=cpu")
    assert outcome.code == 0, outcome.err
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["lwexp.resumed"] == "step 0 with device=cpu"
    assert [row.step for row in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(6))


def test_a_moved_run_goes_on_where_it_is_now(lwexp_here: RunHere, killed: Path, tmp_path: Path) -> None:
    moved = tmp_path / "new place"
    shutil.move(killed, moved)
    outcome = lwexp_here("run", "resume=new place")
    assert outcome.code == 0, outcome.err
    assert ended(moved) == "FINISHED"
    assert not killed.exists()


def test_a_second_process_in_the_folder_is_refused(
    lwexp_here: RunHere, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "_LOCK_SECONDS", 0.1)
    config = (killed / "config.yaml").read_bytes()
    with Lock(killed / "journal.lock") as lock:
        assert lock.acquire()
        outcome = lwexp_here("run", f"resume={killed}", "device=cpu")
    assert one_line(outcome, 1) == f"another process is running in {killed}"
    assert (killed / "config.yaml").read_bytes() == config
    assert lwexp_here("run", f"resume={killed}").code == 0


def test_the_config_is_kept_before_the_record_is_begun(
    lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = []

    def start(*arguments: Any, folder: Path, **options: Any) -> Any:
        kept.append(OmegaConf.load(folder / "config.yaml").lr)
        raise RuntimeError

    monkeypatch.setattr(job, "start", start)
    with pytest.raises(RuntimeError):
        lwexp_here("run", *RUN, "lr=0.5", "hydra.run.dir=here")
    assert kept == [0.5]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert lwexp_here("run", "resume=here", "max_steps=1").code == 0, "what was killed there can go on"


@pytest.mark.parametrize("options", [
    ["data=image_folder", "data.path=nowhere"],
    ["model=resnet19"],
    ["batch_size=100000"],
])  # fmt: skip
def test_a_mistake_that_only_data_or_model_show_leaves_no_folder(
    options: list[str], lwexp_here: RunHere, tmp_path: Path
) -> None:
    one_line(lwexp_here("run", *RUN[5:], *options))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_users_own_stays_after_a_mistake(lwexp_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    one_line(lwexp_here("run", *RUN, "batch_size=100000", "hydra.run.dir=mine"))
    assert (tmp_path / "mine").is_dir()


# --------------------------------------------------------------------------------------------------- values that differ


def test_a_value_that_changes_the_numbers_is_refused_unless_asked_for(lwexp_here: RunHere, killed: Path) -> None:
    command = [f"resume={killed}", "lr=0.5", "batch_size=128", "max_steps=2"]
    line = one_line(lwexp_here("run", *command))
    assert line == (
        "lr=0.5: the run was made with other values: lr was 0.001, is 0.5, max_steps was 6, is 2, "
        "batch_size was 256, is 128; checkpoint.remap=true goes on with the new"
    )
    assert ended(killed) == "KILLED"
    outcome = lwexp_here("run", *command, "checkpoint.remap=true")
    assert outcome.code == 0, outcome.err
    assert OmegaConf.load(killed / "config.yaml").batch_size == 128
    assert json.loads((killed / "resumed.json").read_text()) == [
        "step 0 with lr=0.5 max_steps=2 batch_size=128 checkpoint.remap=true"
    ]


def test_values_that_leave_the_numbers_alone_may_differ(lwexp_here: RunHere, killed: Path) -> None:
    outcome = lwexp_here(
        "run", f"resume={killed}", "device=cpu", "progress=true", "checkpoint.keep=5", "data.workers=0", "tracking=none"
    )
    assert outcome.code == 0, outcome.err
    assert json.loads((killed / "resumed.json").read_text()) == [
        "step 0 with data.workers=0 device=cpu progress=true checkpoint.keep=5"
    ]


@pytest.mark.parametrize(("before", "now", "key"), [
    ({"lr_overrides": {"a": 0.1, "b": 0.2}}, {"lr_overrides": {"b": 0.2, "a": 0.1}}, "lr_overrides"),
    ({"policy": {"name": "x"}}, {"policy": {"name": "x", "k": 1}}, "policy.k"),
    ({"policy": {"name": "x", "k": 1}}, {"policy": {"name": "x"}}, "policy.k"),
    ({"freeze": []}, {"freeze": ["a"]}, "freeze"),
    ({"loss": {"name": "a"}}, {"loss": {"name": "a", "label_smoothing": 0.1}}, "loss.label_smoothing"),
    ({}, {"accumulate": 2}, "accumulate"),
])  # fmt: skip
def test_every_difference_is_seen(before: dict[str, Any], now: dict[str, Any], key: str) -> None:
    defaults = folder._with_defaults({})
    complete = {**defaults, **now, "loss": {**defaults["loss"], "name": "a", **now.get("loss", {})}}
    before = {"loss": {"name": "a"}, **before}
    with pytest.raises(ConfigError) as refused:
        folder.changes(before, complete, remap=False)
    assert refused.value.key == key
    assert len(folder.changes(before, complete, remap=True)) == 1


def test_a_key_that_is_new_in_this_version_is_no_difference() -> None:
    now = folder._with_defaults({"policy": {"name": "constant"}})
    before = {key: value for key, value in now.items() if key not in ("nonfinite", "checkpoint", "unfreeze")}
    assert folder.changes(before, now, remap=False) == []


def test_compile_may_differ_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    now = folder._with_defaults({})
    assert folder.changes(now, {**now, "compile": True}, remap=False) == ["compile=true"]
    assert "compile=true differs" in caplog.text


def test_the_printed_command_allows_the_code_of_the_config(tmp_path: Path) -> None:
    values = {"model": {"_target_": "a.B"}, "grouping": {"_target_": "a.c"}, "decay": {"name": "linear"}}
    words = shlex.split(resume.command(tmp_path / "runs" / "a b", tmp_path, values))
    assert words == ["python", "-m", "lwexp.run", "resume=runs/a b", "checkpoint.allow_targets=[a.B,a.c]"]
    assert resume.command(Path("/x/y"), tmp_path, {}) == "python -m lwexp.run resume=/x/y"


# ---------------------------------------------------------------------------- the same numbers as without a disturbance

LONG = [*RUN[:3], "batch_size=32", "epochs=3", "max_steps=70", "progress=false", "tracking=none", "model.dropout=0.2",
        "checkpoint.every_steps=3", "device=cpu"]  # fmt: skip
DISTURBED = {
    "augmented": ["policy=cosine", "policy.warmup_steps=10"],
    "workers": ["data.workers=2"],
    "unfreezing": ["unfreeze.every_steps=20", "grouping=per_parameter", "optimizer=adamw", "no_weight_decay=true"],
    "plateau": ["policy=plateau", "policy.patience=0", "accumulate=2", "max_steps=40"],
}


def rows(folder: Path) -> dict[tuple[str, int], float]:
    """Every metric's value at every step in the journal; each is there once."""
    found: dict[tuple[str, int], float] = {}
    for entry in Reader(folder / "journal.lwexp").entries():
        if entry.kind == "rows":
            for key, value in zip(entry.value.keys, entry.value.values, strict=True):
                assert (key, entry.value.step) not in found
                found[key, entry.value.step] = value
    return found


def same(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "best.safetensors"):
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert rows(one) == rows(other)
    assert (one / "result.json").read_text() == (other / "result.json").read_text()


def test_interrupted_in_the_middle_of_an_epoch_it_ends_with_the_same_numbers(
    lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = [*RUN, "unfreeze.every_steps=2", "model.dropout=0.2"]
    assert lwexp_here("run", *options, "hydra.run.dir=whole").code == 0
    real = JournalTracker.log

    def log(self: JournalTracker, metrics: Any, step: int) -> None:
        real(self, metrics, step)
        if step == 4 and "train/loss" in metrics:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(JournalTracker, "log", log)
    outcome = lwexp_here("run", *options, "hydra.run.dir=part")
    assert outcome.code == 130, outcome.err
    (told,) = re.findall(r"go on with: python -m lwexp.run (.*)", outcome.out)
    monkeypatch.setattr(JournalTracker, "log", real)
    outcome = lwexp_here("run", *shlex.split(told))
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "part" / "resumed.json").read_text()) == ["step 5"]
    same(tmp_path / "whole", tmp_path / "part")


GROUPING = """
def mine(model):
    names = [name for name, _ in model.named_parameters()]
    return [("late", names[{cut}:]), ("early", names[:{cut}])]
"""


def test_a_plan_that_has_changed_leaves_the_run_as_it_ended_or_is_taken_by_name(
    lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    grouping = [*RUN, "grouping=custom", "grouping._target_=mine.mine", "checkpoint.every_steps=1"]
    (tmp_path / "mine.py").write_text(GROUPING.format(cut=2), encoding="utf-8")
    real = JournalTracker.log

    def log(self: JournalTracker, metrics: Any, step: int) -> None:
        real(self, metrics, step)
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(JournalTracker, "log", log)
    outcome = lwexp_here("run", *grouping, "hydra.run.dir=here")
    assert outcome.code == 130, outcome.err
    monkeypatch.setattr(JournalTracker, "log", real)
    (tmp_path / "mine.py").write_text(GROUPING.format(cut=4) + "# longer", encoding="utf-8")
    sys.modules.pop("mine")
    command = ["resume=here", "checkpoint.allow_targets=[mine.mine]"]
    config = (tmp_path / "here" / "config.yaml").read_text()
    line = one_line(lwexp_here("run", *command))
    assert line.startswith("checkpoint.remap=False: the plan is not that of the checkpoint of step 2: ")
    assert ended(tmp_path / "here") == "KILLED"
    assert (tmp_path / "here" / "config.yaml").read_text() == config
    outcome = lwexp_here("run", *command, "checkpoint.remap=true", "lr=0.5")
    assert outcome.code == 0, outcome.err
    assert rows(tmp_path / "here")["lr/00_late", 5] == 0.5
    sys.modules.pop("mine")


def test_a_run_that_breaks_prints_how_to_go_on_where_it_has_a_checkpoint(lwexp_here: RunHere) -> None:
    for every, told in ((None, False), (1, True)):
        options = [
            "optimizer=sgd",
            "lr_events=[{step: 3, group: 0, lr: 1e38}]",
            f"checkpoint.every_steps={every or 'null'}",
        ]
        outcome = lwexp_here("run", *RUN, *options)
        assert outcome.code == 1
        assert ("go on with: " in outcome.out) is told


@pytest.mark.slow  # several processes that import torch
@pytest.mark.parametrize("name", DISTURBED)
def test_killed_at_some_step_it_ends_with_the_same_numbers(
    name: str, lwexp_command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    options = [*LONG, *DISTURBED[name], "resume=auto"]
    assert lwexp_command("run", *options, "hydra.run.dir=whole").returncode == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for kills, wanted in enumerate((6, 27)):
        command = [sys.executable, "-m", "lwexp.run", *options, "hydra.run.dir=part"]
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and not (tmp_path / f"part/checkpoints/step_{wanted:08d}.ckpt").exists():
                time.sleep(0.005)
            process.kill()
        assert process.returncode == -signal.SIGKILL, f"it had ended before kill {kills}"
    done = lwexp_command("run", "resume=part")
    assert done.returncode == 0, done.stderr
    same(tmp_path / "whole", tmp_path / "part")


@pytest.mark.slow
def test_terminated_it_goes_on_with_the_printed_command(
    lwexp_command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "lwexp.run", *LONG, "hydra.run.dir=a b", "checkpoint.every_steps=5"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (tmp_path / "a b/checkpoints/step_00000005.ckpt").exists():
            time.sleep(0.005)
        process.terminate()
        out, _ = process.communicate()
    assert process.returncode == 143
    assert ended(tmp_path / "a b") == "KILLED"
    (told,) = re.findall(r"go on with: python -m lwexp.run (.*)", out)
    done = lwexp_command("run", *shlex.split(told))
    assert done.returncode == 0, done.stderr
    assert ended(tmp_path / "a b") == "FINISHED"
