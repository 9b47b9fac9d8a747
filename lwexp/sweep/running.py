"""Running the jobs of points through Hydra's launcher, each by one process at a time, and accounting for lost jobs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lwexp import redaction
from lwexp.config.schema import MLflowConfig, RunConfig
from lwexp.errors import LwexpError
from lwexp.experiment.manifest import Point
from lwexp.formatting import one_line
from lwexp.tracking import original_of

from .launchers.base import loss_reason
from .outcome import LOST, Outcome, note_failure, note_loss, outcome_of, outcomes_in
from .parent import record_copy, record_run
from .planning import Planner

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher

_POLL_SECONDS = 1.0
_END_SECONDS = 60.0  # for interrupted jobs to save their checkpoints; Slurm gives them 30


@dataclass(frozen=True)
class Records:
    """Where the jobs of a sweep leave their results: their folders in `folder`, and MLflow.

    `base` is the folder of the command, to which the store's relative address is relative.
    """

    folder: Path
    base: Path
    tracking: MLflowConfig | None

    def adopt_copies(self, points: Iterable[Point]) -> None:
        """Give the finished jobs of a copied sweep, whose original is still there, runs of their own."""
        for point in points:
            folder = point.folder_in(self.folder)
            if self.tracking is not None and outcome_of(folder).status == "FINISHED" and original_of(folder):
                record_copy(self.tracking, folder, self.base)

    def refuse(self, point: Point, error: LwexpError) -> None:
        """Record a job that cannot start as failed, unless it has finished before."""
        folder, reason = point.folder_in(self.folder), redaction.redact(str(error))
        if outcome_of(folder).status == "FINISHED":
            return
        note_failure(folder, reason, error.exit_code)
        if self.tracking is not None:
            record_run(self.tracking, folder, self.base, "FAILED", reason)

    def lose(self, point: Point, reason: str) -> None:
        """Record a job that died before it could do so itself; `reason` is what its launcher knows."""
        folder = point.folder_in(self.folder)
        try:
            note_loss(folder, reason)
            if self.tracking is not None:
                record_run(self.tracking, folder, self.base, "KILLED", reason)
        except (LwexpError, OSError) as error:  # a full disk
            print(redaction.redact(f"{point.name}: {reason}; that cannot be recorded: {error}"), file=sys.stderr)


class JobRunner:
    """Runs jobs through a launcher of Hydra's until each is finished or has failed."""

    def __init__(
        self, launcher: Launcher, planner: Planner, records: Records, max_batch_size: int | None = None
    ) -> None:
        """`max_batch_size` jobs at most are handed to the launcher at once."""
        self._launcher, self._planner, self._records, self._most = launcher, planner, records, max_batch_size

    def run(self, points: Sequence[Point]) -> list[Outcome]:
        """Run what is not finished of `points`, and wait for what others are running; the outcomes, in their order.

        A job that failed before is tried once more, an interrupted one resumes. No job is run twice at a time.
        """
        tried: set[Point] = set()
        while True:
            outcomes = outcomes_in(self._records.folder, points)
            elsewhere = [p for p, o in outcomes.items() if o.status == "RUNNING"]
            todo = [p for p, o in outcomes.items() if o.status not in ("RUNNING", "FINISHED") and p not in tried]
            todo = [p for p in todo if isinstance(self._planner.config_of(p.overrides), RunConfig)]
            if todo:
                size = self._most or len(todo)
                for first in range(0, len(todo), size):
                    self._launch(todo[first : first + size], first)
                tried.update(todo)
            elif elsewhere:
                time.sleep(_POLL_SECONDS)
            else:
                return list(outcomes.values())

    def _launch(self, points: Sequence[Point], first: int) -> None:
        """One batch; `first` is the position of its first job among those of this run."""
        jobs = [[*self._planner.overrides_of(p.overrides), f"hydra.sweep.subdir={p.number}"] for p in points]
        reasons: dict[Point, str] = {}
        try:
            with _quiet_launcher():
                results = self._launcher.launch(jobs, initial_job_idx=first)
            reasons = {point: loss_reason(result) for point, result in zip(points, results, strict=True)}
        except Exception as error:  # of the launcher itself; the outcomes of its jobs are in their folders
            print(redaction.redact(f"the launcher reports {one_line(error, 300, kind=True)}"), file=sys.stderr)
        except BaseException:
            self._end_interrupted(points)
            raise
        for point, outcome in outcomes_in(self._records.folder, points).items():
            reason = reasons.get(point)
            if outcome.reason == LOST or (outcome.status == "MISSING" and reason):
                self._records.lose(point, reason or LOST)

    def _end_interrupted(self, points: Sequence[Point]) -> None:
        """Wait for those of `points` that the launcher is ending, and record the end of those that could not.

        A second Ctrl-C does not wait for the jobs, a third one does not wait for the store.
        """
        folder, deadline = self._records.folder, time.monotonic() + _END_SECONDS
        with suppress(KeyboardInterrupt):
            while any(outcome.status == "RUNNING" for outcome in outcomes_in(folder, points).values()):
                if time.monotonic() > deadline:
                    break
                time.sleep(_POLL_SECONDS)
        with suppress(KeyboardInterrupt):
            for point, outcome in outcomes_in(folder, points).items():
                if outcome.status == "KILLED":
                    self._records.lose(point, "interrupted" if outcome.reason in (None, LOST) else outcome.reason)


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """Without the log lines of Hydra's own launcher: the sweep reports each job."""
    logger = logging.getLogger("hydra._internal.core_plugins.basic_launcher")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
