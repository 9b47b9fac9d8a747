"""The record of a training whose loop is not lwexp's; `track` makes one."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import torch

from lwexp.config.schema import MLflowConfig
from lwexp.core.plan_table import PlanTable
from lwexp.core.schedule import Schedule
from lwexp.core.scheduler import PlanScheduler
from lwexp.distributed.launch import read_launch
from lwexp.errors import ConfigError, RunError, UnknownNameError
from lwexp.host.lock import FolderLock
from lwexp.tracking import JournalTracker, Status, has_run, open_hint, prepare, start, started_in

from .describe import cluster_tags, place_tags, plan_note, plan_params, plan_tags, save_plan
from .ending import end_of
from .metrics import as_numbers, as_step, as_texts
from .pictures import keep_planned, keep_recorded
from .place import PLAN, Place, check_place, save_plan_json
from .rates import OptimizerRates
from .resumed import note_resumed

log = logging.getLogger(__name__)


class Record:
    """Keeps what is logged of one training, from one thread; see `track` for the whole and the arguments.

    `folder` is the run's own; on ranks other than 0 nothing is written and every call returns at once.
    """

    def __init__(
        self,
        plan: PlanTable,
        schedule: PlanScheduler | None,
        rates: OptimizerRates,
        place: Place,
        config: MLflowConfig,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        """Begin nothing yet; `track` has checked the arguments."""
        self.plan, self.name = plan, name
        self._scheduler, self._rates = schedule, rates
        self._place, self._config, self._params, self._tags = place, config, params, tags
        self._tracker: JournalTracker | None = None  # while it is kept
        self._lock: FolderLock | None = None
        self._phase = "new"
        self._idle = False  # another rank keeps the record
        self._pid = os.getpid()
        self._resumed = False
        self._first_epoch = 0  # the scheduler's at the start
        self._next: int | None = None  # step
        self._last: dict[str, int] = {}  # by metric: the last step in this process

    @property
    def folder(self) -> Path:
        """The folder of the run, absolute."""
        return self._place.folder

    @property
    def _schedule(self) -> Schedule | None:
        return None if self._scheduler is None else self._scheduler.schedule

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until the store has created it."""
        return self._tracker.run_id if self._tracker is not None else None

    def start(self) -> Record:
        """Begin the run, or continue it; returns the record itself.

        Raises `ConfigError` for a mistake, a folder in use and a store that refuses; `RunError` for a full disk.
        """
        if self._phase != "new":
            raise RunError(f"the record {self.name} has been started already; lwexp.track(…) makes another one")
        self._phase, self._pid = "open", os.getpid()
        if _rank() != 0:
            self._idle = True
            return self
        self._first_epoch = self._scheduler.last_epoch if self._scheduler is not None else 0
        new = not self.folder.exists()
        try:
            self._lock = FolderLock(self.folder).acquire(self._place.key, self.folder)
            with _names_of_arguments():
                self._tracker = self._begin()
            self._describe(self._tracker)
        except BaseException as error:
            self._end(*end_of(error))
            if new and not has_run(self.folder):
                shutil.rmtree(self.folder, ignore_errors=True)
            raise
        atexit.register(self._at_exit)
        return self

    def step(self, metrics: Mapping[str, Any] | None = None, *, step: int | None = None) -> None:
        """Record an optimizer step: the rate of every group as it is now, and `metrics` (numbers or scalar tensors).

        Call it after `optimizer.step()` and before `scheduler.step()`. `step` is the number of the optimizer step,
        the first is 0; by default one more than before, and at first that of the scheduler that `track` was given.
        What a resumed run had recorded before stays as it is. Raises `ConfigError`, and `RunError` on a full disk.
        """
        tracker = self._open("a step")
        if tracker is None:
            return
        number = self._number(step, tracker)
        self._write(tracker, metrics, number, self._rates.read())
        if self._resumed and self._next is None:
            tracker.tag({"lwexp.resumed": note_resumed(self.folder, number)})
        self._next = number + 1

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record `metrics` at an optimizer step, by default the last one, such as an evaluation after it."""
        tracker = self._open("metrics")
        if tracker is not None:
            last = tracker.journal.last_step if self._next is None else self._next - 1
            self._write(tracker, metrics, max(last, 0) if step is None else as_step(step), {})

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Keep a file, or a folder's files, under `folder` of the run's artifacts."""
        tracker = self._open("an artifact")
        if tracker is not None:
            tracker.artifact(Path(path), folder)

    def tag(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the run."""
        tracker = self._open("a tag")
        if tracker is not None:
            tracker.tag(as_texts("tags", tags))

    def end(self, status: Status = "FINISHED", reason: str | None = None) -> None:
        """End the run: deliver what is left, and set its status. A second call does nothing."""
        if status not in get_args(Status):
            raise UnknownNameError("status", status, get_args(Status), "no such status")
        if self._phase == "open":
            self._end(status, reason)

    def __enter__(self) -> Record:
        """Start, unless it has been started."""
        return self.start() if self._phase == "new" else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run: FINISHED, FAILED with the error, or KILLED by an interrupt."""
        self.end(*end_of(error))

    def __repr__(self) -> str:
        """Name, folder and store."""
        where = self._tracker.where if self._tracker is not None else "not recorded" if self._idle else self._phase
        return f"<lwexp record {self.name!r} in {self.folder}: {where}>"

    def _begin(self) -> JournalTracker:
        plan, folder, schedule = self.plan, self.folder, self._schedule
        self._resumed = check_place(self._place, plan)
        base = started_in(folder) or Path.cwd()
        answers = prepare(self._config, base, hint="")
        save_plan_json(plan, folder)
        uniform = (plan.uniform if schedule is None else schedule.uniform) and not plan.frozen_names
        own = {**plan_tags(plan, uniform=uniform), **place_tags(folder, base)}
        tracker = start(
            self._config,
            folder=folder,
            base=base,
            run_name=self.name,
            params={**plan_params(plan, schedule), "optimizer.name": self._rates.names, **self._params},
            tags={**own, **self._tags},
            description=plan_note(plan),
            answers=answers,
            source=sys.argv[0] if sys.argv[:1] and Path(sys.argv[0]).is_file() else "lwexp.track",
        )
        self.name = tracker.run_name
        return tracker

    def _describe(self, tracker: JournalTracker) -> None:
        """Keep the plan, and the pictures of its rates where they are known."""
        for path in (save_plan(self.plan, self.folder), self.folder / PLAN):
            tracker.artifact(path)
        if self._resumed:
            tracker.tag({**self._tags, "lwexp.folder": str(self.folder), **cluster_tags()})
        keep_planned(tracker, self.plan, self._schedule, self.folder)

    def _number(self, step: int | None, tracker: JournalTracker) -> int:
        """The number of the step to be recorded."""
        last = tracker.journal.last_step
        if step is not None:
            number = as_step(step)
        elif self._next is not None:
            return self._next
        elif self._scheduler is not None:
            number = self._scheduler.last_epoch
            if number == self._first_epoch + 1:
                why = "call record.step() before scheduler.step(): the optimizer has the rates of the next step already"
                raise ConfigError("step", number, why)
        elif last >= 0:
            why = f"the run has the steps up to {last}; give the number of the first one here: record.step(…, step=…)"
            raise ConfigError("step", None, why)
        else:
            number = 0
        if self._next is None and number <= last:
            log.info("steps %d to %d were recorded before and stay as they are", number, last)
        if self._next is not None and number < self._next:
            raise ConfigError("step", number, f"step {self._next - 1} has been recorded already; steps count up")
        return number

    def _write(self, tracker: JournalTracker, metrics: object, step: int, rates: dict[str, float]) -> None:
        values = as_numbers(metrics)
        if not values.keys().isdisjoint(rates):
            name = next(name for name in values if name in rates)
            raise ConfigError("metrics", name, "is the name of a group's rate, which record.step adds itself")
        row = {**values, **rates}
        for name in row:
            if self._last.get(name, -1) >= step:
                why = f"{name} has been recorded at step {self._last[name]} already; the steps of a metric count up"
                raise ConfigError("step", step, why)
        tracker.log(row, step)
        self._last.update(dict.fromkeys(row, step))

    def _open(self, what: str) -> JournalTracker | None:
        """The tracker; None where another process keeps the record. Raises `RunError` unless it is open."""
        if self._phase != "open":
            why = "has ended" if self._phase == "ended" else "has not been started (with …, or record.start())"
            raise RunError(f"the record {self.name} {why}; {what} cannot be recorded")
        return None if self._idle or os.getpid() != self._pid else self._tracker

    def _end(self, status: Status, reason: str | None) -> None:
        self._phase = "ended"
        tracker = self._tracker
        if self._idle or os.getpid() != self._pid:
            return
        atexit.unregister(self._at_exit)
        try:
            if tracker is not None and status == "FINISHED":
                keep_recorded(tracker, self.plan, self._schedule, self.folder)
        finally:
            try:
                if tracker is not None:
                    tracker.finish(status, reason)
                    hint = open_hint(self._config, started_in(self.folder))
                    log.info("tracked in %s as %s\n%s", tracker.where, tracker.run_id, hint)
            finally:
                if self._lock is not None:
                    self._lock.release()

    def _at_exit(self) -> None:
        """The process ends, and `end` was not called."""
        error = getattr(sys, "last_value", None)
        unended: tuple[Status, str | None] = ("KILLED", "the process ended before record.end()")
        if self._phase == "open":
            self._end(*(unended if error is None else end_of(error)))


def _rank() -> int:
    """This process's rank: of torch.distributed where it runs, else as the launcher says."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return read_launch().rank


@contextmanager
def _names_of_arguments() -> Iterator[None]:
    """Errors about `tracking.uri` and `tracking.experiment` name the arguments `uri` and `experiment`."""
    try:
        yield
    except ConfigError as error:
        if not error.key.startswith("tracking."):
            raise
        raise ConfigError(error.key.removeprefix("tracking."), error.value, error.why) from None
