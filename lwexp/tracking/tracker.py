"""The training process's side of tracking: everything goes to the journal, another process delivers it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from lwexp.errors import ConfigError, RunError
from lwexp.host.lock import Lock
from lwexp.redaction import redact

from .delivery import RUN_LOCK, end_entry
from .delivery_process import courier
from .delivery_state import Place, forget_failure, read_place
from .journal import Journal

Status = Literal["FINISHED", "FAILED", "KILLED"]

KILLED_SECONDS = 10.0  # Slurm gives 30 s between SIGTERM and SIGKILL
_LOOK_SECONDS = 1.0
_ASK_SECONDS = 30.0
_LOCK_SECONDS = 10.0  # data workers and a delivery that closes the run may hold the folder a little longer
_FIRST_SECONDS = 60.0  # MLflow's tables are made on first use of a database, which takes seconds

log = logging.getLogger(__name__)


class JournalTracker:
    """One run. Nothing that it does waits for the store, except the first word and the end."""

    def __init__(self, folder: Path, run_name: str, uri: str | None, flush_timeout: float) -> None:
        """Take the journal in `folder`; `uri` None: it is kept and not delivered. Raises `RunError`."""
        self.run_name, self.where = run_name, redact(uri) if uri is not None else "none"
        self.folder, self._uri, self._patience = folder, uri, flush_timeout
        self._lock = Lock(folder / RUN_LOCK)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not self._lock.acquire(_LOCK_SECONDS):
                raise RunError(f"another process is running in {folder}")
        except OSError as error:
            raise RunError(f"{folder} cannot be used: {error.strerror or error}") from error
        try:
            self.journal = Journal(folder)
        except BaseException:
            self._lock.release()
            raise
        self._next_look = 0.0
        self._next_question = time.monotonic() + _ASK_SECONDS
        self._problem: str | None = None  # what people have been told
        self._finished = False

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until the store has made it."""
        return read_place(self.folder).run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write `metrics` of `step` with the present time to the journal.

        Raises `RunError` where the disk takes no more, and after `finish`.
        """
        self._check_open(f"step {step}")
        self.journal.rows(metrics, step)
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._look()

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep the file or folder `path` under `folder` of the run's artifacts; it is copied a little later."""
        self._check_open(path.name)
        if not path.exists():
            raise RunError(f"{path} is to be kept with run {self.run_name}, but does not exist")
        inside = path.absolute().is_relative_to(self.folder.absolute())
        name = path.absolute().relative_to(self.folder.absolute()) if inside else path.absolute()
        self.journal.write("artifact", {"path": str(name), "folder": folder})

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags; values over MLflow's 8,000 characters are cut, secrets in addresses are hidden."""
        self._check_open("a tag")
        self.journal.write("tags", {key: redact(str(value)) for key, value in tags.items()})

    def position(self) -> int:
        """Have the journal on the disk; returns its length in bytes."""
        return self.journal.sync()

    def begin(self, at_once: bool) -> None:
        """Have the run delivered. With `at_once`, wait for the store's first word, and raise what it refuses.

        Raises `ConfigError`, `RunError`.
        """
        if self._uri is None:
            return
        forget_failure(self.folder)
        courier.deliver(self.folder, self._uri, self._patience)
        if not at_once:
            self._problem = "does not answer"  # people have been told
            return
        deadline = time.monotonic() + _FIRST_SECONDS
        while time.monotonic() < deadline:
            place = read_place(self.folder)
            if place.refused is not None:
                refused = place.refused
                if refused["key"] is not None:
                    raise ConfigError(refused["key"], refused["value"], refused["why"])
                raise RunError(f"the tracking store {self.where} refuses the run: {refused['why']}")
            if place.run_id is not None or place.problem is not None or courier.trouble(place.pid) is not None:
                break
            time.sleep(0.02)
            courier.look()
        self._look()

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Write the end, and return when everything is delivered and the status set, or say what is not.

        A store that has not answered for `flush_timeout` seconds is not waited for any longer, nor any store for
        longer than 10 seconds when the run was killed. A second call does nothing. Interrupted while it waits, the
        delivery goes on without this process.
        """
        if self._finished:
            return
        if self.journal.ended is None:
            end_entry(self.journal, status, redact(reason) if reason else None)
        try:
            if self._uri is not None:
                self._await_delivery(KILLED_SECONDS if status == "KILLED" else float("inf"))
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the journal; what is not delivered yet may still be."""
        self._finished = True
        self.journal.close()
        self._lock.release()
        courier.forget(self.folder)

    def _await_delivery(self, at_most: float) -> None:
        self._ask_again()
        courier.wake(self.folder)
        end, since = self.journal.sync(), time.time()
        while True:
            place, now = read_place(self.folder), time.time()
            if place.status is not None and place.position >= end:
                if place.rows:
                    log.info("%d metric rows of run %s delivered to %s", place.rows, self.run_name, self.where)
                for name, why in place.not_kept.items():
                    log.warning("run %s: %s could not be kept with it in %s: %s", self.run_name, name, self.where, why)
                return
            silent = now - max(since, place.answered)
            hopeless = courier.trouble(place.pid) is not None and courier.hopeless
            if place.refused is not None or hopeless or silent >= self._patience or now - since >= at_most:
                self._tell_rest(place)
                return
            time.sleep(0.02)
            courier.look()

    def _ask_again(self) -> None:
        """A store that has refused may have changed its mind: rights given, an address repaired."""
        if self._uri is not None and read_place(self.folder).refused is not None:
            forget_failure(self.folder)
            courier.deliver(self.folder, self._uri, self._patience)

    def _tell_rest(self, place: Place) -> None:
        """Say what the store does not have."""
        missing = self.journal.rows_written - place.rows
        rest = f"{missing} of {self.journal.rows_written} metric rows" if missing else "its end"
        why = courier.trouble(place.pid) or place.problem or "no answer yet"
        log.warning(
            "run %s: %s not delivered to %s (%s); nothing is lost: python -m lwexp.sync %s",
            self.run_name, rest, self.where, why, self.folder,
        )  # fmt: skip

    def _look(self) -> None:
        """Keep the delivery going, and say once when the store fails, and when it answers again."""
        if self._uri is None:
            return
        courier.look()
        place = read_place(self.folder)
        problem = courier.trouble(place.pid) or place.problem
        if place.refused is not None and time.monotonic() >= self._next_question:
            self._next_question = time.monotonic() + _ASK_SECONDS
            self._ask_again()
        if problem is not None and self._problem is None:
            log.warning("tracking store %s: %s; the run goes on, its metrics wait in its folder", self.where, problem)
        elif problem is None and self._problem is not None:
            log.info("tracking store %s answers again", self.where)
        self._problem = problem

    def _check_open(self, what: str) -> None:
        if self._finished or self.journal.ended is not None:
            raise RunError(f"run {self.run_name} has ended; {what} cannot be logged")
