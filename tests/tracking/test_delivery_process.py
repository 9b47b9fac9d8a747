"""The delivery process: several at once, killed, broken, taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lwexp.config.schema import MLflowConfig
from lwexp.tracking import run_status
from lwexp.tracking.delivery import Delivery
from lwexp.tracking.delivery_client import courier
from lwexp.tracking.delivery_state import FILE as STATE
from lwexp.tracking.delivery_state import DeliveryState, read_state
from tests.helpers.fake_mlflow import FakeMLflow
from tests.helpers.tracked_runs import (
    NONE,
    SECRET,
    Begin,
    begin_in,
    mlflow_config,
    reader,
    steps,
    until,
)

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
    until(lambda: all(read_state(folder).status for folder in folders.values()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/outputs/mlflow.db")
    experiment = client.get_experiment_by_name("lwexp")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["one", "parent", "two"]
    assert {run.info.status for run in runs.values()} == {"KILLED"}
    for name, run in runs.items():
        assert "died unexpectedly" in run.data.tags["lwexp.reason"]
        if name != "parent":
            rows = client.get_metric_history(run.info.run_id, "a")
            assert sorted(row.step for row in rows) == list(range(300))
    assert runs["one"].data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
    until(lambda: not any(alive(read_state(folder).pid) for folder in folders.values()))  # no process is left


def test_a_killed_delivery_is_started_again_and_nothing_is_doubled(
    begin: Begin, store: MLflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "restart_seconds", 0.0)
    tracker = begin()
    pid = read_state(tracker.folder).pid
    assert pid not in (0, os.getpid())
    count = 0

    def log_until(reached: Callable[[DeliveryState], bool]) -> None:
        nonlocal count
        deadline = time.monotonic() + 60
        while not reached(read_state(tracker.folder)):
            assert time.monotonic() < deadline
            tracker.log({"a": 1.0, "b": float(count)}, count)
            count += 1
            time.sleep(0.01)

    log_until(lambda state: state.rows > 0)
    os.kill(pid, signal.SIGKILL)
    log_until(lambda state: state.pid != pid)
    os.kill(read_state(tracker.folder).pid, signal.SIGKILL)  # and in the end
    tracker.finish("FINISHED")
    assert read_state(tracker.folder).rows >= 2 * count - 1000
    experiment = reader(store).get_experiment_by_name("mine")
    (run,) = reader(store).search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    for name in "ab":
        assert steps(store, tracker.run_id, name) == list(range(count))


def test_a_delivery_process_that_cannot_start_is_logged_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken" / "mlflow").mkdir(parents=True)
    (tmp_path / "broken" / "mlflow" / "__init__.py").write_text(f"raise ImportError('not at http://a:{SECRET}@b')")
    paths = [str(tmp_path / "broken"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("MLFLOW_NEW_SETTING", "1")  # a process of this test's own
    monkeypatch.setattr(courier, "restart_seconds", 0.0)
    config = mlflow_config(f"sqlite:///{tmp_path}/mlflow.db", flush_timeout=3600.0)
    tracker = begin_in(config, tmp_path / "run")
    tracker.log({"a": 1.0}, 0)
    tracker.finish("FINISHED")  # not an hour later
    reason = "the delivery process failed: ImportError: not at http://a:***@b"
    goes_on, left = caplog.messages
    assert goes_on.endswith(f"mlflow.db: {reason}; the run continues, its metrics wait in its folder")
    assert f"1 of 1 metric rows not delivered to sqlite:///{tmp_path}/mlflow.db ({reason}); nothing is lost" in left
    assert run_status(tmp_path / "run") == "FINISHED"


@pytest.mark.parametrize("content", [None, "not JSON"])
def test_a_delivery_state_that_is_lost_during_the_run(content: str | None, begin: Begin, store: MLflowConfig) -> None:
    tracker = begin()
    tracker.log({"a": 1.0}, 0)
    until(lambda: read_state(tracker.folder).rows == 1)
    if content is None:
        (tracker.folder / STATE).unlink()
    else:
        (tracker.folder / STATE).write_text(content)
    tracker.log({"a": 1.0}, 1)
    tracker.finish("FINISHED")
    experiment = reader(store).get_experiment_by_name("mine")
    (run,) = reader(store).search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert steps(store, run.info.run_id, "a") == [0, 1]


def test_the_delivery_requested_last_is_the_active_one(server: FakeMLflow, tmp_path: Path) -> None:
    tracker = begin_in(NONE, tmp_path / "run")
    tracker.log({"a": 1.0}, 0)
    first = Delivery(tmp_path / "run", server.uri, patience=60.0)
    thread = threading.Thread(target=first.run)
    thread.start()
    until(lambda: read_state(tmp_path / "run").rows == 1)
    second = threading.Thread(target=Delivery(tmp_path / "run", server.uri, patience=60.0).run)
    second.start()
    thread.join(30)
    assert not thread.is_alive()
    tracker.log({"a": 1.0}, 1)
    tracker.finish("FINISHED")
    second.join(30)
    (run,) = server.runs.values()
    assert [row["step"] for row in run["rows"]] == [0, 1]
