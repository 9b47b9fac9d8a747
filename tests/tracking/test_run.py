"""Starting a run: what a store refuses, what its record holds, and continuing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lwexp.config.schema import MLflowConfig, NoTrackingConfig
from lwexp.errors import ConfigError, RunError
from lwexp.tracking import NoTracker, has_run, open_hint, prepare, run_status
from lwexp.tracking import tracker as tracker_module
from lwexp.tracking.delivery_state import FILE as STATE
from lwexp.tracking.journal import FILE as JOURNAL
from lwexp.tracking.keys import MAX_PARAM, MAX_TAG
from tests.helpers.commands import ROOT
from tests.helpers.fake_mlflow import FakeMLflow
from tests.helpers.tracked_runs import (
    NONE,
    SECRET,
    Begin,
    away,
    back,
    begin_in,
    journal_steps,
    mlflow_config,
    reader,
    steps,
    until,
)


@pytest.mark.parametrize(
    ("status", "body", "hint"),
    [
        (401, "You are not authenticated.", "MLFLOW_TRACKING_USERNAME"),
        (403, "Permission denied", "MLFLOW_TRACKING_TOKEN"),
        (404, "<html>\n<h1>Not found</h1></html>", "may not be an MLflow server"),
    ],
)
def test_a_server_that_refuses_ends_the_run_before_it_begins(
    status: int, body: str, hint: str, server: FakeMLflow, tmp_path: Path
) -> None:
    server.fail, server.body = status, body
    uri = server.uri.replace("http://", f"http://anna:{SECRET}@")
    with pytest.raises(RunError) as caught:
        begin_in(mlflow_config(uri), tmp_path / "run")
    message = str(caught.value)
    assert "http://anna:***@127.0.0.1" in message
    assert hint in message
    assert "\n" not in message
    assert SECRET not in message
    assert not has_run(tmp_path / "run")
    assert not (tmp_path / "run" / JOURNAL).exists()


def test_a_deleted_experiment_is_a_mistake_in_one_line_before_the_run(
    begin: Begin, store: MLflowConfig, tmp_path: Path
) -> None:
    client = reader(store)
    made = client.create_experiment("mine")
    client.delete_experiment(made)
    for _ in range(2):
        with pytest.raises(ConfigError, match=rf"^tracking.experiment=mine: was deleted; .*--experiment-id {made}"):
            begin(folder="run")
        assert not (tmp_path / "run" / JOURNAL).exists()
    assert client.search_runs([made]) == []
    client.restore_experiment(made)
    begin(folder="run").finish("FINISHED")  # the refusal of before is no answer to this one
    (run,) = client.search_runs([made])
    assert run.info.status == "FINISHED"


def test_a_folder_in_use_is_refused(begin: Begin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tracker_module, "LOCK_SECONDS", 0.1)
    tracker = begin(folder="run")
    with pytest.raises(RunError, match=rf"^another process is running in {tmp_path}/run$"):
        begin(folder="run")
    tracker.log({"a": 1.0}, 0)  # undisturbed
    assert journal_steps(tmp_path / "run") == [0]


def test_a_folder_that_cannot_be_made_is_refused(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=rf"^{tmp_path}/file/run cannot be used: Not a directory$"):
        begin(folder="file/run")


# ------------------------------------------------------------------------------------------------- the run's record


def test_a_run_has_its_name_params_tags_description_and_kind(begin: Begin, store: MLflowConfig, tmp_path: Path) -> None:
    params = {f"key.{index}": index for index in range(250)}
    params |= {"long": "x" * 7000, "none": None, "flag": True, "nested": {"fc": 0.1}, "odd[*]": "1", "text": "a"}  # type: ignore[dict-item]
    tags = {"a": "b", "long": "y" * 9000}
    tracker = begin(run_name="my run", params=params, tags=tags, description="# Plan\n" * 2000, base=tmp_path)
    tracker.tag({"later": "c"})
    tracker.finish("FINISHED")

    client = reader(store)
    run = client.get_run(str(tracker.run_id))
    assert run.info.run_name == tracker.run_name == "my run"
    assert run.info.status == "FINISHED"
    assert run.info.end_time >= run.info.start_time
    assert len(run.data.params) == len(params)
    assert run.data.params["key.249"] == "249"
    assert run.data.params["long"] == "x" * (MAX_PARAM - 1) + "…"
    assert [run.data.params[key] for key in ("none", "flag", "nested", "text")] == ["null", "true", '{"fc": 0.1}', "a"]
    assert run.data.params["odd___"] == "1"
    tags = run.data.tags
    assert (tags["a"], tags["later"], tags["mlflow.runName"]) == ("b", "c", "my run")
    assert tags["long"] == "y" * (MAX_TAG - 1) + "…"
    assert tags["mlflow.note.content"].startswith("# Plan\n")
    assert len(tags["mlflow.note.content"]) == MAX_TAG
    assert tags["mlflow.user"]
    assert tags["mlflow.source.name"]
    experiment = client.get_experiment_by_name("mine")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert experiment.artifact_location == (tmp_path / "outputs" / "mlartifacts").as_uri()


def test_an_experiment_of_another_kind_becomes_one_of_model_training(begin: Begin, store: MLflowConfig) -> None:
    client = reader(store)
    made = client.create_experiment("mine", tags={"mlflow.experimentKind": "genai_development_inferred"})
    tracker = begin()
    assert client.get_run(str(tracker.run_id)).info.experiment_id == made
    assert client.get_experiment(made).tags["mlflow.experimentKind"] == "custom_model_development"


def test_artifacts_lie_below_outputs(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "rates.png").write_bytes(b"png")
    tracker = begin(folder="run")
    (tmp_path / "run" / "config.yaml").write_text("lr: 1")
    (tmp_path / "run" / "gone.yaml").write_text("lr: 1")
    tracker.artifact(tmp_path / "run" / "config.yaml")
    tracker.artifact(tmp_path / "plots", "pictures")
    with pytest.raises(RunError, match=r"missing.txt does not exist"):
        tracker.artifact(tmp_path / "missing.txt")
    tracker.finish("FINISHED")
    folder = tmp_path / "outputs" / "mlartifacts" / str(tracker.run_id) / "artifacts"
    assert (folder / "config.yaml").read_text() == "lr: 1"
    assert (folder / "pictures" / "rates.png").read_bytes() == b"png"


def test_a_file_that_was_removed_since_holds_up_nothing(begin: Begin, store: MLflowConfig, tmp_path: Path) -> None:
    tracker = begin(folder="run")
    away(store)
    tracker.log({"a": 1.0}, 0)
    (tmp_path / "note").touch()
    tracker.artifact(tmp_path / "note")
    (tmp_path / "note").unlink()
    tracker.log({"a": 1.0}, 1)
    back(store)
    tracker.finish("FINISHED")
    assert steps(store, tracker.run_id, "a") == [0, 1]


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_does_not_finish_has_its_status_and_reason(begin: Begin, store: MLflowConfig, status: Any) -> None:
    tracker = begin()
    tracker.log({"a": 1.0}, 0)
    tracker.finish(status, "because")
    tracker.finish("FINISHED")  # the first one counts
    run = reader(store).get_run(str(tracker.run_id))
    assert (run.info.status, run.data.tags["lwexp.reason"], run.data.metrics) == (status, "because", {"a": 1.0})
    assert run_status(tracker.folder) == status
    with pytest.raises(RunError, match="has ended"):
        tracker.log({"a": 1.0}, 1)


def test_a_run_is_continued_where_its_folder_holds_one(begin: Begin, store: MLflowConfig, tmp_path: Path) -> None:
    first = begin(folder="run", run_name="first", params={"lr": 0.1})
    assert has_run(tmp_path / "run")
    assert run_status(tmp_path / "run") is None
    for step in range(5):
        first.log({"a": 1.0}, step)
    first.finish("FAILED", "because")
    second = begin(folder="run", run_name="second", params={"lr": 0.2})
    assert (second.run_id, second.run_name) == (first.run_id, "first")
    client = reader(store)
    until(lambda: client.get_run(str(first.run_id)).info.status == "RUNNING")
    for step in range(3, 8):
        second.log({"a": 2.0}, step)
    second.finish("FINISHED")
    run = client.get_run(str(first.run_id))
    assert (run.info.status, run.data.params) == ("FINISHED", {"lr": "0.1"})
    assert "lwexp.reason" not in run.data.tags
    rows = sorted(client.get_metric_history(str(first.run_id), "a"), key=lambda row: row.step)
    assert [(row.step, row.value) for row in rows] == [*((s, 1.0) for s in range(5)), *((s, 2.0) for s in (5, 6, 7))]


def test_a_run_continued_on_another_store_is_whole_there(
    begin: Begin, store: MLflowConfig, server: FakeMLflow, tmp_path: Path
) -> None:
    first = begin(folder="run", params={"lr": 0.1})
    for step in range(5):
        first.log({"a": 1.0}, step)
    first.finish("KILLED")
    run_id = first.run_id
    second = begin_in(mlflow_config(server.uri), tmp_path / "run")
    second.log({"a": 2.0}, 5)
    second.finish("FINISHED")
    (run,) = server.runs.values()
    assert (run["info"]["status"], run["params"]) == ("FINISHED", {"lr": "0.1"})
    assert [row["step"] for row in run["rows"]] == list(range(6))
    assert second.run_id == run["info"]["run_id"] != run_id
    assert steps(store, run_id, "a") == list(range(5))


def test_jobs_are_children_of_their_parent_run(begin: Begin, store: MLflowConfig, tmp_path: Path) -> None:
    parent = begin(folder="sweep", run_name="sweep", params={"mult": "0.9,1"})
    child = begin(folder="sweep/0", parent=tmp_path / "sweep")
    child.finish("FINISHED")
    client = reader(store)
    assert client.get_run(str(parent.run_id)).info.status == "RUNNING"
    parent.finish("FINISHED")
    run = client.get_run(str(parent.run_id))
    assert (run.info.status, run.info.run_name, run.data.params) == ("FINISHED", "sweep", {"mult": "0.9,1"})
    assert client.get_run(str(child.run_id)).data.tags["mlflow.parentRunId"] == parent.run_id


def test_no_tracking_keeps_its_record_in_the_folder_only(tmp_path: Path) -> None:
    tracker = begin_in(NONE, tmp_path / "run", params={"a": 1}, base=tmp_path)
    tracker.log({"a": 1.0}, 0)
    tracker.tag({"a": "b"})
    tracker.finish("FINISHED")
    assert (tracker.run_id, tracker.run_name, tracker.where) == (None, "run", "none")
    assert "nothing" in open_hint(NONE)
    assert prepare(NONE)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert journal_steps(tmp_path / "run") == [0]
    assert not (tmp_path / "run" / STATE).exists()
    assert run_status(tmp_path / "run") == "FINISHED"


def test_a_tracker_for_trainings_inside_a_run_keeps_nothing(tmp_path: Path) -> None:
    tracker = NoTracker("r")
    tracker.log({"a": 1.0}, 0)
    tracker.artifact(tmp_path / "missing")
    tracker.tag({"a": "b"})
    tracker.finish("FINISHED")
    assert (tracker.run_id, tracker.run_name, tracker.position()) == (None, "r", 0)
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------------- conf


def test_the_files_of_the_config_group_are_what_the_schema_takes() -> None:
    conf = ROOT / "conf" / "tracking"
    mlflow, none = (dict(OmegaConf.load(conf / f"{name}.yaml")) for name in ("mlflow", "none"))  # type: ignore[arg-type]
    assert MLflowConfig.model_validate(mlflow) == mlflow_config(None, None, flush_timeout=60.0)
    assert NoTrackingConfig.model_validate(none).name == "none"
