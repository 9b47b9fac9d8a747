"""The training process's side of tracking: everything is written to the journal, and another process delivers it."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lwexp.errors import ConfigError, RunError
from lwexp.host.console import console
from lwexp.host.lock import Lock
from lwexp.redaction import redact

from .artifacts import copied_into
from .base import Status
from .delivery import RUN_LOCK, end_entry
from .delivery_client import courier
from .delivery_state import DeliveryState, clear_failure, read_state
from .inputs import DatasetRecord
from .journal import Journal
from .keys import param_values
from .mirror import NAMES, how_to_look, read_mirror

KILLED_SECONDS = 10.0  # Slurm gives 30 s between SIGTERM and SIGKILL
LOCK_SECONDS = 10.0  # data workers and a delivery that closes the run may hold the folder a little longer
_WORD_SECONDS = 4.0  # between two lines about what is waited for
_CHECK_SECONDS = 1.0
_RETRY_SECONDS = 30.0  # after which a store that refused is asked again
_FIRST_SECONDS = 60.0  # MLflow creates the tables of a new database, which takes seconds

log = logging.getLogger(__name__)


class JournalTracker:
    """One run, written to its journal. Only the start and the end wait for the store."""

    def __init__(
        self,
        folder: Path,
        run_name: str,
        uri: str | None,
        flush_timeout: float,
        mirrors: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Lock and open the journal in `folder`; with `uri` None MLflow gets nothing. `mirrors`: kind -> options.

        `flush_timeout`: seconds without an answer after which `finish` stops waiting for the store. Raises `RunError`
        for a folder that is in use or cannot be written.
        """
        self.run_name, self.where = run_name, redact(uri) if uri is not None else "none"
        self.folder, self._uri, self._patience, self._mirrors = folder, uri, flush_timeout, mirrors or {}
        self._lock = Lock(folder / RUN_LOCK)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not self._lock.acquire(LOCK_SECONDS):
                raise RunError(f"another process is running in {folder}")
        except OSError as error:
            raise RunError(f"{folder} cannot be used: {error.strerror or error}") from error
        try:
            self.journal = Journal(folder)
        except BaseException:
            self._lock.release()
            raise
        self._next_check = 0.0
        self._next_retry = time.monotonic() + _RETRY_SECONDS
        self._problem: str | None = None  # as last logged
        self._answered_before = 0.0  # when the store had last answered before that
        self._stopped: set[str] = set()  # mirrors
        self._finished = self._quiet = False

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until the store has created it."""
        return read_state(self.folder).run_id

    def log(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None, *, deliver: bool = True) -> None:
        """Write `metrics` of `step` to the journal, with the present time or `time_ms`; `deliver`: to the stores, too.

        Raises `RunError` on a full disk, and after `finish`.
        """
        self._check_open(f"step {step}")
        self.journal.rows(metrics, step, time_ms, "rows" if deliver else "kept")
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + _CHECK_SECONDS
            self._check_delivery()

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep the file or folder `path` under `folder` of the run's artifacts; the delivery copies it.

        What is not in the run's folder is copied into it first: only from there files are sent.
        """
        self._check_open(path.name)
        if not path.exists():
            raise RunError(f"{path} does not exist and cannot be an artifact of run {self.run_name}")
        try:
            inside = copied_into(self.folder, path, folder)
        except (OSError, shutil.Error) as error:
            raise RunError(f"{path} cannot be copied to the artifacts of run {self.run_name}: {error}") from error
        self.journal.write("artifact", {"path": os.path.relpath(inside, self.folder), "folder": folder})

    def model(self, package: Path, facts: Mapping[str, Any]) -> None:
        """Log the packaged network in the folder `package` as an MLflow model; see `lwexp.tracking.models`."""
        self._check_open(package.name)
        self.journal.write("artifact", {"path": os.path.relpath(package, self.folder), "folder": None, "model": facts})

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags; values over MLflow's 8,000 characters are cut, secrets in addresses are redacted."""
        self._check_open("a tag")
        if tags:
            self.journal.write("tags", {key: redact(str(value)) for key, value in tags.items()})

    def inputs(self, datasets: Sequence[DatasetRecord]) -> None:
        """Log the data that the run uses; the same ones twice count once."""
        self._check_open("its data")
        self.journal.write("inputs", {"datasets": [dataset.entry() for dataset in datasets]})

    def params(self, params: Mapping[str, Any]) -> None:
        """Log params; MLflow refuses another value of one that is there."""
        self._check_open("params")
        if params:
            self.journal.write("params", param_values(params))

    def position(self) -> int:
        """Sync the journal to disk; returns its length in bytes."""
        return self.journal.sync()

    def begin(self, at_once: bool) -> None:
        """Request the run's delivery. With `at_once`, wait for the store's first answer.

        Raises `ConfigError` or `RunError` for a store that refuses the run.
        """
        for kind, options in self._mirrors.items():
            courier.mirror(self.folder, kind, options)
        if self._uri is None:
            return
        clear_failure(self.folder)
        courier.deliver(self.folder, self._uri, self._patience)
        if not at_once:
            self._problem, self._answered_before = "does not answer", 0.0  # already logged
            return
        with console.doing(f"waiting for the tracking store {self.where} to create the run"):
            self._await_start()
        self._check_delivery()

    def _await_start(self) -> None:
        """Wait for the store's first answer."""
        deadline = time.monotonic() + _FIRST_SECONDS
        while time.monotonic() < deadline:
            state = read_state(self.folder)
            if state.refused is not None:
                refused = state.refused
                if refused["key"] is not None:
                    raise ConfigError(refused["key"], refused["value"], refused["why"])
                raise RunError(f"the tracking store {self.where} refuses the run: {refused['why']}")
            if state.run_id is not None or state.problem is not None or courier.last_failure(state.pid) is not None:
                break
            time.sleep(0.02)
            courier.keep_alive()

    def finish(self, status: Status, reason: str | None = None, *, quiet: bool = False) -> None:
        """Write the end, and wait until everything is delivered; log what is not, and unless `quiet` what is.

        Stops waiting for a store that has not answered for `flush_timeout` seconds, and after 10 seconds for a run
        that was killed. A second call does nothing. If it is interrupted, the delivery continues without this process.
        """
        if self._finished:
            return
        self._quiet = quiet
        if self.journal.status is None:
            end_entry(self.journal, status, redact(reason) if reason else None)
        try:
            at_most = KILLED_SECONDS if status == "KILLED" else float("inf")
            if self._uri is not None:
                with console.doing(f"delivering run {self.run_name} to {self.where}"):
                    self._await_delivery(at_most)
            self._await_mirrors(at_most)
        finally:
            self.close()

    def close(self) -> None:
        """Close and unlock the journal; its delivery continues."""
        self._finished = True
        self.journal.close()
        self._lock.release()
        courier.forget(self.folder)

    def _await_delivery(self, at_most: float) -> None:
        self._retry_refused()
        courier.wake(self.folder)
        end, begin = self.journal.sync(), time.monotonic()
        seen, moved, said = read_state(self.folder), begin, begin  # by a clock that is never set
        while True:
            state, now = read_state(self.folder), time.monotonic()
            if state.status is not None and state.position >= end:
                self._log_delivered(state)
                return
            if (state.answered, state.position) != (seen.answered, seen.position):
                seen, moved = state, now
            given_up = courier.last_failure(state.pid) is not None and courier.given_up
            if state.refused is not None or given_up or now - moved >= self._patience or now - begin >= at_most:
                self._log_rest(state)
                return
            if now - said >= _WORD_SECONDS:
                said = now
                log.info(
                    "waiting for %s to take %d of %d metric rows of run %s%s; at most %.0f s without an answer",
                    self.where, self.journal.rows_written - state.rows, self.journal.rows_written, self.run_name,
                    f" ({state.problem})" if state.problem else "", self._patience,
                )  # fmt: skip
            time.sleep(0.02)
            courier.keep_alive()

    def _await_mirrors(self, at_most: float) -> None:
        """Wait until each mirror has everything; log where it is, or why it is not there."""
        end, begin = self.journal.sync() if self._mirrors else 0, time.monotonic()
        if self._uri is None:  # else all were woken already, and MLflow's delivery may be complete
            courier.wake(self.folder)
        for kind in self._mirrors:
            seen, moved = read_mirror(self.folder, kind), time.monotonic()
            while (state := read_mirror(self.folder, kind)).position < end and state.problem is None:
                now = time.monotonic()
                seen, moved = (seen, moved) if state == seen else (state, now)
                if now - moved >= self._patience or now - begin >= at_most or courier.given_up:
                    break
                time.sleep(0.02)
                courier.keep_alive()
            if state.position >= end and state.problem is None:
                look = how_to_look(kind, state.where)
                log.info("%s has %d metric rows of run %s: %s", NAMES[kind], state.rows, self.run_name, look)
            else:
                log.warning(
                    "run %s: %d of %d metric rows not written to %s (%s); nothing is lost: python -m lwexp.sync %s",
                    self.run_name, self.journal.rows_written - state.rows, self.journal.rows_written, NAMES[kind],
                    state.problem or "no progress", self.folder,
                )  # fmt: skip

    def _log_delivered(self, state: DeliveryState) -> None:
        if state.rows and not self._quiet:
            log.info("%d metric rows of run %s delivered to %s", state.rows, self.run_name, self.where)
        for name, why in state.not_kept.items():
            log.warning(
                "run %s: %s could not be kept with it in %s: %s; to try again: python -m lwexp.sync %s",
                self.run_name, name, self.where, why, self.folder,
            )  # fmt: skip

    def _retry_refused(self) -> None:
        """Request the delivery again if the store refused it: permissions may have changed since."""
        if self._uri is not None and read_state(self.folder).refused is not None:
            clear_failure(self.folder)
            courier.deliver(self.folder, self._uri, self._patience)

    def _log_rest(self, state: DeliveryState) -> None:
        """Log what the store does not have."""
        missing = self.journal.rows_written - state.rows
        rest = f"{missing} of {self.journal.rows_written} metric rows" if missing else "its end"
        why = (
            courier.last_failure(state.pid) or state.problem or f"no answer from it or the delivery process {state.pid}"
        )
        log.warning(
            "run %s: %s not delivered to %s (%s); nothing is lost: python -m lwexp.sync %s",
            self.run_name, rest, self.where, why, self.folder,
        )  # fmt: skip

    def _check_delivery(self) -> None:
        """Keep the delivery process alive; log once when the store fails, and when it answers again."""
        if self._uri is not None or self._mirrors:
            courier.keep_alive()
        self._check_mirrors()
        if self._uri is None:
            return
        state = read_state(self.folder)
        problem = courier.last_failure(state.pid) or state.problem
        if state.refused is not None and time.monotonic() >= self._next_retry:
            self._next_retry = time.monotonic() + _RETRY_SECONDS
            self._retry_refused()
        if problem is not None and self._problem is None:
            log.warning("tracking store %s: %s; the run continues, its metrics wait in its folder", self.where, problem)
            self._answered_before = state.answered
        elif problem is None and self._problem is not None:
            if state.answered == self._answered_before:
                return  # it has not been asked again yet
            log.info("tracking store %s answers again", self.where)
        self._problem = problem

    def _check_mirrors(self) -> None:
        """Log once why a mirror stopped."""
        for kind in self._mirrors:
            problem = read_mirror(self.folder, kind).problem
            if problem is not None and kind not in self._stopped:
                self._stopped.add(kind)
                log.warning("%s: %s; the run continues, its metrics wait in its folder", NAMES[kind], problem)

    def _check_open(self, what: str) -> None:
        if self._finished or self.journal.status is not None:
            raise RunError(f"run {self.run_name} has ended; {what} cannot be logged")
