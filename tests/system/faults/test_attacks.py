"""Stores and processes that fail for good, with real servers: everything else goes on, is told, and arrives later.

The attacks one by one: `tests/tracking/test_foreign_folders.py`, `test_refused_artifacts.py`, `test_waiting.py`,
`test_emptied_store.py`.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.faults import stores
from tests.system.faults.proxy import FaultyProxy
from tests.system.faults.servers import MLflowServer
from tests.system.faults.stores import Database, SQLite
from tests.system.faults.training import delivery_processes as delivering
from tests.system.faults.training import kill, until
from tests.system.faults.trial import Trial, one_line

Served = tuple[MLflowServer, Database]
Proxied = Callable[[MLflowServer], FaultyProxy]


@pytest.mark.slow
@pytest.mark.parametrize("status", [403, 413])
def test_a_storage_that_refuses_files(trial: Trial, sqlite_server: Served, proxied: Proxied, status: int) -> None:
    proxy = proxied(sqlite_server[0])
    proxy.set("status", status=status, only=lambda method, _: method == "PUT")
    command = trial.start(proxy.url).succeeded()
    assert "best.safetensors could not be kept with it" in command.text
    run = trial.check()
    proxy.set("pass")
    trial.sync().succeeded()
    trial.check_files(sqlite_server[0], run)
    trial.check()


@pytest.mark.slow
def test_a_delivery_process_that_is_stopped(trial: Trial, sqlite_server: Served) -> None:
    command = trial.start(sqlite_server[0].url, "tracking.flush_timeout=3")
    until(trial.arrived, 40, "the first rows in the store")
    (pid,) = delivering(trial.folder)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert "nothing is lost" in command.succeeded().text
        line = one_line(trial.sync("tracking.flush_timeout=3"), 1)
        assert f"kill -9 {pid}" in line
    finally:
        kill(pid)
    trial.sync().succeeded()
    trial.check()


@pytest.mark.slow
def test_a_database_that_is_deleted_and_made_again(trial: Trial, file_store: SQLite, empty_file: Path) -> None:
    trial.database = file_store
    command = trial.start(file_store.uri)
    until(trial.arrived, 40, "the first rows in the store")
    first = stores.only_run(file_store, trial.experiment).id
    command.kill()
    for pid in delivering(trial.folder):
        kill(pid)
    shutil.copy(empty_file, file_store.path)
    assert "python -m lwexp.sync --new-run" in one_line(trial.sync(), 1)
    trial.sync("--new-run").succeeded()
    run = stores.only_run(file_store, trial.experiment)
    assert run.id != first
    assert run.repeated == 0
    assert run.extra(trial.reference.rows) == []
