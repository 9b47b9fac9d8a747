"""A tracking server's bad days: training goes on at its pace, and in the end MLflow has every row exactly once."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.system.faults import stores
from tests.system.faults.network import Host
from tests.system.faults.proxy import FAULTS, FaultyProxy, Mode
from tests.system.faults.servers import MLflowServer
from tests.system.faults.stores import Database, Rows, SQLite
from tests.system.faults.training import (
    TINY,
    TRACEBACK,
    Command,
    Launcher,
    WarmProcess,
    kill,
    step_seconds,
    until,
    weights,
)
from tests.system.faults.training import delivery_processes as delivering

Served = tuple[MLflowServer, Database]

Proxied = Callable[[MLflowServer], FaultyProxy]

PAUSE = 0.12  # seconds that each step sleeps, so that a training outlasts the start of its delivery process
STEPS = 57  # of TINY
# No step waits for a store. One on whose way the store lies would wait 2 s at every step for a slow one and half a
# minute for one that hangs; a busy machine may hold up a step for a second or two (the true cost: benchmarks/bad_store)
MEDIAN_WAIT, LONGEST_WAIT = 1.0, 10.0  # seconds


@dataclass(frozen=True)
class Reference:
    """The same training undisturbed."""

    rows: Rows
    weights: dict[str, dict[str, bytes]]
    params: dict[str, str]
    seconds: float  # of a step with tracking=none, without its pause: the median


@pytest.fixture(scope="module")
def reference(
    warm_process: WarmProcess, empty_file: Path, sqlite_server: Served, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    launcher = Launcher(folder, warm_process)
    store = SQLite(folder / "mlflow.db")
    store.path.write_bytes(empty_file.read_bytes())
    pace = {"FAULTS_STEP_SECONDS": PAUSE, "FAULTS_STEP_TIMES": folder / "times"}
    untracked = launcher(
        "run", *TINY, "max_steps=30", "tracking=none", f"hydra.run.dir={folder}/untracked", environment=pace
    )
    where = [f"tracking.uri={store.uri}", "tracking.experiment=reference", f"hydra.run.dir={folder}/tracked"]
    launcher("run", *TINY, *where).succeeded()
    untracked.succeeded()
    run = stores.only_run(store, "reference")
    assert run.status == "FINISHED"
    assert len([place for place in run.rows if place[0] == "train/loss"]) == STEPS
    seconds = statistics.median(step_seconds(folder / "times")) - PAUSE
    return Reference(run.rows, weights(folder / "tracked"), stores.params(store, run.id), seconds)


@dataclass
class Trial:
    """One training against one store, its folder and what is expected of it."""

    lwexp: Launcher
    database: Database
    reference: Reference
    experiment: str
    folder: Path
    pause: float = PAUSE
    started: float = field(default_factory=time.time)

    def start(self, url: str, *more: str, steps_of: tuple[str, ...] = TINY) -> Command:
        where = [f"tracking.uri={url}", f"tracking.experiment={self.experiment}", f"hydra.run.dir={self.folder}"]
        pace = {"FAULTS_STEP_SECONDS": self.pause, "FAULTS_STEP_TIMES": self.folder.with_suffix(".times")}
        return self.lwexp("run", *steps_of, *where, *more, environment=pace)

    def steps(self) -> int:
        """Optimizer steps so far."""
        path = self.folder.with_suffix(".times")
        return path.read_text().count("\n") if path.exists() else 0

    def arrived(self) -> int:
        """Rows that the store has so far."""
        return sum(len(run.rows) for run in stores.runs(self.database, self.experiment))

    def sync(self, *more: str) -> Command:
        return self.lwexp("sync", str(self.folder), *more)

    def check(self) -> stores.Run:
        """All rows once, with the values of the undisturbed run and the times of the steps; FINISHED; same weights."""
        run = stores.only_run(self.database, self.experiment)
        assert not run.missing(self.reference.rows), run.missing(self.reference.rows)[:9]
        assert not run.extra(self.reference.rows), run.extra(self.reference.rows)[:9]
        assert run.repeated == 0
        assert run.stale == []
        assert run.status == "FINISHED"
        assert weights(self.folder) == self.reference.weights
        times = stores.times(self.database, run.id)
        assert times == sorted(times)
        assert times[0] >= self.started * 1000 - 1
        assert times[-1] - times[0] >= 900 * (STEPS - 1) * self.pause, "these are not the times of the steps"
        ours = {name: value for name, value in self.reference.params.items() if not name.startswith("tracking.")}
        assert ours.items() <= stores.params(self.database, run.id).items()
        assert "mlflow.note.content" in stores.tags(self.database, run.id)
        return run

    def check_files(self, server: MLflowServer, run: stores.Run) -> None:
        """The server has the run's files, whole."""
        (root,) = server.artifacts.glob(f"*/{run.id}/artifacts")
        for name in ("config.yaml", "plan.csv", "best.safetensors"):
            assert (root / name).read_bytes() == (self.folder / name).read_bytes()

    def check_pace(self, what: str) -> None:
        """No step waited for the store; the figures are printed."""
        seconds = [each - self.pause for each in step_seconds(self.folder.with_suffix(".times"))]
        assert len(seconds) == STEPS - 1
        median, none = statistics.median(seconds), self.reference.seconds
        print(
            f"\n{what}: step {1000 * median:.2f} ms, tracking=none {1000 * none:.2f} ms: ratio {median / none:.2f}, "
            f"of the whole step {(median + self.pause) / (none + self.pause):.3f}; longest wait {max(seconds):.2f} s"
        )
        assert median < MEDIAN_WAIT
        assert max(seconds) < LONGEST_WAIT


@pytest.fixture
def trial(lwexp: Launcher, sqlite_server: Served, reference: Reference, experiment: str, tmp_path: Path) -> Trial:
    return Trial(lwexp, sqlite_server[1], reference, experiment, tmp_path / "run")


def one_line(command: Command, code: int) -> str:
    """The one line on standard error of a command that ended with `code`."""
    assert command.wait() == code, command.text
    lines = command.err.strip().splitlines()
    assert len(lines) == 1, command.err
    assert TRACEBACK not in command.text
    return lines[0]


@contextmanager
def in_between(action: Callable[[], None]) -> Iterator[None]:
    """`action` in a thread of its own; its error comes out at the end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    for error in errors:
        raise error


# ------------------------------------------------------------------------------------------ a server that goes away


def outage(trial: Trial, command: Command, break_it: Callable[[], None], mend: Callable[[], None], rest: float) -> None:
    """Break the store once rows have begun to arrive, mend it `rest` seconds later; training goes on meanwhile."""
    until(trial.arrived, 40, "the first rows in the store")
    step = trial.steps()
    assert step < STEPS - 10, "the fault would come after the training; make the steps slower"
    break_it()
    try:
        broken = time.monotonic()
        until(lambda: trial.steps() >= min(step + 8, STEPS), 10, "steps while the store is away")
        time.sleep(max(0.0, broken + rest - time.monotonic()))
    finally:
        mend()
    command.succeeded()


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


@pytest.fixture(params=["sqlite", "postgres"])
def any_server(request: pytest.FixtureRequest) -> Served:
    served: Served = request.getfixturevalue(f"{request.param}_server")
    return served


@pytest.fixture
def any_trial(lwexp: Launcher, any_server: Served, reference: Reference, experiment: str, tmp_path: Path) -> Trial:
    return Trial(lwexp, any_server[1], reference, experiment, tmp_path / "run")


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


# ------------------------------------------------------------------------------------------------- many runs at once


def at_once(lwexp: Launcher, store: SQLite, reference: Reference, tmp_path: Path, count: int) -> None:
    commands = []
    for number in range(count):
        where = [f"tracking.uri={store.uri}", f"tracking.experiment=at-once-{number}"]
        commands.append(lwexp("run", *TINY, *where, f"hydra.run.dir={tmp_path}/runs/{number}"))
    for command in commands:
        command.succeeded(400)
    late = [number for number in range(count) if stores.only_run(store, f"at-once-{number}").status != "FINISHED"]
    if late:  # the store was too busy for some within tracking.flush_timeout
        print(f"\n{len(late)} of {count} left the rest to lwexp.sync")
        lwexp("sync", *(f"{tmp_path}/runs/{number}" for number in late)).succeeded(400)
    for number in range(count):
        run = stores.only_run(store, f"at-once-{number}")
        assert (run.status, run.missing(reference.rows), run.extra(reference.rows)) == ("FINISHED", [], [])
        assert (run.repeated, run.stale) == (0, [])
    outputs = lwexp.outputs()
    assert "locked" not in outputs, [line for line in outputs.splitlines() if "locked" in line][:3]
    assert TRACEBACK not in outputs


@pytest.mark.slow
def test_4_runs_at_once_on_one_file(lwexp: Launcher, file_store: SQLite, reference: Reference, tmp_path: Path) -> None:
    at_once(lwexp, file_store, reference, tmp_path, 4)


@pytest.mark.slow
def test_16_runs_at_once_on_one_file(lwexp: Launcher, file_store: SQLite, reference: Reference, tmp_path: Path) -> None:
    at_once(lwexp, file_store, reference, tmp_path, 16)


@pytest.mark.slow
def test_16_runs_at_once_on_a_file_without_tables(lwexp: Launcher, reference: Reference, tmp_path: Path) -> None:
    at_once(lwexp, SQLite(tmp_path / "new.db"), reference, tmp_path, 16)


# --------------------------------------------------------------------------------------------------------------- sync


def undelivered(trial: Trial, proxy: FaultyProxy) -> None:
    """A run that ended while nobody answered."""
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
