"""Job status, read from the job's folder: wherever the job runs, on this machine or another one.

`job.json` is written by the process in which Hydra's launcher runs the job; it holds a lock while the job runs.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Literal

from lwexp.errors import RunError
from lwexp.experiment.manifest import Point
from lwexp.host.files import atomic_write, remove_temporaries
from lwexp.host.lock import Lock
from lwexp.training.monitor import Mode, Monitor

FILE, LOCK = "job.json", "job.lock"
Status = Literal["MISSING", "RUNNING", "FINISHED", "FAILED", "KILLED"]
LOST = "its process died unexpectedly"


@dataclass
class Outcome:
    """How far a job has come. `value` is the best of the monitored metric, `exit_code` that of its failure."""

    status: Status = "MISSING"
    value: float | None = None
    reason: str | None = None  # why it failed or was killed, on one line
    metric: str = "val/accuracy"  # which is monitored
    mode: Mode = "max"
    pruned: str | None = None  # why a search pruned it, which is not a failure
    exit_code: int = 0
    started: float = 0.0  # seconds since the Unix epoch
    seconds: float = 0.0  # all attempts together
    attempts: int = 0
    host: str = ""

    @property
    def monitor(self) -> Monitor:
        """What `value` is of."""
        return Monitor(self.metric, self.mode)

    @property
    def failed(self) -> bool:
        """Whether it started and did not finish."""
        return self.status in ("FAILED", "KILLED")


def outcome_of(folder: Path) -> Outcome:
    """The outcome in the job's `folder`; RUNNING only while a process holds its lock."""
    outcome = _read(folder)
    if outcome.status == "RUNNING" and Lock(folder / LOCK).free:
        outcome = _read(folder)  # it may have ended just now
        if outcome.status == "RUNNING":
            outcome.status, outcome.reason, outcome.exit_code = "KILLED", LOST, 1
    return outcome


def outcomes_in(sweep: Path, points: Iterable[Point]) -> dict[Point, Outcome]:
    """The outcomes of `points` in the folder of the `sweep`."""
    return {point: outcome_of(point.folder_in(sweep)) for point in points}


class JobRecord:
    """Writes the outcome of a job; within `with`, the job belongs to this process alone."""

    def __init__(self, folder: Path) -> None:
        """Nothing is written until `with`."""
        self._folder, self._lock, self._began = folder, Lock(folder / LOCK), time.monotonic()
        self.outcome = _read(folder)

    def __enter__(self) -> JobRecord:
        """Lock the job. Raises `RunError` if another process runs it."""
        if not self._lock.acquire():
            raise RunError(f"another process runs the job in {self._folder}")
        remove_temporaries(self._folder, of=FILE)
        before = _read(self._folder)
        self.outcome = Outcome(
            "RUNNING", started=time.time(), seconds=before.seconds, attempts=before.attempts + 1,
            host=socket.gethostname(),
        )  # fmt: skip
        _write(self._folder, self.outcome)
        return self

    def end(
        self,
        status: Status,
        *,
        value: float | None = None,
        reason: str | None = None,
        pruned: str | None = None,
        code: int = 0,
        monitor: Monitor | None = None,
    ) -> None:
        """Write the outcome."""
        self.outcome.status, self.outcome.value, self.outcome.reason = status, value, reason
        self.outcome.pruned, self.outcome.exit_code = pruned, code
        if monitor is not None:
            self.outcome.metric, self.outcome.mode = monitor.metric, monitor.mode
        self.outcome.seconds += time.monotonic() - self._began
        _write(self._folder, self.outcome)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the job."""
        self._lock.release()


def note_failure(folder: Path, reason: str, code: int) -> None:
    """Write why a job could not start. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, Outcome("FAILED", reason=reason, exit_code=code, started=time.time()))


def note_loss(folder: Path, reason: str) -> None:
    """Write why a job was killed that could not do so itself. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    outcome = _read(folder)
    outcome.status, outcome.reason, outcome.exit_code = "KILLED", reason, 1
    _write(folder, outcome)


def _read(folder: Path) -> Outcome:
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        known = {known.name for known in fields(Outcome)}
        return Outcome(**{key: value for key, value in found.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return Outcome()


def _write(folder: Path, outcome: Outcome) -> None:
    atomic_write(folder / FILE, json.dumps(asdict(outcome), indent=1), durable=False)
