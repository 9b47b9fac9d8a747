"""The files in a run's folder: whose it is, whether a run may start there, its result, the list of its resumptions."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwexp.errors import ConfigError, RunError
from lwexp.host.files import atomic_write, remove_temporaries
from lwexp.host.lock import FOLDER_LOCK, OWNER, FolderLock
from lwexp.tasks import task_of
from lwexp.tracking import deliver_rest, has_run, run_status
from lwexp.training.monitor import Monitor

from .changes import changes, is_other_length
from .data_record import FILE as DATA
from .model_record import FILE as MODEL
from .model_record import TOKENIZER
from .saved_config import FILE as CONFIG
from .saved_config import config_before

if TYPE_CHECKING:
    from lwexp.config.schema import RunConfig

log = logging.getLogger(__name__)

_RESULT = "result.json"
COST = ("steps", "train_seconds", "peak_memory_mb")  # of a run, beside its metrics
# What is in a folder before its run has started
_BEFORE_RUN = {
    ".hydra", "lwexp.log", CONFIG, DATA, MODEL, TOKENIZER, "journal.lock", "journal.lwexp", "journal.reserve",
    "delivery.lock", "delivery.json", "delivery.owner", FOLDER_LOCK, OWNER,
}  # fmt: skip
_OF_OTHERS = {"delivery.json", "job.json", "sweep.json"}  # written by a delivery, or by the process that launched a job


def own_folder(folder: Path, resume: str | None) -> FolderLock:
    """Make this process the folder's owner; `resume` is the option's value. Raises `ConfigError`, naming the owner.

    What killed processes left of files that only the owner writes is removed.
    """
    lock = FolderLock(folder).acquire(*(("resume", resume) if resume else ("hydra.run.dir", folder)))
    remove_temporaries(folder, but=_OF_OTHERS)
    return lock


def check_place(folder: Path, resume: str | None) -> None:
    """Raise `ConfigError` unless `folder` is free for a run, or `resume` ("auto", or itself) continues the run in it.

    What `resume=<run>` on the command line names becomes the run's folder; from anywhere else it cannot be taken.
    """
    if resume is None:
        if has_run(folder):
            why = "holds a run already; resume=auto resumes it with this command's options, resume=<folder> as it is"
            raise ConfigError("hydra.run.dir", folder, why)
    elif not resume:
        raise ConfigError("resume", resume, "names no run; give a run's folder, an MLflow run id, or auto")
    elif resume not in ("auto", str(folder)):
        raise ConfigError("resume", resume, "can be given on the command line only")


@dataclass(frozen=True)
class Result:
    """What a run has come to: the metrics of its best evaluation, and of the test split with those weights."""

    metrics: Mapping[str, float]
    monitor: Monitor  # by which it was the best
    pruned: str | None = None  # why a search has ended it early
    stopped: str | None = None  # why it has stopped early by itself
    cost: Mapping[str, float] = field(default_factory=dict)  # those of COST that are known

    @property
    def value(self) -> float:
        """The monitored metric; NaN if it is not known any more."""
        return self.metrics.get(self.monitor.metric, math.nan)


def finished(config: RunConfig, values: Mapping[str, Any], folder: Path, base: Path) -> Result | None:
    """The result of the run in `folder` if it is finished; delivers what its store lacks.

    None also for one that is to be trained longer. Raises `ConfigError` where `values` have other numbers than its own.
    """
    if not has_run(folder) or run_status(folder) != "FINISHED":
        return None
    before = config_before(folder)
    if before is not None:
        longer = is_other_length(before, values)
        remap = longer and config.checkpoint.remap
        changes(before, values, remap=remap, advice="it is finished, so that needs another run")
        if longer:
            return None
    deliver_rest(config.tracking, folder, base)
    result = read_result(folder)
    monitor, value = result.monitor, result.value
    log.info("the run in %s is finished, with a best %s of %s", folder, monitor.words, monitor.shown(value))
    return result


def save_result(folder: Path, result: Result) -> None:
    """Write the run's result. Raises `RunError`."""
    how = {"monitor": result.monitor.metric, "monitor_mode": result.monitor.mode}
    ends = {"pruned": result.pruned, "stopped": result.stopped}
    how |= {key: why for key, why in ends.items() if why is not None}
    _write(folder / _RESULT, json.dumps({**result.metrics, **how, **result.cost}, indent=1))


def read_result(folder: Path) -> Result:
    """The result of the run in `folder`, also of an earlier version of lwexp; without metrics if it has none."""
    try:
        found = dict(json.loads((folder / _RESULT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        found = {}
    metrics = {key: float(value) for key, value in found.items() if isinstance(value, (int, float))}
    cost = {key: metrics.pop(key) for key in COST if key in metrics}
    monitor, (pruned, stopped) = Monitor.of(task_of(metrics)), (found.get(key) for key in ("pruned", "stopped"))
    if isinstance(found.get("monitor"), str):
        monitor = Monitor(found["monitor"], "min" if found.get("monitor_mode") == "min" else "max")
    pruned, stopped = (None if each is None else str(each) for each in (pruned, stopped))
    return Result(metrics, monitor, pruned, stopped, cost)


@dataclass
class NewFolder:
    """A run's folder, and what of its path this process makes: `missing`, innermost first."""

    path: Path
    missing: tuple[Path, ...]
    lock: FolderLock | None = None  # once it is taken

    @classmethod
    def before_made(cls, path: Path) -> NewFolder:
        """To be called just before Hydra makes the folder."""
        return cls(path, tuple(folder for folder in (path, *path.parents) if not folder.exists()))

    def remove_if_unused(self) -> None:
        """Remove what this process has made, if no run has started in it and it holds nothing else.

        Before the lock is taken, folders that are empty: another process may start a run in them.
        """
        if not self.missing or has_run(self.path):
            return
        try:
            if self.lock is None:
                for folder in self.missing:
                    folder.rmdir()
            elif {path.name for path in self.path.iterdir()} <= _BEFORE_RUN:
                shutil.rmtree(self.path)
                for parent in self.missing[1:]:
                    parent.rmdir()  # fails where another run has started below it
        except OSError:
            pass  # it stays, which is merely untidy

    def release(self) -> None:
        """Free the folder for other processes."""
        if self.lock is not None:
            self.lock.release()


def _write(file: Path, text: str) -> None:
    """Write the file atomically and durably. Raises `RunError`."""
    try:
        atomic_write(file, text)
    except OSError as error:
        raise RunError(f"{file} cannot be written: {error.strerror or error}") from error
