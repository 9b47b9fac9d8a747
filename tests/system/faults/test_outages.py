"""A tracking server that goes away or errs: training continues at its pace, and MLflow has every row exactly once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.faults import stores
from tests.system.faults.network import Host
from tests.system.faults.proxy import FAULTS, FaultyProxy, Mode
from tests.system.faults.servers import MLflowServer
from tests.system.faults.stores import Database, SQLite
from tests.system.faults.training import delivery_processes as delivering
from tests.system.faults.training import (
    until,
)
from tests.system.faults.trial import STEPS, Trial, one_line, outage

Served = tuple[MLflowServer, Database]
Proxied = Callable[[MLflowServer], FaultyProxy]


def test_a_server_killed_in_the_middle_and_back_later(trial: Trial, sqlite_server: Served) -> None:
    server, _ = sqlite_server
    command = trial.start(server.url)
    outage(trial, command, server.kill, server.start, 0)
    trial.check_files(server, trial.check())
    trial.check_pace("server killed and back")


@pytest.mark.slow
def test_a_frozen_server(trial: Trial, sqlite_server: Served) -> None:
    server, _ = sqlite_server
    command = trial.start(server.url)
    outage(trial, command, server.freeze, server.thaw, 3)
    trial.check_files(server, trial.check())
    trial.check_pace("server frozen")


@pytest.mark.slow
def test_a_server_absent_at_the_start(trial: Trial, sqlite_server: Served, proxied: Proxied) -> None:
    server, _ = sqlite_server
    proxy = proxied(server)
    proxy.set("refuse")
    command = trial.start(proxy.url)
    until(lambda: trial.steps() >= 10, 40, "training to go on without the store")
    assert stores.runs(trial.database, trial.experiment) == []
    proxy.set("pass")
    command.succeeded()
    trial.check_files(server, trial.check())
    trial.check_pace("server absent at the start")


def test_a_server_absent_throughout_and_what_sync_makes_of_it(
    trial: Trial, sqlite_server: Served, proxied: Proxied
) -> None:
    server, _ = sqlite_server
    proxy = proxied(server)
    proxy.set("refuse")
    trial.pause = 0.02
    command = trial.start(proxy.url, "tracking.flush_timeout=2").succeeded()
    assert "lwexp.sync" in command.text, "the run says what is not delivered and how to deliver it"
    assert stores.runs(trial.database, trial.experiment) == []
    until(lambda: not delivering(trial.folder), 20, "the delivery process to give up")

    down = trial.sync()
    line = one_line(down, 1)
    assert proxy.url in line
    proxy.set("pass")
    trial.sync().succeeded()
    trial.check_files(server, trial.check())
    trial.sync().succeeded()  # nothing is left
    trial.check()


@pytest.mark.slow
def test_a_cut_cable(trial: Trial, sqlite_server: Served, empty_file: Path, host: Host, tmp_path: Path) -> None:
    trial.database = SQLite(tmp_path / "far.db")
    trial.database.path.write_bytes(empty_file.read_bytes())
    server = MLflowServer(trial.database.uri, tmp_path, host=host.address, prefix=host.prefix)
    server.start()
    try:
        command = trial.start(server.url)
        outage(trial, command, host.cut, host.mend, 5)
        trial.check_files(server, trial.check())
        trial.check_pace("cable cut")
    finally:
        server.stop()


# --------------------------------------------------------------------------------------------- a server that errs


def is_post(method: str, path: str) -> bool:
    return method == "POST"


def test_a_bad_day_with_every_fault_in_turn(trial: Trial, sqlite_server: Served, proxied: Proxied) -> None:
    server, _ = sqlite_server
    proxy = proxied(server)
    command = trial.start(proxy.url)
    while command.code is None and trial.steps() < STEPS:
        proxy.set("status", status=500)
        time.sleep(0.7)
        proxy.set("swallow", share=0.5, only=is_post)
        time.sleep(1.0)
        proxy.set("status", status=429, retry_after=1, share=0.5)
        time.sleep(0.7)
        proxy.set("cut", share=0.5)
        time.sleep(0.7)
        proxy.set("reset")
        time.sleep(0.5)
    proxy.set("pass")
    command.succeeded()
    assert proxy.counts.keys() > {"pass"}, proxy.counts  # some of it was met
    trial.check_files(server, trial.check())
    trial.check_pace(f"bad day {dict(proxy.counts)}")


def test_answers_lost_from_the_first_request_on_make_no_second_run(
    trial: Trial, sqlite_server: Served, proxied: Proxied
) -> None:
    server, _ = sqlite_server
    proxy = proxied(server)
    created = []

    def creates(method: str, path: str) -> bool:
        if path.endswith("/runs/create"):
            created.append(path)
        return path.endswith("/runs/create") and len(created) <= 3

    proxy.set("swallow", only=creates)
    trial.pause = 0.02
    trial.start(proxy.url).succeeded()
    assert proxy.counts["swallow"] >= 1
    trial.check()


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("when", ["from_the_start", "in_the_middle"])
def test_each_fault_alone_for_a_while(
    any_trial: Trial, any_server: Served, proxied: Proxied, fault: str, when: str
) -> None:
    server, _ = any_server
    proxy = proxied(server)
    if when == "from_the_start":
        FAULTS[fault](proxy)
    command = any_trial.start(proxy.url)
    if when == "in_the_middle":
        until(any_trial.arrived, 40, "the first rows in the store")
        FAULTS[fault](proxy)
    until(lambda: any_trial.steps() >= STEPS, 60, "the end of training")
    if "half" not in fault:  # these pass
        time.sleep(10)  # the run's end meets the fault too
        proxy.set("pass")
    command.succeeded()
    assert proxy.counts.keys() - {"pass"} or fault == "refuse", proxy.counts
    any_trial.check_files(server, any_trial.check())
    any_trial.check_pace(f"{fault} {when} {dict(proxy.counts)}")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["kill", "freeze"])
def test_a_server_away_for_30_seconds(any_trial: Trial, any_server: Served, way: str) -> None:
    server, _ = any_server
    command = any_trial.start(server.url, "tracking.flush_timeout=300")  # a busy machine takes long to start a server
    ways = {"kill": (server.kill, server.start), "freeze": (server.freeze, server.thaw)}
    outage(any_trial, command, *ways[way], 30)
    any_trial.check_files(server, any_trial.check())
    any_trial.check_pace(f"server away for 30 s: {way}")


@pytest.mark.slow
def test_a_server_absent_at_the_start_and_there_after_30_seconds(
    any_trial: Trial, any_server: Served, proxied: Proxied
) -> None:
    server, _ = any_server
    proxy = proxied(server)
    proxy.set("refuse")
    command = any_trial.start(proxy.url)
    time.sleep(30)
    assert any_trial.steps() == STEPS
    assert command.code is None, "it waits for the store"
    proxy.set("pass")
    command.succeeded()
    any_trial.check_files(server, any_trial.check())
    any_trial.check_pace("server absent at the start, there after 30 s")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["slow", "status", "swallow"])
def test_a_server_that_is_never_well(any_trial: Trial, any_server: Served, proxied: Proxied, mode: Mode) -> None:
    server, _ = any_server
    proxy = proxied(server)
    proxy.set(mode, share=1.0 if mode == "slow" else 0.3, seconds=2.0)
    any_trial.start(proxy.url).succeeded(300)
    any_trial.check_files(server, any_trial.check())
    any_trial.check_pace(f"never well: {mode} {dict(proxy.counts)}")
