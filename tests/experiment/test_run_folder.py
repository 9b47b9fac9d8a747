"""What a folder may hold when a run begins or is resumed there, and how its config may differ."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from omegaconf import OmegaConf

from lwexp.errors import ConfigError
from lwexp.experiment import changes, record, saved_config
from lwexp.host.lock import Lock
from lwexp.models.lstm import LSTMClassifier
from lwexp.tracking import has_run, run_status, tracker
from tests.experiment.resumed_runs import RUN, one_line
from tests.helpers.commands import RunHere


def test_auto_starts_anew_goes_on_and_leaves_a_finished_run_alone(
    lwexp_here: RunHere, stop_after: Callable[[int | None], None], tmp_path: Path
) -> None:
    options = [*RUN, "hydra.run.dir=here", "resume=auto"]
    stop_after(3)
    assert lwexp_here("run", *options).code == 130
    assert (has_run(tmp_path / "here"), run_status(tmp_path / "here")) == (True, "KILLED")
    stop_after(None)
    outcome = lwexp_here("run", *options)
    assert outcome.code == 0, outcome.err
    assert run_status(tmp_path / "here") == "FINISHED"
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "here").glob("*.safetensors")}
    best = json.loads((tmp_path / "here" / "result.json").read_text())["val/accuracy"]
    for command in (options, ["resume=here"]):
        outcome = lwexp_here("run", *command)
        assert outcome.code == 0, outcome.err
        assert (
            outcome.out
            == f"the run in {tmp_path / 'here'} is finished, with a best validation accuracy of {best:.2%}\n"
        )
    line = one_line(lwexp_here("run", *options, "lr=0.5", "checkpoint.remap=true"))
    assert line.startswith("lr=0.5: the run was made with other values: lr was 0.001, is 0.5; it is finished")
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "here").glob("*.safetensors")}


def test_from_another_folder_it_goes_on_in_the_same_store_with_the_same_files(
    lwexp_here: RunHere, stop_after: Callable[[int | None], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = LSTMClassifier(in_chans=1, img_size=8, num_classes=10, hidden_size=8)
    torch.save(network.state_dict(), tmp_path / "weights.pt")  # a path relative to where the run was started
    options = [option for option in RUN if option != "tracking=none"]
    weights = ["weights=checkpoint", "weights.path=weights.pt"]
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
    (told,) = re.findall(r"resume with: python -m lwexp.run (.*)", outcome.out)
    assert told == "-m sweep.resume=here"
    assert [run_status(tmp_path / "here" / name) for name in "01"] == ["FINISHED", "KILLED"]
    stop_after(None)
    outcome = lwexp_here("run", *shlex.split(told))
    assert outcome.code == 0, outcome.err
    assert [run_status(tmp_path / "here" / name) for name in "01"] == ["FINISHED", "FINISHED"]
    assert "2 jobs, 1 finished before" in outcome.out
    line = one_line(lwexp_here("run", *options))
    here = tmp_path / "here"
    assert line == f"hydra.sweep.dir={here}: holds a sweep already; sweep.resume={here} resumes it"
    assert lwexp_here("run", *options, "resume=auto").code == 0


def test_a_folder_with_a_run_is_refused_without_resume(lwexp_here: RunHere, killed: Path) -> None:
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    line = one_line(lwexp_here("run", *RUN, f"hydra.run.dir={killed}", "seed=5"))
    assert line.startswith(f"hydra.run.dir={killed}: holds a run already; resume=auto resumes it")
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
    assert run_status(moved) == "FINISHED"
    assert not killed.exists()


def test_a_second_process_in_the_folder_is_refused(
    lwexp_here: RunHere, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "LOCK_SECONDS", 0.1)
    config = (killed / "config.yaml").read_bytes()
    with Lock(killed / "journal.lock") as lock:
        assert lock.acquire()
        outcome = lwexp_here("run", f"resume={killed}", "device=cpu")
    assert one_line(outcome, 1) == f"another process is running in {killed}"
    assert (killed / "config.yaml").read_bytes() == config
    assert lwexp_here("run", f"resume={killed}").code == 0


def test_the_config_is_kept_before_the_record_starts(
    lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = []

    def start(*arguments: Any, folder: Path, **options: Any) -> Any:
        kept.append(OmegaConf.load(folder / "config.yaml").lr)
        shutil.copytree(folder, tmp_path / "killed")  # as it is when the process is killed here
        raise RuntimeError

    monkeypatch.setattr(record, "start", start)
    with pytest.raises(RuntimeError):
        lwexp_here("run", *RUN, "lr=0.5", "hydra.run.dir=here")
    assert kept == [0.5]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert lwexp_here("run", "resume=killed", "max_steps=1").code == 0, "what was killed there can go on"


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


def test_a_value_that_changes_the_numbers_is_refused_unless_asked_for(lwexp_here: RunHere, killed: Path) -> None:
    command = [f"resume={killed}", "lr=0.5", "batch_size=128", "max_steps=2"]
    line = one_line(lwexp_here("run", *command))
    assert line == (
        "lr=0.5: the run was made with other values: lr was 0.001, is 0.5, max_steps was 6, is 2, "
        "batch_size was 256, is 128; checkpoint.remap=true resumes with the new"
    )
    assert run_status(killed) == "KILLED"
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
    (note,) = json.loads((killed / "resumed.json").read_text())
    assert note.startswith("step 0 with ")
    changes = {"data.workers=0", "device=cpu", "progress=true", "checkpoint.keep=5"}
    assert set(note.removeprefix("step 0 with ").split()) == changes


@pytest.mark.parametrize(("before", "now", "key"), [
    ({"lr_overrides": {"a": 0.1, "b": 0.2}}, {"lr_overrides": {"b": 0.2, "a": 0.1}}, "lr_overrides"),
    ({"policy": {"name": "x"}}, {"policy": {"name": "x", "k": 1}}, "policy.k"),
    ({"policy": {"name": "x", "k": 1}}, {"policy": {"name": "x"}}, "policy.k"),
    ({"freeze": []}, {"freeze": ["a"]}, "freeze"),
    ({"loss": {"name": "a"}}, {"loss": {"name": "a", "label_smoothing": 0.1}}, "loss.label_smoothing"),
    ({}, {"accumulate": 2}, "accumulate"),
])  # fmt: skip
def test_every_difference_is_seen(before: dict[str, Any], now: dict[str, Any], key: str) -> None:
    defaults = changes.with_defaults({})
    complete = {**defaults, **now, "loss": {**defaults["loss"], "name": "a", **now.get("loss", {})}}
    before = {"loss": {"name": "a"}, **before}
    with pytest.raises(ConfigError) as refused:
        changes.changes(before, complete, remap=False)
    assert refused.value.key == key
    assert len(changes.changes(before, complete, remap=True)) == 1


def test_a_key_that_is_new_in_this_version_is_no_difference() -> None:
    now = changes.with_defaults({"policy": {"name": "constant"}})
    before = {key: value for key, value in now.items() if key not in ("nonfinite", "checkpoint", "unfreeze")}
    assert changes.changes(before, now, remap=False) == []


def test_compile_may_differ_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    now = changes.with_defaults({})
    assert changes.changes(now, {**now, "compile": True}, remap=False) == ["compile=true"]
    assert "compile=true differs" in caplog.text


def test_the_printed_command_allows_the_code_of_the_config(tmp_path: Path) -> None:
    values = {"model": {"_target_": "a.B"}, "grouping": {"_target_": "a.c"}, "decay": {"name": "linear"}}
    words = shlex.split(saved_config.resume_command(tmp_path / "runs" / "a b", tmp_path, values))
    assert words == ["python", "-m", "lwexp.run", "resume=runs/a b", "checkpoint.allow_targets=[a.B,a.c]"]
    assert saved_config.resume_command(Path("/x/y"), tmp_path, {}) == "python -m lwexp.run resume=/x/y"
