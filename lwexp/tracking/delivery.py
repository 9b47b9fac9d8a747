"""Delivery: sends one run's journal to its MLflow store, every entry exactly once however often it is interrupted.

Rows are sent in the journal's order, and the position behind them is saved after the store has answered. Rows just
after a saved position may have been sent already when a delivery was interrupted: the next one first asks the store for
the last step it has of each metric. (MLflow's SQL stores also ignore a row that they already hold.)
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lwexp.config.schema import MLflowConfig
from lwexp.errors import ConfigError, RunError
from lwexp.host.lock import Lock
from lwexp.redaction import redact_addresses

from .address import kind
from .artifact_delivery import ArtifactDelivery
from .contact import ANSWER_SECONDS, UnreachableError, error_line, within
from .delivery_state import DeliveryState, read_state
from .inputs import dataset_input
from .journal import FILE as JOURNAL
from .journal import Entry, Journal, Reader, Rows, has_journal, recorded_address
from .keys import ID_TAG, PARENT_TAG, REASON_TAG, cut, param_values, tag_values
from .mlflow_internals import MAX_NAME, MAX_ROWS, last_steps
from .store import connect, experiment_id, given_run, is_missing, is_transient, limit_retries

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

T = TypeVar("T")

RUN_LOCK, DELIVERY_LOCK = "journal.lock", "delivery.lock"

_POLL_SECONDS = 1.0
_MIN_SECONDS = 5.0  # between two calls that are not full: each costs MLflow as much as about 100 rows
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0
DELIVERY_OWNER = "delivery.owner"  # names the delivery that was requested last
NEW_RUN = "python -m lwexp.sync --new-run"
_ABANDONED = "the training process died unexpectedly"
_PARAMS_PER_CALL = 20  # of the longest values, with every character escaped, fit into the 1 MB of a request


class _StoppedError(Exception):
    """Ends the delivery: the store refuses or does not answer, or another process has taken the run over."""


class Delivery:
    """Delivers the run in `folder` to the store at `uri`, until the run's end or until given up.

    One delivery of a run is active at a time: the one that was requested last. `patience`: seconds without an answer
    after which it gives up, once the training process is gone. `wake` ends a pause early. `trusted`: the caller's own
    settings name the store; one that only the run's folder names takes artifacts only where it keeps them itself.
    `renew`: a run that the store has no more is delivered again, as a new one with everything.
    """

    def __init__(
        self, folder: Path, uri: str, *, patience: float, wake: threading.Event | None = None, trusted: bool = True,
        renew: bool = False,
    ) -> None:  # fmt: skip
        """Send nothing yet."""
        self._trusted, self._renew = trusted, renew
        self.folder, self._uri, self._patience = folder.absolute(), uri, patience
        self._wake = wake or threading.Event()
        self._token = secrets.token_hex(8)
        self._lock, self._writer = Lock(folder / DELIVERY_LOCK), Lock(folder / RUN_LOCK)
        self._client: MlflowClient | None = None
        self._uncertain = True  # whether rows after the saved position may have been sent
        self._last_answer = time.monotonic()
        self._pending: list[Rows] = []  # read but not sent
        self._count = self._end = 0  # metrics in them, the position behind them
        self._sent = float("-inf")  # time of the last call
        self._artifacts = ArtifactDelivery(self, uri, trusted=trusted)
        self.state = read_state(folder)
        self.taken_over = False  # whether it ended because another one was requested

    def run(self) -> None:
        """Deliver until the run is complete or the delivery gives up; `state` says how far it came."""
        with suppress(OSError):  # a full disk: the lock alone decides
            (self.folder / DELIVERY_OWNER).write_text(self._token, encoding="utf-8")
        try:
            with self._lock:
                self._take_over()
                self.state = read_state(self.folder)
                if self._state_is_unusable():
                    self.state = DeliveryState()
                self.state.pid, self.state.host, self.state.where = os.getpid(), socket.gethostname(), self._where
                self.state.refused = self.state.problem = None
                self.save()
                self._deliver()
        except _StoppedError:
            pass

    def _take_over(self) -> None:
        """Return with the lock, which the delivery before this one frees; not if that one is stopped for too long."""
        seen, since = read_state(self.folder), time.monotonic()
        while not self._lock.acquire(_POLL_SECONDS):
            self._check_owner()
            if (now := read_state(self.folder)) != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= self._patience and self._writer.free:
                self.state.problem = f"{stuck(seen)}; end it: kill -9 {seen.pid}"
                raise _StoppedError

    def fail(self, error: Exception) -> None:
        """Record an unexpected error in the state, where the training process reads it."""
        self._refuse(error, error_line(error, self._uri))

    def _state_is_unusable(self) -> bool:
        """Whether the state is of another store or missing: then the store is asked what it has."""
        state = self.state
        return (
            state.where not in ("", self._where)
            or state.run_id is None
            or state.position > (self.folder / JOURNAL).stat().st_size
        )

    @property
    def _where(self) -> str:
        return redact_addresses(self._uri)

    def _deliver(self) -> None:
        if self._renew and self.state.run_id is not None and not self.attempt(self._exists):
            self.state = DeliveryState(where=self._where, pid=os.getpid(), host=socket.gethostname())
            self.save()
        reader = Reader(self.folder / JOURNAL)
        reader.skip_to(self.state.position)
        if self.state.status is not None:
            self._artifacts.retry()
        at_once = True
        while True:
            new = self._deliver_new(reader)
            if at_once or time.monotonic() - self._sent >= _MIN_SECONDS:
                self._send()
            if self.state.status is not None:
                if not new:
                    return
                continue
            self._check_owner()
            if self._writer.free:
                if not self._deliver_new(reader):  # nothing was written before the writer ended
                    self._send()
                    self._close_abandoned()
                continue
            at_once = self._wake.wait(_POLL_SECONDS)
            self._wake.clear()

    def _deliver_new(self, reader: Reader) -> bool:
        """Deliver new entries, except rows that do not fill a call; returns whether there were any."""
        before = reader.position
        for entry in reader.entries():
            if entry.kind == "rows":
                if self._count + len(entry.value.keys) > MAX_ROWS:
                    self._send()
                self._pending.append(entry.value)
                self._count, self._end = self._count + len(entry.value.keys), entry.end
            elif entry.kind not in ("keys", "kept"):
                self._send()
                self._send_entry(entry)
                self._advance(entry.end, 0)
        return reader.position > before

    def _send(self) -> None:
        """Send the pending rows."""
        if not self._pending:
            return
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, rows.time_ms, rows.step)
            for rows in self._pending
            for key, value in zip(rows.keys, rows.values, strict=True)
        ]
        self.attempt(lambda client: self._log(client, metrics))
        self._advance(self._end, self._count)
        self._pending, self._count, self._sent = [], 0, time.monotonic()

    def _log(self, client: MlflowClient, metrics: list[Metric]) -> None:
        if self._uncertain:
            last = last_steps(client.get_run(self._run_id))
            metrics = [metric for metric in metrics if metric.step > last.get(metric.key, -1)]
        for first in range(0, len(metrics), MAX_ROWS):
            client.log_batch(self._run_id, metrics=metrics[first : first + MAX_ROWS])
        if metrics:  # the store has nothing behind a row that it did not have
            self._uncertain = False

    def _send_entry(self, entry: Entry) -> None:
        """Send an entry of any kind but `rows`; idempotent."""
        value = entry.value
        if entry.kind == "run":
            self._create(value)
        elif entry.kind == "tags":
            self._tag(value)
        elif entry.kind == "artifact":
            self._artifacts.send(value)
        elif entry.kind == "params":
            self._params(value)
        elif entry.kind == "inputs":
            datasets = [dataset_input(each) for each in value["datasets"]]
            self.attempt(lambda client: client.log_inputs(self._run_id, datasets))
        elif entry.kind == "resumed":
            self.attempt(lambda client: client.update_run(self._run_id, "RUNNING"))
            self.attempt(self._delete_reason)
            self._params(value.get("params", {}))
            self.state.status = None
        elif entry.kind == "end":
            self._artifacts.retry()
            self._tag({REASON_TAG: value["reason"]} if value["reason"] else {})
            self.attempt(lambda client: client.set_terminated(self._run_id, value["status"], value["time_ms"]))
            self.state.status = value["status"]

    def _tag(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        entities = [RunTag(*item) for item in tag_values(tags).items()]
        if entities:
            self.attempt(lambda client: client.log_batch(self._run_id, tags=entities))

    def _delete_reason(self, client: MlflowClient) -> None:
        if REASON_TAG in client.get_run(self._run_id).data.tags:  # deleting a missing tag is an error
            client.delete_tag(self._run_id, REASON_TAG)

    def _create(self, record: dict[str, Any]) -> None:
        """Create the run, unless the store has it and only its answer was lost; then log the params."""
        if self.state.run_id is None:
            tags = {**record["tags"], ID_TAG: record["id"]}
            if record["parent"] and set(Path(record["parent"]).parts) == {".."}:  # a sweep's folder holds its jobs
                tags[PARENT_TAG] = self.attempt(lambda _: self._parent(self.folder / record["parent"]), None)
            base, name = Path(record["base"]), cut(record["run_name"], MAX_NAME)
            mine = f"tags.`{ID_TAG}` = '{record['id']}'"
            given = record.get("run_id") if record["where"] == self._where and not self._renew else None

            def create(client: MlflowClient) -> Run:
                if given is not None:
                    return given_run(client, given, record["id"])
                experiment = experiment_id(client, record["experiment"], self._uri, base, record.get("experiment_id"))
                found = client.search_runs([experiment], mine, max_results=1)
                return found[0] if found else client.create_run(experiment, record["time_ms"], tag_values(tags), name)

            self.state.run_id = str(self.attempt(create).info.run_id)
            if given is not None:
                self._tag(tags)
            self.save()
        self._params(record["params"])

    def _params(self, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        entities = [Param(*item) for item in param_values(params).items()]
        for first in range(0, len(entities), _PARAMS_PER_CALL):
            part = entities[first : first + _PARAMS_PER_CALL]
            self.attempt(lambda client, part=part: client.log_batch(self._run_id, params=part))  # type: ignore[misc]

    def _parent(self, folder: Path) -> str:
        """The MLflow id of the parent run in `folder`; delivered here first if its process is gone."""
        run_id = read_state(folder).run_id
        same_store = recorded_address(folder) == recorded_address(self.folder)
        if run_id is None and has_journal(folder) and same_store and Lock(folder / RUN_LOCK).free:
            Delivery(folder, self._uri, patience=0.0, trusted=self._trusted).run()
            run_id = read_state(folder).run_id
        if run_id is None:
            raise RunError(f"the parent run in {folder} has not been created in the store yet")
        return run_id

    @property
    def _run_id(self) -> str:
        return str(self.state.run_id)

    def _exists(self, client: MlflowClient) -> bool:
        """Whether the store still has the run."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(client.get_run(self._run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if not is_missing(error):
                raise
            return False

    def _connected(self) -> MlflowClient:
        if self._client is None:
            config = MLflowConfig(
                name="mlflow", uri=self._uri, experiment="lwexp", timeout=8.0, flush_timeout=0.0, rates_every=1
            )
            self._client, _ = connect(config)
        return self._client

    def attempt(self, action: Callable[[MlflowClient], T], seconds: float | None = ANSWER_SECONDS) -> T:
        """The result of `action`, retried until the store answers within `seconds`. Raises `_StoppedError`."""
        pause = _FIRST_PAUSE
        while True:
            try:
                with limit_retries():
                    result = self.bounded(lambda: action(self._connected()), seconds)
                break
            except Exception as error:
                why = error.why if isinstance(error, UnreachableError) else error_line(error, self._uri)
                if is_missing(error) and self.state.run_id is not None and self._run_id in str(error):
                    why = f"the store has no run {self._run_id} any more; to deliver everything as a new run: {NEW_RUN}"
                    why = f"{why} {self.folder}"
                if isinstance(error, ConfigError) or not is_transient(error):
                    self._refuse(error, why)
                    raise _StoppedError from None
                if isinstance(error, TimeoutError):
                    self._client = None  # its connection is still in use
                self._uncertain = True
                self.state.problem = why
                self.save()
                silent = time.monotonic() - self._last_answer
                if silent >= self._patience and self._writer.free:
                    raise _StoppedError from None
                self._check_owner()
                self._wake.wait(pause)
                self._wake.clear()
                pause = min(2 * pause, _LONGEST_PAUSE)
        self._last_answer = time.monotonic()
        self.state.answered, self.state.problem = time.time(), None
        return result

    def bounded(self, action: Callable[[], T], seconds: float | None) -> T:
        """The result of `action`, or `TimeoutError`; a file is asked in this thread, which keeps its connection."""
        return action() if seconds is None or kind(self._uri) == "sqlite" else within(seconds, action)

    def _close_abandoned(self) -> None:
        """Write the end that the training process could not write before it died."""
        with Lock(self.folder / RUN_LOCK) as lock:
            if not lock.acquire():
                return  # another process has just resumed the run
            try:
                journal = Journal(self.folder)
                if journal.status is None:
                    end_entry(journal, "KILLED", _ABANDONED)
                elif journal.sync() <= self.state.position:  # the state passed an end that was never sent
                    end_entry(journal, journal.status, None)
                journal.close()
            except RunError:  # a full disk: send the end without writing it
                end = Entry("end", end_value("KILLED", _ABANDONED), self.state.position)
                self._send_entry(end)

    def _refuse(self, error: Exception, why: str) -> None:
        known = isinstance(error, ConfigError)
        key, value, why = (error.key, str(error.value), error.why) if known else (None, None, why)  # type: ignore[attr-defined]
        self.state.refused = {"key": key, "value": value, "why": why}
        self.state.problem = why
        self.save()

    def _advance(self, position: int, rows: int) -> None:
        self.state.position = position
        self.state.rows += rows
        self.save()

    def save(self) -> None:
        """Save the state."""
        # a full disk: the saved state lags behind, and the next delivery asks the store what it has
        with suppress(OSError):
            self.state.save(self.folder)

    def _check_owner(self) -> None:
        try:
            owner = (self.folder / DELIVERY_OWNER).read_text(encoding="utf-8")
        except OSError:
            return
        if owner and owner != self._token:
            self.taken_over = True
            raise _StoppedError


def stuck(state: DeliveryState) -> str:
    """That the process which delivers the run does nothing."""
    return f"its delivery process {state.pid} on {state.host or 'this machine'} does nothing; it may be stopped"


def end_entry(journal: Journal, status: str, reason: str | None) -> None:
    """Append the end of the run with the present time."""
    journal.write("end", end_value(status, reason))


def end_value(status: str, reason: str | None) -> dict[str, Any]:
    """The content of an `end` entry with the present time."""
    return {"status": status, "reason": reason, "time_ms": time.time_ns() // 1_000_000}
