"""The record of a run, from the training process's side and in the store, through stores and processes that fail.

The delivery process cannot be patched from here: stores fail for it as they do in life (a table that is away, a lock,
a server's answers). What needs a fault between two lines is shown with a `Delivery` in this process.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name
from omegaconf import OmegaConf

from lwexp.config.schema import MLflowConfig, NoTrackingConfig
from lwexp.errors import ConfigError, RunError
from lwexp.tracking import (
    JournalTracker,
    NoTracker,
    check_store,
    deliver_rest,
    ended,
    has_run,
    open_hint,
    prepare,
    redact_addresses,
    resolve_uri,
    safe_key,
    safe_keys,
    start,
)
from lwexp.tracking import contact as mlflow_contact
from lwexp.tracking import delivery_process as process_module
from lwexp.tracking import tracker as tracker_module
from lwexp.tracking.contact import UnreachableError
from lwexp.tracking.delivery import Delivery
from lwexp.tracking.delivery_state import FILE as PLACE
from lwexp.tracking.delivery_state import Place, read_place
from lwexp.tracking.journal import FILE as JOURNAL
from lwexp.tracking.journal import Reader
from lwexp.tracking.keys import MAX_PARAM, MAX_TAG
from lwexp.tracking.store import bounded
from tests.helpers.commands import ROOT
from tests.helpers.fake_mlflow import FakeMLflow

SECRET = "s3cr3t-Pa55"
NONE = NoTrackingConfig(name="none")
Begin = Callable[..., JournalTracker]


def mlflow_config(
    uri: str | None, experiment: str = "lwexp", timeout: float = 8.0, flush_timeout: float = 60.0
) -> MLflowConfig:
    return MLflowConfig(
        name="mlflow", uri=uri, experiment=experiment, timeout=timeout, flush_timeout=flush_timeout, rates_every=1
    )


def begin_in(config: MLflowConfig | NoTrackingConfig, folder: Path, **changes: Any) -> JournalTracker:
    given: dict[str, Any] = {"run_name": "run", "params": {}, "tags": {}, "description": "", **changes}
    return start(config, folder=folder, **given)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to make."""
    folder = tmp_path_factory.mktemp("store")
    config = mlflow_config(f"sqlite:///{folder}/mlflow.db")
    begin_in(config, folder / "first", run_name="first").finish("FINISHED")
    return folder / "mlflow.db"


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> MLflowConfig:
    """A store of the test's own, with one run in experiment lwexp."""
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    return mlflow_config(f"sqlite:///{tmp_path}/outputs/mlflow.db", experiment="mine")


@pytest.fixture
def begin(store: MLflowConfig, tmp_path: Path) -> Iterator[Begin]:
    """Starts runs in `store`, and ends those that a test leaves open."""
    begun: list[JournalTracker] = []

    def begin_run(*, flush_timeout: float = 60.0, folder: str | None = None, **changes: Any) -> JournalTracker:
        config = store.model_copy(update={"flush_timeout": flush_timeout})
        begun.append(begin_in(config, tmp_path / (folder or f"run{len(begun)}"), **changes))
        return begun[-1]

    yield begin_run
    for tracker in begun:
        tracker.finish("FAILED")


@pytest.fixture
def server() -> Iterator[FakeMLflow]:
    with FakeMLflow() as fake:
        yield fake


def reader(config: MLflowConfig) -> MlflowClient:
    return MlflowClient(tracking_uri=config.uri)


def steps(config: MLflowConfig, run_id: str | None, key: str) -> list[int]:
    return sorted(row.step for row in reader(config).get_metric_history(str(run_id), key))


def statement(config: MLflowConfig, sql: str) -> None:
    """Run `sql` on the store's file, past MLflow."""
    assert config.uri is not None
    connection = sqlite3.connect(config.uri.removeprefix("sqlite:///"), timeout=20)
    with connection:
        connection.execute(sql)
    connection.close()


def away(config: MLflowConfig) -> None:
    statement(config, "ALTER TABLE metrics RENAME TO away")


def back(config: MLflowConfig) -> None:
    statement(config, "ALTER TABLE away RENAME TO metrics")


def until(reached: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait for something to be so."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def journal_steps(folder: Path) -> list[int]:
    return [entry.value.step for entry in Reader(folder / JOURNAL).entries() if entry.kind == "rows"]


# ---------------------------------------------------------------------------------------------------------- delivery


def test_every_row_arrives_exactly_once_with_its_step_time_and_value(begin: Begin, store: MLflowConfig) -> None:
    names = [f"lr/{index:02d}_group.{index}" for index in range(70)]
    tracker = begin()
    before = time.time_ns() // 1_000_000
    for step in range(100):
        tracker.log({name: step + index / 100 for index, name in enumerate(names)}, step)
    after = time.time_ns() // 1_000_000
    tracker.finish("FINISHED")

    client = reader(store)
    for index, name in enumerate(names):
        rows = client.get_metric_history(str(tracker.run_id), name)
        assert sorted((row.step, row.value) for row in rows) == [(step, step + index / 100) for step in range(100)]
        times = [row.timestamp for row in sorted(rows, key=lambda row: row.step)]
        assert times == sorted(times)
        assert before <= times[0] <= times[-1] <= after


def test_rows_arrive_while_the_run_goes_on(begin: Begin, store: MLflowConfig) -> None:
    tracker = begin()
    tracker.log({"train/loss": 0.5}, 0)
    client = reader(store)
    until(lambda: client.get_run(str(tracker.run_id)).data.metrics == {"train/loss": 0.5})
    assert client.get_run(str(tracker.run_id)).info.status == "RUNNING"


def test_rows_go_in_calls_of_as_many_steps_as_mlflow_takes(server: FakeMLflow, tmp_path: Path) -> None:
    tracker = begin_in(NONE, tmp_path / "run")
    for step in range(40):
        tracker.log({f"lr/{index}": 1.0 for index in range(63)}, step)
    tracker.finish("FINISHED")
    Delivery(tmp_path / "run", server.uri, patience=60.0).run()
    (run,) = server.runs.values()
    assert run["calls"] == [15 * 63, 15 * 63, 10 * 63]  # of 1,000 at most


def test_values_that_are_no_numbers_survive(begin: Begin, store: MLflowConfig) -> None:
    tracker = begin()
    for step, value in enumerate([math.nan, math.inf, -math.inf, 1.0]):
        tracker.log({"train/loss": value}, step)
    tracker.finish("FINISHED")
    rows = sorted(reader(store).get_metric_history(str(tracker.run_id), "train/loss"), key=lambda row: row.step)
    largest = sys.float_info.max  # MLflow's databases hold no infinity
    assert math.isnan(rows[0].value)
    assert [row.value for row in rows[1:]] == [largest, -largest, 1.0]


def test_log_returns_while_the_store_hangs_and_nothing_is_lost(begin: Begin, store: MLflowConfig) -> None:
    tracker = begin()
    assert store.uri is not None
    connection = sqlite3.connect(store.uri.removeprefix("sqlite:///"), timeout=20, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    begun = time.monotonic()
    for step in range(2500):
        tracker.log({"a": step}, step)
    assert time.monotonic() - begun < 3
    connection.execute("ROLLBACK")
    connection.close()
    tracker.finish("FINISHED")
    assert steps(store, tracker.run_id, "a") == list(range(2500))


def test_a_metric_name_that_mlflow_refuses_is_made_safe_and_stays_distinct(begin: Begin, store: MLflowConfig) -> None:
    tracker = begin()
    tracker.log({"lr/00_a*": 1.0, "lr/00_a?": 2.0}, 0)
    tracker.log({"lr/00_a_": 3.0}, 0)  # what the first has become
    tracker.finish("FINISHED")
    metrics = reader(store).get_run(str(tracker.run_id)).data.metrics
    assert sorted(metrics.values()) == [1.0, 2.0, 3.0]


def test_how_far_the_disk_has_it(begin: Begin, tmp_path: Path) -> None:
    tracker = begin()
    before = tracker.position()
    tracker.log({"a": 1.0}, 0)
    assert before < tracker.position() == (tmp_path / "run0" / JOURNAL).stat().st_size


# ----------------------------------------------------------------------------------------------------------- failure


def test_a_store_that_fails_for_a_while_stops_nothing_and_loses_nothing(
    begin: Begin, store: MLflowConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tracker = begin()
    away(store)
    step = 0
    while read_place(tracker.folder).problem is None or len(caplog.messages) < 1:
        tracker.log({"a": 1.0, "b": 2.0}, step)
        step += 1
        time.sleep(0.02)
    back(store)
    tracker.finish("FINISHED")
    run = reader(store).get_run(str(tracker.run_id))
    assert run.info.status == "FINISHED"
    for name in "ab":
        assert steps(store, tracker.run_id, name) == list(range(step))
    assert "no such table" in caplog.messages[0]
    assert "the run goes on" in caplog.messages[0]
    assert caplog.messages[-1] == f"{2 * step} metric rows of run run delivered to {store.uri}"
    assert all("\n" not in message for message in caplog.messages)


def test_a_store_that_answers_again_is_told(
    begin: Begin, store: MLflowConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tracker = begin()
    away(store)

    def told(words: str) -> bool:
        tracker.log({"a": 1.0}, next(count))
        return any(words in message for message in caplog.messages)

    count = iter(range(10**6))
    until(lambda: told("the run goes on"))
    back(store)
    until(lambda: told("answers again"))
    assert len(caplog.messages) == 2


def test_a_store_that_is_away_at_the_start_has_all_once_it_is_there(
    server: FakeMLflow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.fail = 503
    tracker = begin_in(mlflow_config(server.uri), tmp_path / "run")
    assert tracker.run_id is None
    for step in range(10):
        tracker.log({"a": 1.0}, step)
    server.fail = None
    tracker.finish("FINISHED")
    (run,) = server.runs.values()
    assert run["info"]["run_id"] == tracker.run_id
    assert run["info"]["status"] == "FINISHED"
    assert [row["step"] for row in run["rows"]] == list(range(10))
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "the run goes on, its metrics wait in its folder" in line


def test_a_store_that_fails_for_good_is_told_in_one_line_and_sync_has_the_rest(
    begin: Begin, store: MLflowConfig, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = begin(flush_timeout=1.0)
    away(store)
    tracker.log({"a": 1.0, "b": 2.0}, 0)
    begun = time.monotonic()
    tracker.finish("FINISHED")
    assert 1.0 <= time.monotonic() - begun < 20
    tracker.finish("FINISHED")  # silent: it has been told
    lines = [message for message in caplog.messages if "lwexp.sync" in message]
    assert len(lines) == 1
    assert f"2 of 2 metric rows not delivered to {store.uri}" in lines[0]
    assert "no such table" in lines[0]
    assert lines[0].endswith(f"python -m lwexp.sync {tracker.folder}")
    assert "\n" not in lines[0]
    assert ended(tracker.folder) == "FINISHED"

    back(store)
    caplog.set_level(logging.INFO)
    deliver_rest(store, tracker.folder)
    assert "2 metric rows of run run delivered" in caplog.messages[-1]
    run = reader(store).get_run(str(tracker.run_id))
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"a": 1.0, "b": 2.0})
    length = len(caplog.messages)
    deliver_rest(store, tracker.folder)
    assert len(caplog.messages) == length


def test_killed_does_not_wait_long_for_a_store_that_hangs(
    begin: Begin, store: MLflowConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert tracker_module.KILLED_SECONDS == 10.0
    monkeypatch.setattr(tracker_module, "KILLED_SECONDS", 0.3)
    tracker = begin()
    away(store)
    tracker.log({"a": 1.0}, 0)
    begun = time.monotonic()
    tracker.finish("KILLED")
    assert time.monotonic() - begun < 10
    assert "1 of 1 metric rows not delivered" in caplog.messages[-1]
    back(store)


def test_a_run_that_is_deleted_in_the_middle_ends_with_a_line_and_keeps_its_journal(
    begin: Begin, store: MLflowConfig, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = begin()
    client = reader(store)
    client.delete_run(str(tracker.run_id))
    for step in range(5):
        tracker.log({"a": 1.0}, step)
    begun = time.monotonic()
    tracker.finish("FINISHED")
    assert time.monotonic() - begun < 30  # not flush_timeout: waiting would not help
    (line,) = [message for message in caplog.messages if "lwexp.sync" in message]
    assert "5 of 5 metric rows not delivered" in line
    assert "deleted" in line
    assert journal_steps(tracker.folder) == list(range(5))

    client.restore_run(str(tracker.run_id))
    deliver_rest(store, tracker.folder)
    assert client.get_run(str(tracker.run_id)).info.status == "FINISHED"
    assert steps(store, tracker.run_id, "a") == list(range(5))


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_server_whose_answers_fail_has_each_row_once_in_one_run(
    fault: str, server: FakeMLflow, tmp_path: Path
) -> None:
    # this server, unlike MLflow's databases, keeps a row that it is told twice
    tracker = begin_in(NONE, tmp_path / "run", params={"lr": 0.1}, tags={"a": "b"})
    for step in range(700):
        tracker.log({"a": 1.0, "b": 2.0, "c": float(step)}, step)
    tracker.finish("FAILED", "because")
    # the search for the run, its making, params, rows, tags, the end
    server.lose_writes, server.lose = {1, 3, 6, 8, 10, 12}, fault
    Delivery(tmp_path / "run", server.uri, patience=60.0).run()
    (run,) = server.runs.values()
    assert server.lost >= 5
    assert run["info"]["status"] == "FAILED"
    assert run["params"] == {"lr": "0.1"}
    assert (run["tags"]["a"], run["tags"]["lwexp.reason"]) == ("b", "because")
    for key in "abc":
        assert [row["step"] for row in run["rows"] if row["key"] == key] == list(range(700))


@pytest.mark.parametrize(
    "content", [None, "", "{", "[1]", '{"position": 1000000000}', '{"position": 77}', "at the end"]
)
def test_a_lost_or_damaged_place_makes_no_second_run_and_no_row_twice(
    content: str | None, server: FakeMLflow, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    tracker = begin_in(NONE, folder, params={"lr": 0.1})
    for step in range(2500):
        tracker.log({"a": 1.0}, step)
    tracker.finish("FINISHED")
    Delivery(folder, server.uri, patience=60.0).run()
    if content is None:
        (folder / PLACE).unlink()
    elif content == "at the end":
        place = read_place(folder)
        place.status = None
        place.save(folder)
    else:
        (folder / PLACE).write_text(content)
    Delivery(folder, server.uri, patience=60.0).run()
    assert read_place(folder).status == "FINISHED"
    tracker = begin_in(NONE, folder)
    for step in range(2400, 3000):
        tracker.log({"a": 1.0}, step)
    tracker.finish("FINISHED")
    Delivery(folder, server.uri, patience=60.0).run()
    (run,) = server.runs.values()
    assert [row["step"] for row in run["rows"]] == list(range(3000))
    assert run["info"]["status"] == "FINISHED"


# --------------------------------------------------------------------------------------------------------- refusals


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
    monkeypatch.setattr(tracker_module, "_LOCK_SECONDS", 0.1)
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
    with pytest.raises(RunError, match=r"missing.txt .* does not exist"):
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
    assert ended(tracker.folder) == status
    with pytest.raises(RunError, match="has ended"):
        tracker.log({"a": 1.0}, 1)


def test_a_run_is_continued_where_its_folder_holds_one(begin: Begin, store: MLflowConfig, tmp_path: Path) -> None:
    first = begin(folder="run", run_name="first", params={"lr": 0.1})
    assert has_run(tmp_path / "run")
    assert ended(tmp_path / "run") is None
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
    assert not (tmp_path / "run" / PLACE).exists()
    assert ended(tmp_path / "run") == "FINISHED"


def test_a_tracker_for_trainings_inside_a_run_keeps_nothing(tmp_path: Path) -> None:
    tracker = NoTracker("r")
    tracker.log({"a": 1.0}, 0)
    tracker.artifact(tmp_path / "missing")
    tracker.tag({"a": "b"})
    tracker.finish("FINISHED")
    assert (tracker.run_id, tracker.run_name, tracker.position()) == (None, "r", 0)
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------- processes

SCRIPT = """
import os, signal, sys
from pathlib import Path
from lwexp.config.schema import MLflowConfig
from lwexp.tracking import prepare, start
config = MLflowConfig(name="mlflow", uri=None, experiment="lwexp", timeout=8.0, flush_timeout=60.0, rates_every=1)
prepare(config)
record = {"params": {"a": 1}, "tags": {}, "description": ""}
folder = Path("outputs") / sys.argv[1]
parent = start(config, folder=folder, run_name="parent", **record) if "parent" in sys.argv else None
if parent is not None:
    folder = folder / "0"
tracker = start(config, folder=folder, run_name=sys.argv[1], parent=folder.parent if parent else None, **record)
for step in range(300):
    tracker.log({"a": 1.0}, step)
assert "mlflow" not in sys.modules
if "kill" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run_script(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def alive(pid: int) -> bool:
    try:
        return pid > 0 and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.slow
def test_two_processes_start_at_once_on_a_new_store_and_none_that_dies_is_left_running(tmp_path: Path) -> None:
    processes = [run_script(tmp_path, "one", "parent"), run_script(tmp_path, "two", "kill")]
    outputs = [process.communicate(timeout=100) for process in processes]
    assert outputs == [("", "")] * 2  # nothing of MLflow's chatter either
    assert [process.returncode for process in processes] == [0, -signal.SIGKILL]
    folders = {name: tmp_path / "outputs" / name for name in ("one", "one/0", "two")}
    until(lambda: all(read_place(folder).status for folder in folders.values()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/outputs/mlflow.db")
    experiment = client.get_experiment_by_name("lwexp")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["one", "parent", "two"]
    assert {run.info.status for run in runs.values()} == {"KILLED"}
    for name, run in runs.items():
        assert "without a word" in run.data.tags["lwexp.reason"]
        if name != "parent":
            rows = client.get_metric_history(run.info.run_id, "a")
            assert sorted(row.step for row in rows) == list(range(300))
    assert runs["one"].data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
    until(lambda: not any(alive(read_place(folder).pid) for folder in folders.values()))  # nobody stays behind


def test_a_killed_delivery_is_started_again_and_nothing_is_doubled(
    begin: Begin, store: MLflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_RESPAWN_SECONDS", 0.0)
    tracker = begin()
    pid = read_place(tracker.folder).pid
    assert pid not in (0, os.getpid())
    count = 0

    def log_until(reached: Callable[[Place], bool]) -> None:
        nonlocal count
        deadline = time.monotonic() + 60
        while not reached(read_place(tracker.folder)):
            assert time.monotonic() < deadline
            tracker.log({"a": 1.0, "b": float(count)}, count)
            count += 1
            time.sleep(0.01)

    log_until(lambda place: place.rows > 0)
    os.kill(pid, signal.SIGKILL)
    log_until(lambda place: place.pid != pid)
    os.kill(read_place(tracker.folder).pid, signal.SIGKILL)  # and in the end
    tracker.finish("FINISHED")
    assert read_place(tracker.folder).rows >= 2 * count - 1000
    experiment = reader(store).get_experiment_by_name("mine")
    (run,) = reader(store).search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    for name in "ab":
        assert steps(store, tracker.run_id, name) == list(range(count))


def test_a_delivery_process_that_cannot_start_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken" / "mlflow").mkdir(parents=True)
    (tmp_path / "broken" / "mlflow" / "__init__.py").write_text(f"raise ImportError('not at http://a:{SECRET}@b')")
    paths = [str(tmp_path / "broken"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("MLFLOW_NEW_SETTING", "1")  # a process of this test's own
    monkeypatch.setattr(process_module, "_RESPAWN_SECONDS", 0.0)
    config = mlflow_config(f"sqlite:///{tmp_path}/mlflow.db", flush_timeout=3600.0)
    tracker = begin_in(config, tmp_path / "run")
    tracker.log({"a": 1.0}, 0)
    tracker.finish("FINISHED")  # not an hour later
    reason = "the delivery process has failed: ImportError: not at http://a:***@b"
    goes_on, left = caplog.messages
    assert goes_on.endswith(f"mlflow.db: {reason}; the run goes on, its metrics wait in its folder")
    assert f"1 of 1 metric rows not delivered to sqlite:///{tmp_path}/mlflow.db ({reason}); nothing is lost" in left
    assert ended(tmp_path / "run") == "FINISHED"


@pytest.mark.parametrize("content", [None, "not JSON"])
def test_a_place_that_is_lost_while_the_run_goes_on(content: str | None, begin: Begin, store: MLflowConfig) -> None:
    tracker = begin()
    tracker.log({"a": 1.0}, 0)
    until(lambda: read_place(tracker.folder).rows == 1)
    if content is None:
        (tracker.folder / PLACE).unlink()
    else:
        (tracker.folder / PLACE).write_text(content)
    tracker.log({"a": 1.0}, 1)
    tracker.finish("FINISHED")
    experiment = reader(store).get_experiment_by_name("mine")
    (run,) = reader(store).search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert steps(store, run.info.run_id, "a") == [0, 1]


def test_the_delivery_asked_last_is_the_one_at_work(server: FakeMLflow, tmp_path: Path) -> None:
    tracker = begin_in(NONE, tmp_path / "run")
    tracker.log({"a": 1.0}, 0)
    first = Delivery(tmp_path / "run", server.uri, patience=60.0)
    thread = threading.Thread(target=first.run)
    thread.start()
    until(lambda: read_place(tmp_path / "run").rows == 1)
    second = threading.Thread(target=Delivery(tmp_path / "run", server.uri, patience=60.0).run)
    second.start()
    thread.join(30)
    assert not thread.is_alive()
    tracker.log({"a": 1.0}, 1)
    tracker.finish("FINISHED")
    second.join(30)
    (run,) = server.runs.values()
    assert [row["step"] for row in run["rows"]] == [0, 1]


# ---------------------------------------------------------------------------------------------------------- contact


@pytest.fixture
def hung_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://anna:{SECRET}@127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def unreachable(uri: str, timeout: float = 8.0) -> str:
    """The one line that says why the store is not available, within ten seconds."""
    begun = time.monotonic()
    with pytest.raises(UnreachableError) as caught:
        check_store(mlflow_config(uri, timeout=timeout))
    assert time.monotonic() - begun < 10
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_a_server_that_never_answers_is_told_once_and_the_run_goes_on(
    hung_server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = mlflow_config(hung_server, timeout=0.5, flush_timeout=0.5)
    begun = time.monotonic()
    answers = prepare(config)
    assert not answers
    (line,) = caplog.messages
    assert "http://anna:***@127.0.0.1" in line
    assert "no answer within 0.5 s" in line
    assert "tracking=none" in line
    tracker = begin_in(config, tmp_path / "run", answers=answers)
    assert time.monotonic() - begun < 10
    tracker.log({"a": 1.0}, 0)
    tracker.finish("FINISHED")
    assert time.monotonic() - begun < 20
    assert "1 of 1 metric rows not delivered" in caplog.messages[-1]
    for path in (tmp_path / "run").iterdir():
        assert SECRET.encode() not in path.read_bytes(), path
    assert all(SECRET not in message for message in caplog.messages)


def test_a_closed_port_is_reported(closed_port: int) -> None:
    assert "refused" in unreachable(f"http://127.0.0.1:{closed_port}")


def test_a_host_without_an_address_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: Any, **_kwargs: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "Name or service not known" in unreachable("http://no-such-host.invalid:5000")


def test_a_database_that_blocks_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    # no driver of a database server is among the test's packages, so the blocking call stands in for one
    released = threading.Event()
    monkeypatch.setattr(mlflow_contact, "_contact_database", lambda *_: released.wait(30))
    assert "no answer within 0.5 s" in unreachable(f"postgresql+psycopg2://anna:{SECRET}@db/runs", timeout=0.5)
    released.set()


def test_a_server_is_told_the_user_and_password_of_its_address(server: FakeMLflow, tmp_path: Path) -> None:
    uri = server.uri.replace("http://", "http://anna:s3cr3t@")
    tracker = begin_in(mlflow_config(uri), tmp_path / "run")
    tracker.finish("FINISHED")
    assert server.authorizations == {"Basic YW5uYTpzM2NyM3Q="}
    assert tracker.where == server.uri.replace("http://", "http://anna:***@")


def test_a_server_in_trouble_is_asked_again(
    server: FakeMLflow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.fail, server.body = 500, '{"error_code": "INTERNAL_ERROR", "message": "gone"}'
    tracker = begin_in(mlflow_config(server.uri, flush_timeout=0.5), tmp_path / "run")
    tracker.finish("FINISHED")
    assert "too many 500 error responses (the server's own log says why)" in caplog.messages[-1]
    assert "its end not delivered" in caplog.messages[-1]


def test_limits_set_for_mlflow_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "false")  # the user's own stays
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with bounded(), bounded():
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
        assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "false"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
    assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "false"


def test_the_root_logger_is_the_users(begin: Begin) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    begin()
    assert (root.level, list(root.handlers)) == before


# --------------------------------------------------------------------------------------------------------- addresses

MALFORMED = {
    "": "is empty",
    "outputs": "not an address",
    "./mlruns": "plain folders",
    "/data/mlruns": "plain folders",
    "file:///data/mlruns": "plain folders",
    "localhost:5000": "http://localhost:5000",
    "127.0.0.1:5000/x": "begins with http://",
    "htp://host:5000": "did you mean http",
    f"postgres://anna:{SECRET}@host/runs": "did you mean postgresql",
    f"anna:{SECRET}@host:5000": "not an address",
    "ftp://host": "no such kind of store",
    "http:/host:5000": "followed by slashes",
    "sqlite:outputs/mlflow.db": "followed by slashes",
    "sqlite://": "names no file",
    "sqlite:///": "names no file",
    "sqlite:///:memory:": "gone when the run ends",
    "sqlite://outputs/mlflow.db": "three slashes",
    "sqlite:///outputs/": "is a folder",
    "http://": "names no host",
    "http://:5000": "names no host",
    "http://host:abc": "port must be",
    f"http://anna:{SECRET}@host:99999": "port must be",
    "http://host:0": "port must be",
    "http://my host:5000": "cannot be the name of a host",
    f"http://anna:{SECRET} x@my_host?:5000": "***",
    "http://[::1:5000": "not a valid address",
    "http://host:5000/#/experiments/1": "without what follows",
    f"postgresql://anna:{SECRET}@host:port/runs": "not a valid database address",
    f"postgresql://anna:{SECRET}@host:99999/runs": "port must be",
    f"mysql+pymysql://anna:{SECRET}@host": "names no database",
}


@pytest.mark.parametrize(("uri", "why"), MALFORMED.items(), ids=lambda text: text or "empty")
def test_a_malformed_address_is_a_mistake_in_one_line_without_its_secret(uri: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_uri(mlflow_config(uri), tmp_path)
    message = str(caught.value)
    assert message.startswith("tracking.uri=")
    assert why in message
    assert "\n" not in message
    assert SECRET not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000", "https://mlflow.example.org/prefix", "http://[::1]:5000", "http://my_host",
        f"http://anna:{SECRET}@host:5000", f"postgresql+psycopg2://anna:{SECRET}@host:5432/runs",
        "postgresql:///runs", "mssql+pyodbc://host/runs?driver=x",
    ],
)  # fmt: skip
def test_an_address_of_a_server_stays_as_it_is(uri: str, tmp_path: Path) -> None:
    assert resolve_uri(mlflow_config(uri), tmp_path) == uri


def test_a_relative_database_counts_from_where_the_command_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_uri(mlflow_config(None), tmp_path) == f"sqlite:///{tmp_path}/outputs/mlflow.db"
    assert resolve_uri(mlflow_config("sqlite:///my runs/a.db?timeout=5"), tmp_path) == (
        f"sqlite:///{tmp_path}/my runs/a.db?timeout=5"
    )
    assert resolve_uri(mlflow_config("sqlite:////data/../a.db"), tmp_path) == "sqlite:////a.db"


def test_the_environment_chooses_the_store_unless_the_config_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment:5000")
    assert resolve_uri(mlflow_config(None), tmp_path) == "http://from-environment:5000"
    assert resolve_uri(mlflow_config("http://from-config"), tmp_path) == "http://from-config"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense")
    with pytest.raises(ConfigError, match=r"^MLFLOW_TRACKING_URI=nonsense"):
        resolve_uri(mlflow_config(None), tmp_path)


def test_a_file_that_is_no_database_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are notes, not a database" * 100)
    with pytest.raises(ConfigError, match="is not an SQLite database"):
        check_store(mlflow_config("sqlite:///notes.db"), tmp_path)
    with pytest.raises(ConfigError, match="cannot be made"):
        check_store(mlflow_config("sqlite:///notes.db/runs.db"), tmp_path)
    assert (tmp_path / "notes.db").read_text().startswith("these are notes")


def test_a_missing_driver_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"anna:\*\*\*@host.*package .*no_such_driver"):
        check_store(mlflow_config(f"postgresql+no_such_driver://anna:{SECRET}@host/runs"), tmp_path)


def test_the_hint_names_both_ways_to_open_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    elsewhere = open_hint(mlflow_config(None), tmp_path)
    assert elsewhere.startswith(
        f"open MLflow: python -m lwexp.ui tracking.uri=sqlite:///{tmp_path}/outputs/mlflow.db\n"
    )
    monkeypatch.chdir(tmp_path)
    assert open_hint(mlflow_config(None), tmp_path) == (
        "open MLflow: python -m lwexp.ui\n"
        f"         or: mlflow ui --backend-store-uri sqlite:///{tmp_path}/outputs/mlflow.db"
    )
    hint = open_hint(mlflow_config(f"postgresql+psycopg2://anna:{SECRET}@db/runs", experiment="my own"), tmp_path)
    assert SECRET not in hint
    assert "'tracking.experiment=my own'" in hint


# ------------------------------------------------------------------------------------------------------------ secrets


@given(
    user=st.text("abcxyz0._-", max_size=5),
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1).map(lambda text: f"<{text}>"),
    scheme=st.sampled_from(["http", "https", "postgresql", "postgresql+psycopg2", "mysql"]),
    around=st.sampled_from(["{}", "tracking.uri={}", "failed: {} (timeout)", '["a=1", "uri={}"]']),
)
@example(user="anna", secret="p@ss:w/rd@", scheme="http", around="{}")
def test_no_password_survives_redaction(user: str, secret: str, scheme: str, around: str) -> None:
    hidden = redact_addresses(around.format(f"{scheme}://{user}:{secret}@host:5000/runs"))
    assert secret not in hidden
    assert "***@host:5000/runs" in hidden


def test_tokens_are_hidden_and_what_is_no_secret_stays() -> None:
    assert redact_addresses("https://t0ken@host/x?api_key=abc&a=1") == "https://***@host/x?api_key=***&a=1"
    for text in ("sqlite:////data/a:b@c.db", "postgresql://anna@host/runs", "http://host:5000 mail@me", "lr=0.1"):
        assert redact_addresses(text) == text


def test_a_password_is_written_to_no_store_and_no_file(begin: Begin, tmp_path: Path) -> None:
    uri = f"postgresql://anna:{SECRET}@host/runs"
    tracker = begin(
        run_name=f"tracking.uri={uri}", params={"tracking.uri": uri, "all": {"uri": uri}},
        tags={"overrides": f"tracking.uri={uri} lr=1"}, description=f"`{uri}`",
    )  # fmt: skip
    tracker.tag({"later": uri})
    tracker.finish("FAILED", f"could not reach {uri}")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tracker.folder / JOURNAL in files
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in tracker.run_name


# -------------------------------------------------------------------------------------------------------------- names

names = st.text(st.sampled_from("ab./ *?[]:\n\té\u0301\ud800-_") | st.characters(), max_size=300)


@given(names)
@example("../../etc/passwd")
@example("...")
@example("a" * 251)
@example("a" * 240 + "/" * 20 + "b" * 20)
def test_a_safe_key_is_accepted_by_mlflow_and_stays_as_it_is(name: str) -> None:
    key = safe_key(name)
    _validate_metric_name(key)  # raises
    assert 0 < len(key) <= MAX_ENTITY_KEY_LENGTH
    assert safe_key(key) == key


def test_mlflow_refuses_what_is_not_made_safe() -> None:
    for name in ("a*", "a[0]", "/a", "a//b", "..", "a/"):
        with pytest.raises(MlflowException):
            _validate_metric_name(name)


@given(st.lists(names, max_size=12))
@example(["a_", "a*", "a?"])
@example(["a" * 300, "a" * 301])
@example(["a*", "a?", safe_keys(["a*", "a?"])[0]])
def test_safe_keys_are_as_many_as_the_names(given_names: list[str]) -> None:
    keys = safe_keys(given_names)
    assert len(keys) == len(given_names)
    assert len(set(keys)) == len(set(given_names))
    for name, key in zip(given_names, keys, strict=True):
        _validate_metric_name(key)
        assert len(key) <= MAX_ENTITY_KEY_LENGTH
        if safe_key(name) == name:
            assert key == name


def test_common_names_of_parameters_stay_readable() -> None:
    names = ["lr/00_fc", "lr/61_conv1.weight", "train/loss"]
    assert safe_keys(names) == names
    assert safe_keys(["lr/03_blocks.*.norm1"]) == ["lr/03_blocks._.norm1"]


# --------------------------------------------------------------------------------------------------------------- conf


def test_the_files_of_the_config_group_are_what_the_schema_takes() -> None:
    conf = ROOT / "conf" / "tracking"
    mlflow, none = (dict(OmegaConf.load(conf / f"{name}.yaml")) for name in ("mlflow", "none"))  # type: ignore[arg-type]
    assert MLflowConfig.model_validate(mlflow) == mlflow_config(None, flush_timeout=60.0)
    assert NoTrackingConfig.model_validate(none).name == "none"
