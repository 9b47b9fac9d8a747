"""One MLflow run, delivered in batches by a background thread, off the training loop's critical path."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from lwexp.errors import RunError

from .address import redact
from .contact import one_line
from .keys import safe_key, safe_keys, tag_values
from .store import explained, persist

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

Status = Literal["FINISHED", "FAILED", "KILLED"]

BATCH_ROWS = 1000  # MLflow's limit for one call
BATCH_SECONDS = 1.0  # a row waits at most so long for others
PATIENCE_SECONDS = 60.0  # a store that fails for longer has failed
KILLED_PATIENCE_SECONDS = 10.0  # Slurm gives 30 s between SIGTERM and SIGKILL
HANGING_SECONDS = 150.0  # no word at all from a store for longer than MLflow's own limit for a request, 120 s

_log = logging.getLogger(__name__)


class _Rows(NamedTuple):
    """What one `log` call hands to the background thread; `time_ms` since the Unix epoch."""

    time_ms: int
    step: int
    values: dict[str, float]


class _End(NamedTuple):
    status: Status
    reason: str | None


class MLflowTracker:
    """One MLflow run. `log` only queues; one daemon thread makes the deliveries and, at the end, sets the status."""

    def __init__(self, client: MlflowClient, run_id: str, run_name: str, uri: str) -> None:
        """Take over the run `run_id` of the store at `uri`, until `finish` or the interpreter's exit."""
        self.run_id: str | None = run_id
        self.run_name, self.where = run_name, redact(uri)
        self._client, self._uri, self._id = client, uri, run_id
        self._pid = os.getpid()
        self._queue: queue.SimpleQueue[_Rows | _End] = queue.SimpleQueue()
        self._logged = self._delivered = 0  # rows; the first is written by the caller's thread, the second by ours
        self._keys: dict[str, str] = {}
        self._patience = PATIENCE_SECONDS
        self._failure: str | None = None  # why a delivery was given up
        self._told = self._ending = self._finished = False
        self._last_word = time.monotonic()  # when the store last answered
        self._thread = threading.Thread(target=self._work, daemon=True, name="lwexp-tracking")
        self._thread.start()
        atexit.register(self._abandoned)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue `metrics` of `step` with the present time.

        Raises `RunError`, once, when the store has failed for good, and after `finish`.
        """
        if self._ending:
            raise RunError(f"run {self.run_name} has ended; step {step} cannot be logged")
        rows = _Rows(time.time_ns() // 1_000_000, step, {name: float(value) for name, value in metrics.items()})
        self._queue.put(rows)
        self._logged += len(rows.values)
        if self._failure is not None:
            self._tell()

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy the file or folder `path` to the run's artifacts; returns when it is there."""
        if not path.exists():
            raise RunError(f"{path} is to be kept with run {self.run_name}, but does not exist")
        copy = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        self._now(lambda: copy(self._id, str(path), folder), f"did not take {path.name}")

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags; values over MLflow's 8,000 characters are cut, secrets in addresses are hidden."""
        from mlflow.entities import RunTag

        entities = [RunTag(key, value) for key, value in tag_values(tags).items()]
        self._now(lambda: self._client.log_batch(self._id, tags=entities), "did not take tags")

    def position(self) -> int:
        """There is no journal."""
        return 0

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Return when every row is delivered and the status is set; `reason` becomes the tag `lwexp.reason`.

        Raises `RunError`, once, with the number of rows that were not delivered. Interrupted while it waits, it can
        be called again, and then goes on waiting.
        """
        if self._finished:
            return
        if status == "KILLED":
            self._patience = min(self._patience, KILLED_PATIENCE_SECONDS)
        if not self._ending:
            self._ending, self._last_word = True, time.monotonic()
            self._queue.put(_End(status, reason))
        hanging = HANGING_SECONDS if status != "KILLED" else 1.5 * KILLED_PATIENCE_SECONDS
        while self._thread.is_alive() and time.monotonic() - self._last_word < hanging:
            self._thread.join(0.1)
        self._finished = True
        atexit.unregister(self._abandoned)
        if self._thread.is_alive() and self._failure is None:
            self._failure = f"no answer for {hanging:g} s"
        if self._failure is not None:
            self._tell()

    def _now(self, action: Callable[[], object], otherwise: str) -> None:
        with explained(self._uri, otherwise):
            persist(action, self._patience)

    def _tell(self) -> None:
        """Raise the failure, the first time only: whoever catches it still calls `finish`."""
        if self._told:
            return
        self._told = True
        missing = self._logged - self._delivered
        lost = f"{missing} of {self._logged} metric rows were not delivered" if missing else "the status was not set"
        raise RunError(f"the tracking store {self.where} failed, {lost} to run {self.run_name}: {self._failure}")

    def _abandoned(self) -> None:
        """At the interpreter's exit: nobody has ended the run."""
        if os.getpid() != self._pid:  # a forked child; the run is its parent's
            return
        try:
            self.finish("FAILED", "the process ended without finishing the run")
        except RunError as error:
            _log.error("%s", error)

    def _work(self) -> None:
        """The background thread: deliver until the end is in the queue; after a failure only wait for the end."""
        waiting: list[Metric] = []
        end: _End | None = None
        while end is None:
            end = self._collect(waiting)
            while waiting and self._failure is None:
                self._deliver(waiting[:BATCH_ROWS])
                del waiting[:BATCH_ROWS]
        self._terminate(end)

    def _collect(self, waiting: list[Metric]) -> _End | None:
        """Move rows from the queue to `waiting` until a batch is full, its time is over, or the end has come."""
        from mlflow.entities import Metric

        deadline = time.monotonic() + BATCH_SECONDS
        while len(waiting) < BATCH_ROWS or self._failure is not None:
            try:
                item = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if isinstance(item, _End):
                return item
            if self._failure is None:
                values = item.values.items()
                waiting.extend(Metric(self._key(name), value, item.time_ms, item.step) for name, value in values)
        return None

    def _key(self, name: str) -> str:
        """The key of `name`, fixed at its first use; two names never share one."""
        if name not in self._keys:
            key = safe_key(name)
            if key in self._keys.values():
                key = safe_keys([*self._keys, name])[-1]
            self._keys[name] = key
        return self._keys[name]

    def _deliver(self, batch: list[Metric]) -> None:
        # Sending a batch again is harmless: MLflow's SQL stores ignore a row that they hold already
        try:
            persist(lambda: self._client.log_batch(self._id, metrics=batch), lambda: self._patience)
        except Exception as error:  # told to the caller's thread by `log` or `finish`
            self._failure = one_line(error, self._uri)
        else:
            self._delivered += len(batch)
            self._last_word = time.monotonic()

    def _terminate(self, end: _End) -> None:
        """Set the status; a run that lacks rows is never FINISHED. After a failure one attempt is enough."""
        from mlflow.entities import RunTag

        status, reason = end
        if self._failure is not None:
            status, reason = ("FAILED" if status == "FINISHED" else status), reason or self._failure
        tags = [RunTag(*item) for item in tag_values({"lwexp.reason": reason} if reason else {}).items()]

        def set_status() -> None:
            self._client.log_batch(self._id, tags=tags)
            self._client.set_terminated(self._id, status)

        try:
            persist(set_status, lambda: self._patience if self._failure is None else 0.0)
        except Exception as error:
            self._failure = self._failure or one_line(error, self._uri)
