"""What is logged arrives in the store exactly once, through stores and answers that fail."""

from __future__ import annotations

import logging
import math
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from lwexp.config.schema import MLflowConfig
from lwexp.tracking import deliver_rest, run_status
from lwexp.tracking import tracker as tracker_module
from lwexp.tracking.delivery import Delivery
from lwexp.tracking.delivery_state import FILE as STATE
from lwexp.tracking.delivery_state import read_state
from lwexp.tracking.journal import FILE as JOURNAL
from tests.helpers.fake_mlflow import FakeMLflow
from tests.helpers.tracked_runs import (
    NONE,
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


def test_rows_arrive_while_the_run_continues(begin: Begin, store: MLflowConfig) -> None:
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


def test_non_finite_values_arrive(begin: Begin, store: MLflowConfig) -> None:
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
    start = time.monotonic()
    for step in range(2500):
        tracker.log({"a": step}, step)
    assert time.monotonic() - start < 3
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
    while read_state(tracker.folder).problem is None or len(caplog.messages) < 1:
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
    assert "the run continues" in caplog.messages[0]
    assert caplog.messages[-1] == f"{2 * step} metric rows of run run delivered to {store.uri}"
    assert all("\n" not in message for message in caplog.messages)


def test_a_store_that_answers_again_is_logged(
    begin: Begin, store: MLflowConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tracker = begin()
    away(store)

    def logged(words: str) -> bool:
        tracker.log({"a": 1.0}, next(count))
        return any(words in message for message in caplog.messages)

    count = iter(range(10**6))
    until(lambda: logged("the run continues"))
    back(store)
    until(lambda: logged("answers again"))
    assert len(caplog.messages) == 2


def test_a_store_that_has_never_answered_does_not_answer_again(
    server: FakeMLflow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is known of the store before the first attempt to deliver; it is "answers again" only after an answer."""
    caplog.set_level(logging.INFO)
    server.fail = 503
    tracker = begin_in(mlflow_config(server.uri), tmp_path / "run", answers=False)
    tracker.log({"a": 1.0}, 0)
    until(lambda: read_state(tracker.folder).problem is not None)
    assert not any("answers again" in message for message in caplog.messages)
    server.fail = None
    tracker.finish("FINISHED")


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
    assert "the run continues, its metrics wait in its folder" in line


def test_a_store_that_fails_for_good_is_one_warning_and_sync_has_the_rest(
    begin: Begin, store: MLflowConfig, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = begin(flush_timeout=1.0)
    away(store)
    tracker.log({"a": 1.0, "b": 2.0}, 0)
    start = time.monotonic()
    tracker.finish("FINISHED")
    assert 1.0 <= time.monotonic() - start < 20
    tracker.finish("FINISHED")  # silent: already logged
    lines = [message for message in caplog.messages if "lwexp.sync" in message]
    assert len(lines) == 1
    assert f"2 of 2 metric rows not delivered to {store.uri}" in lines[0]
    assert "no such table" in lines[0]
    assert lines[0].endswith(f"python -m lwexp.sync {tracker.folder}")
    assert "\n" not in lines[0]
    assert run_status(tracker.folder) == "FINISHED"

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
    start = time.monotonic()
    tracker.finish("KILLED")
    assert time.monotonic() - start < 10
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
    start = time.monotonic()
    tracker.finish("FINISHED")
    assert time.monotonic() - start < 30  # not flush_timeout: waiting would not help
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
    # this server, unlike MLflow's databases, keeps a row that it receives twice
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
def test_a_lost_or_damaged_delivery_state_makes_no_second_run_and_no_row_twice(
    content: str | None, server: FakeMLflow, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    tracker = begin_in(NONE, folder, params={"lr": 0.1})
    for step in range(2500):
        tracker.log({"a": 1.0}, step)
    tracker.finish("FINISHED")
    Delivery(folder, server.uri, patience=60.0).run()
    if content is None:
        (folder / STATE).unlink()
    elif content == "at the end":
        place = read_state(folder)
        place.status = None
        place.save(folder)
    else:
        (folder / STATE).write_text(content)
    Delivery(folder, server.uri, patience=60.0).run()
    assert read_state(folder).status == "FINISHED"
    tracker = begin_in(NONE, folder)
    for step in range(2400, 3000):
        tracker.log({"a": 1.0}, step)
    tracker.finish("FINISHED")
    Delivery(folder, server.uri, patience=60.0).run()
    (run,) = server.runs.values()
    assert [row["step"] for row in run["rows"]] == list(range(3000))
    assert run["info"]["status"] == "FINISHED"
