"""What a run's end and `lwexp.sync` wait for has an end, whatever clocks, servers and processes do, and is told."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lwexp.errors import RunError
from lwexp.sync import main
from lwexp.tracking.delivery import DELIVERY_LOCK
from lwexp.tracking.delivery_client import DeliveryClient
from lwexp.tracking.delivery_state import read_state
from lwexp.tracking.reader import StoreReader
from tests.helpers.fake_mlflow import FakeMLflow
from tests.helpers.tracked_runs import NONE, Begin, begin_in, mlflow_config, until

HOLD = """
import sys, time
from pathlib import Path
from lwexp.host.lock import Lock
assert Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_is_set_changes_no_wait(
    hours: int, server: FakeMLflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = begin_in(mlflow_config(server.uri, flush_timeout=1.0), tmp_path / "run")
    tracker.log({"a": 1.0}, 0)
    until(lambda: read_state(tmp_path / "run").rows == 1)
    server.fail = 503
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    tracker.log({"a": 1.0}, 1)
    begin = time.monotonic()
    tracker.finish("FINISHED")
    assert 1.0 <= time.monotonic() - begin < 20
    assert "1 of 2 metric rows not delivered" in caplog.messages[-1]
    server.fail = None


def test_a_stopped_delivery_process_holds_up_neither_the_end_nor_sync(
    server: FakeMLflow, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = begin_in(mlflow_config(server.uri, flush_timeout=1.0), tmp_path / "run")
    pid = read_state(tmp_path / "run").pid
    os.kill(pid, signal.SIGSTOP)
    try:
        tracker.log({"a": 1.0}, 0)
        tracker.finish("FINISHED")
        assert (
            f"1 of 1 metric rows not delivered to {server.uri} (no answer from it or the delivery process {pid}"
            in (caplog.messages[-1])
        )
        assert main([str(tmp_path / "run"), f"tracking.uri={server.uri}", "tracking.flush_timeout=1"]) == 1
        line = capsys.readouterr().err
        assert f"its delivery process {pid} on " in line
        assert line.endswith(f"does nothing; it may be stopped; end it: kill -9 {pid}\n")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert main([str(tmp_path / "run"), f"tracking.uri={server.uri}"]) == 0
    (run,) = server.runs.values()
    assert [row["step"] for row in run["rows"]] == [0]
    assert run["info"]["status"] == "FINISHED"


def test_sync_does_not_wait_for_a_process_that_holds_the_delivery_and_does_nothing(
    server: FakeMLflow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin_in(NONE, tmp_path / "run").finish("FINISHED")
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run" / DELIVERY_LOCK)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert main([str(tmp_path / "run"), f"tracking.uri={server.uri}", "tracking.flush_timeout=1"]) == 1
        holder.kill()
    assert "does nothing" in capsys.readouterr().err
    assert main([str(tmp_path / "run"), f"tracking.uri={server.uri}"]) == 0


def test_whether_a_shared_process_lives_is_asked_without_filling_its_input() -> None:
    owner, user = DeliveryClient(), DeliveryClient()
    requests = owner.share()
    assert requests is not None
    process = owner._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        user.attach(requests)
        for _ in range(100_000):  # a pipe holds 65,536 bytes
            user.keep_alive()
    finally:
        os.kill(process.pid, signal.SIGKILL)


def test_what_is_waited_for_is_said(
    begin: Begin, server: FakeMLflow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tracker = begin_in(mlflow_config(server.uri, flush_timeout=10.0), tmp_path / "run")
    server.fail = 503
    tracker.log({"a": 1.0}, 0)
    tracker.finish("FINISHED")
    words = [message for message in caplog.messages if message.startswith("waiting for ")]
    assert words[0].startswith(f"waiting for {server.uri} to take 1 of 1 metric rows of run run (")
    server.fail = None


def test_no_report_waits_for_a_server_that_answers_a_byte_at_a_time(
    server: FakeMLflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = StoreReader(mlflow_config(server.uri), tmp_path)
    assert reader.search(["1"], "tags.a = 'b'") == []
    monkeypatch.setattr("lwexp.tracking.reader.ANSWER_SECONDS", 0.5)
    server.seconds_per_byte = 0.2
    with pytest.raises(RunError, match=r"^the tracking store http://[^ ]* failed: no whole answer within 0\.5 s$"):
        reader.search(["1"], "tags.a = 'b'")
    server.seconds_per_byte = 0.0


@pytest.mark.slow
def test_a_server_that_answers_a_byte_at_a_time(
    server: FakeMLflow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin_in(NONE, tmp_path / "run").finish("FINISHED")
    server.seconds_per_byte = 2.0
    begin = time.monotonic()
    assert main([str(tmp_path / "run"), f"tracking.uri={server.uri}", "tracking.flush_timeout=1"]) == 1
    assert time.monotonic() - begin < 120
    lines = capsys.readouterr().err.splitlines()
    assert "no whole answer within 40 s" in lines[-1] or "no answer within 8 s" in lines[-1]
    server.seconds_per_byte = 0.0
    assert main([str(tmp_path / "run"), f"tracking.uri={server.uri}"]) == 0
