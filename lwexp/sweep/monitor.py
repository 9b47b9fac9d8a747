"""What users see of a running sweep: a line per job that ends, and the parent run's progress."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lwexp import redaction
from lwexp.experiment.manifest import Point
from lwexp.formatting import few
from lwexp.host.console import console, duration

from . import table
from .outcome import Outcome, outcomes_in
from .parent import Parent

_POLL_SECONDS = 1.0
_POLLS_PER_SECOND = 2000  # of single jobs' folders, so that watching a large sweep costs little
_ENDED = ("FINISHED", "FAILED", "KILLED")


class Monitor:
    """Reports jobs as they end; each status once."""

    def __init__(self, folder: Path, parent: Parent | None, *, threaded: bool) -> None:
        """`threaded`: reports while jobs run. Jobs in this very process leave no room for a second thread."""
        self.points: tuple[Point, ...] = ()
        self.expected = 0  # jobs in all, as far as a search can say before it has drawn them
        self._folder, self._parent, self._threaded = folder, parent, threaded
        self._running: list[str] = []  # names of jobs
        self._started, self._before = time.monotonic(), 0  # jobs that had ended then
        self._reported: dict[int, str] = {}  # the last status by the job's number

    @property
    def total(self) -> int:
        """How many jobs the sweep has, as far as that is known."""
        return max(self.expected, len(self.points))

    def outcomes(self) -> dict[Point, Outcome]:
        """The outcome of every point so far."""
        return outcomes_in(self._folder, self.points)

    def skip_known(self) -> None:
        """Take the present outcomes as reported."""
        self._reported = {point.number: outcome.status for point, outcome in self.outcomes().items()}
        self._before = sum(status in _ENDED for status in self._reported.values())

    def text(self) -> str:
        """What the sweep does, for the console."""
        done = sum(status in _ENDED for status in self._reported.values())
        new, took = done - self._before, time.monotonic() - self._started
        left = f", {duration(took / new * (self.total - done))} left" if new > 0 and self.total > done else ""
        names = few([name for name in self._running if name], 2)
        return f"{done} of {self.total} jobs done{left}{f', running {names}' if names else ''}"

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Reports while the `with` block runs jobs, and once more at its end, however it ends."""
        done = threading.Event()
        pause = max(_POLL_SECONDS, len(self.points) / _POLLS_PER_SECOND)

        def watch() -> None:
            while not done.wait(pause):
                self.report(running=True)

        thread = threading.Thread(target=watch, daemon=True)
        if self._threaded:
            thread.start()
        try:
            yield
        finally:
            done.set()
            if self._threaded:
                thread.join()
            self.report()

    def report(self, *, running: bool = False) -> None:
        """A line for each job that has ended since the last report; the parent run's progress.

        While the launcher is `running`, killed jobs are not reported: a cluster may restart them.
        """
        outcomes = self.outcomes()
        self._running = [point.name for point, outcome in outcomes.items() if outcome.status == "RUNNING"]
        for point, outcome in outcomes.items():
            if outcome.status == self._reported.get(point.number) or (outcome.status == "KILLED" and running):
                continue
            self._reported[point.number] = outcome.status
            if outcome.status in _ENDED:
                done = sum(status in _ENDED for status in self._reported.values())
                stream = sys.stderr if outcome.failed else sys.stdout
                with console.writing():
                    print(redaction.redact(table.line(point, outcome, done, self.total)), file=stream, flush=True)
        if self._parent is not None:
            self._parent.show(list(outcomes.values()), self.total)
