"""`python -m lwexp.sync` after outages and kills, and beside deliveries that run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.faults import stores
from tests.system.faults.proxy import FaultyProxy
from tests.system.faults.servers import MLflowServer
from tests.system.faults.stores import Database
from tests.system.faults.training import (
    Launcher,
    kill,
    until,
)
from tests.system.faults.training import delivery_processes as delivering
from tests.system.faults.trial import STEPS, Trial, one_line

Served = tuple[MLflowServer, Database]
Proxied = Callable[[MLflowServer], FaultyProxy]


def undelivered(trial: Trial, proxy: FaultyProxy) -> None:
    """A run that ended while its store was unavailable."""
    trial.pause = 0.0
    mode = proxy.mode
    proxy.set("refuse")
    trial.start(proxy.url, "tracking.flush_timeout=1").succeeded()
    until(lambda: not delivering(trial.folder), 20, "the delivery process to give up")
    proxy.set(mode)


def test_two_syncs_at_once(trial: Trial, sqlite_server: Served, proxied: Proxied) -> None:
    proxy = proxied(sqlite_server[0])
    undelivered(trial, proxy)
    first, second = trial.sync(), trial.sync()
    first.succeeded()
    second.succeeded()
    trial.check()


@pytest.mark.slow
def test_sync_beside_a_delivery_process_at_work(trial: Trial, sqlite_server: Served, proxied: Proxied) -> None:
    proxy = proxied(sqlite_server[0])
    command = trial.start(proxy.url)
    until(trial.arrived, 40, "the first rows in the store")
    proxy.set("slow", seconds=0.5)
    until(lambda: trial.steps() == STEPS, 40, "the end of training")
    assert delivering(trial.folder), "the delivery process has ended; make the store slower"
    sync = trial.sync()
    command.succeeded()
    sync.succeeded()
    trial.check()


def test_sync_of_a_run_whose_process_was_killed(trial: Trial, sqlite_server: Served) -> None:
    command = trial.start(sqlite_server[0].url)
    until(trial.arrived, 40, "the first rows in the store")
    step = trial.steps()
    command.kill()
    sync = trial.sync().succeeded()  # the delivery process may still be at work, or not
    run = stores.only_run(trial.database, trial.experiment)
    assert run.status in ("FAILED", "KILLED"), sync.text
    assert run.repeated == 0
    assert run.extra(trial.reference.rows) == []
    whole = {place: value for place, value in trial.reference.rows.items() if place[1] < step - 1}
    assert run.missing(whole) == []


def test_sync_of_a_deleted_mlflow_run_says_so_and_keeps_everything(trial: Trial, sqlite_server: Served) -> None:
    server, _ = sqlite_server
    command = trial.start(server.url)
    until(trial.arrived, 40, "the first rows in the store")
    command.kill()
    for pid in delivering(trial.folder):
        kill(pid)
    run = stores.only_run(trial.database, trial.experiment)
    server.ask("runs/delete", run_id=run.id)
    line = one_line(trial.sync(), 1)
    assert run.id in line
    assert "delete" in line
    assert stores.only_run(trial.database, trial.experiment).id == run.id, "no other run is made in its place"
    server.ask("runs/restore", run_id=run.id)
    trial.sync().succeeded()
    assert stores.only_run(trial.database, trial.experiment).status in ("FAILED", "KILLED")


def test_sync_of_a_folder_without_runs(lwexp: Launcher, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command = lwexp("sync", str(tmp_path / "empty"))
    assert command.wait() in (0, 2), command.text
    assert len(command.text.strip().splitlines()) == 1
    assert str(tmp_path / "empty") in command.text
    missing = lwexp("sync", str(tmp_path / "missing"))
    assert str(tmp_path / "missing") in one_line(missing, 2)
