"""One training against one store, and what is expected of it: every row exactly once, at training's own pace."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.faults import stores
from tests.system.faults.servers import MLflowServer
from tests.system.faults.stores import Database, Rows
from tests.system.faults.training import (
    TINY,
    TRACEBACK,
    Command,
    Launcher,
    step_seconds,
    until,
    weights,
)

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


def outage(trial: Trial, command: Command, break_it: Callable[[], None], mend: Callable[[], None], rest: float) -> None:
    """Break the store once rows arrive, and restore it `rest` seconds later; training continues meanwhile."""
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
