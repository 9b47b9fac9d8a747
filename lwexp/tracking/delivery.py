"""Delivery: one run's journal told to its MLflow store, entry by entry, each exactly once however often it is cut off.

Rows are sent in the journal's order and the place behind them is written after the store has answered. What came
right after a place may already have been sent when the delivery was cut off: then the store is asked first which
step it has last of each metric. (MLflow's SQL stores also ignore a row that they hold already.)
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

from .contact import UnreachableError, one_line
from .delivery_state import Place, read_place
from .journal import FILE as JOURNAL
from .journal import Entry, Journal, Reader, Rows, has_journal
from .keys import MAX_NAME, cut, param_values, tag_values
from .store import bounded, connect, experiment_id, may_pass

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

T = TypeVar("T")

RUN_LOCK, DELIVERY_LOCK = "journal.lock", "delivery.lock"
ID_TAG, REASON_TAG = "lwexp.id", "lwexp.reason"

BATCH_ROWS = 1000  # MLflow's limit for one call
_POLL_SECONDS = 1.0
_HOLD_SECONDS = 5.0  # between calls that are not full: each costs MLflow as much as some 100 rows do
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0
_OWNER = "delivery.owner"
_ABANDONED = "the training process ended without a word"
_PARAMS_PER_CALL = 20  # the longest values, with every character escaped, stay below the 1 MB that a request may have


class _StoppedError(Exception):
    """The delivery ends here: the store refuses, or was silent for too long, or another process has asked for it."""


class Delivery:
    """Delivers the run in `folder` to the store at `uri`, until its end or, once it is over, until given up.

    One delivery of a run is at work at a time, the one that asked last. `patience`: seconds without an answer after
    which it is given up when the training process is gone. `wake` ends a pause early.
    """

    def __init__(self, folder: Path, uri: str, *, patience: float, wake: threading.Event | None = None) -> None:
        """Nothing is sent yet."""
        self.folder, self._uri, self._patience = folder.absolute(), uri, patience
        self._wake = wake or threading.Event()
        self._token = secrets.token_hex(8)
        self._lock, self._writer = Lock(folder / DELIVERY_LOCK), Lock(folder / RUN_LOCK)
        self._client: MlflowClient | None = None
        self._uncertain = True  # whether the rows after the place may have been sent before
        self._heard = time.monotonic()
        self._waiting: list[Rows] = []  # read and not sent
        self._count = self._end = 0  # metrics in them, the position behind
        self._sent = float("-inf")  # when the last of them was
        self.place = read_place(folder)
        self.taken_over = False  # whether it ended because another one has asked for the run

    def run(self) -> None:
        """Deliver; returns when nothing more is to be done, or can be. How far it came is in `place`."""
        with suppress(OSError):  # a full disk; the lock alone decides then
            (self.folder / _OWNER).write_text(self._token, encoding="utf-8")
        try:
            with self._lock:
                while not self._lock.acquire(_POLL_SECONDS):
                    self._check_owner()
                self.place = read_place(self.folder)
                if self._place_misleads():
                    self.place = Place()
                self.place.pid, self.place.host, self.place.where = os.getpid(), socket.gethostname(), self._where
                self.place.refused = self.place.problem = None
                self._save()
                self._deliver()
        except _StoppedError:
            pass

    def fail(self, error: Exception) -> None:
        """Keep an error that nobody foresaw, for people to see."""
        self._refuse(error, one_line(error, self._uri))

    def _place_misleads(self) -> bool:
        """Whether the place was written for another store, or by nobody: then the store is asked what it has."""
        place = self.place
        return (
            place.where not in ("", self._where)
            or place.run_id is None
            or place.position > (self.folder / JOURNAL).stat().st_size
        )

    @property
    def _where(self) -> str:
        return redact_addresses(self._uri)

    def _deliver(self) -> None:
        reader = Reader(self.folder / JOURNAL)
        reader.skip_to(self.place.position)
        at_once = True
        while True:
            new = self._pass(reader)
            if at_once or time.monotonic() - self._sent >= _HOLD_SECONDS:
                self._send()
            if self.place.status is not None:
                if not new:
                    return
                continue
            self._check_owner()
            if self._writer.free:
                if not self._pass(reader):  # nothing was written between the last look and the writer's end
                    self._send()
                    self._close_abandoned()
                continue
            at_once = self._wake.wait(_POLL_SECONDS)
            self._wake.clear()

    def _pass(self, reader: Reader) -> bool:
        """Read what is new, if anything is, and deliver it, but for rows that do not fill a call: these may wait."""
        before = reader.position
        for entry in reader.entries():
            if entry.kind == "rows":
                if self._count + len(entry.value.keys) > BATCH_ROWS:
                    self._send()
                self._waiting.append(entry.value)
                self._count, self._end = self._count + len(entry.value.keys), entry.end
            elif entry.kind != "keys":
                self._send()
                self._tell(entry)
                self._advance(entry.end, 0)
        return reader.position > before

    def _send(self) -> None:
        """Have the store take the rows that wait."""
        if not self._waiting:
            return
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, rows.time_ms, rows.step)
            for rows in self._waiting
            for key, value in zip(rows.keys, rows.values, strict=True)
        ]
        self._attempt(lambda client: self._log(client, metrics))
        self._advance(self._end, self._count)
        self._waiting, self._count, self._sent = [], 0, time.monotonic()

    def _log(self, client: MlflowClient, metrics: list[Metric]) -> None:
        if self._uncertain:
            found = client.get_run(self._run_id).data.to_proto().metrics
            last = {metric.key: metric.step for metric in found}
            metrics = [metric for metric in metrics if metric.step > last.get(metric.key, -1)]
        for first in range(0, len(metrics), BATCH_ROWS):
            client.log_batch(self._run_id, metrics=metrics[first : first + BATCH_ROWS])
        if metrics:  # what comes after a row that the store did not have is not there either
            self._uncertain = False

    def _tell(self, entry: Entry) -> None:
        """Tell the store an entry that holds no rows, call by call; telling it twice does no harm."""
        value = entry.value
        if entry.kind == "run":
            self._create(value)
        elif entry.kind == "tags":
            self._tag(value)
        elif entry.kind == "artifact":
            self._attempt(lambda client: self._copy(client, value["path"], value["folder"]))
        elif entry.kind == "resumed":
            self._attempt(lambda client: client.update_run(self._run_id, "RUNNING"))
            self._attempt(self._forget_reason)
            self._params(value.get("params", {}))
            self.place.status = None
        elif entry.kind == "end":
            self._tag({REASON_TAG: value["reason"]} if value["reason"] else {})
            self._attempt(lambda client: client.set_terminated(self._run_id, value["status"], value["time_ms"]))
            self.place.status = value["status"]

    def _copy(self, client: MlflowClient, name: str, folder: str | None) -> None:
        """Keep a file or folder with the run. One that cannot be kept does not hold up the rows behind it."""
        path = self.folder / name
        copy = client.log_artifacts if path.is_dir() else client.log_artifact
        try:
            copy(self._run_id, str(path), folder)
        except Exception as error:
            local = isinstance(error, (ImportError, FileNotFoundError, NotADirectoryError, PermissionError))
            if may_pass(error) and not local:
                raise
            self.place.not_kept = {**self.place.not_kept, name: one_line(error, self._uri)}
        else:
            self.place.not_kept = {other: why for other, why in self.place.not_kept.items() if other != name}

    def _tag(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        entities = [RunTag(*item) for item in tag_values(tags).items()]
        if entities:
            self._attempt(lambda client: client.log_batch(self._run_id, tags=entities))

    def _forget_reason(self, client: MlflowClient) -> None:
        if REASON_TAG in client.get_run(self._run_id).data.tags:  # a tag that is not there cannot be deleted
            client.delete_tag(self._run_id, REASON_TAG)

    def _create(self, record: dict[str, Any]) -> None:
        """Make the run, unless the store has made it before and only its answer was lost; then log its params."""
        if self.place.run_id is None:
            tags = {**record["tags"], ID_TAG: record["id"]}
            if record["parent"]:
                tags["mlflow.parentRunId"] = self._attempt(lambda _: self._parent(self.folder / record["parent"]))
            base, name = Path(record["base"]), cut(record["run_name"], MAX_NAME)
            experiment = self._attempt(lambda client: experiment_id(client, record["experiment"], self._uri, base))
            mine = f"tags.`{ID_TAG}` = '{record['id']}'"

            def made(client: MlflowClient) -> Run:
                found = client.search_runs([experiment], mine, max_results=1)
                return found[0] if found else client.create_run(experiment, record["time_ms"], tag_values(tags), name)

            self.place.run_id = str(self._attempt(made).info.run_id)
            self._save()
        self._params(record["params"])

    def _params(self, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        entities = [Param(*item) for item in param_values(params).items()]
        for first in range(0, len(entities), _PARAMS_PER_CALL):
            part = entities[first : first + _PARAMS_PER_CALL]
            self._attempt(lambda client, part=part: client.log_batch(self._run_id, params=part))  # type: ignore[misc]

    def _parent(self, folder: Path) -> str:
        """The id of the parent run, which is another folder's; made here if whoever began it is gone."""
        run_id = read_place(folder).run_id
        if run_id is None and has_journal(folder) and Lock(folder / RUN_LOCK).free:
            Delivery(folder, self._uri, patience=0.0).run()
            run_id = read_place(folder).run_id
        if run_id is None:
            raise RunError(f"the parent run in {folder} is not there yet")
        return run_id

    @property
    def _run_id(self) -> str:
        return str(self.place.run_id)

    def _connected(self) -> MlflowClient:
        if self._client is None:
            config = MLflowConfig(
                name="mlflow", uri=self._uri, experiment="lwexp", timeout=8.0, flush_timeout=0.0, rates_every=1
            )
            self._client, _ = connect(config)
        return self._client

    def _attempt(self, action: Callable[[MlflowClient], T]) -> T:
        """What `action` returns, done again until the store answers. Raises `_StoppedError`."""
        pause = _FIRST_PAUSE
        while True:
            try:
                with bounded():
                    result = action(self._connected())
                break
            except Exception as error:
                why = error.why if isinstance(error, UnreachableError) else one_line(error, self._uri)
                if isinstance(error, ConfigError) or not may_pass(error):
                    self._refuse(error, why)
                    raise _StoppedError from None
                self._uncertain = True
                self.place.problem = why
                self._save()
                silent = time.monotonic() - self._heard
                if silent >= self._patience and self._writer.free:
                    raise _StoppedError from None
                self._check_owner()
                self._wake.wait(pause)
                self._wake.clear()
                pause = min(2 * pause, _LONGEST_PAUSE)
        self._heard = time.monotonic()
        self.place.answered, self.place.problem = time.time(), None
        return result

    def _close_abandoned(self) -> None:
        """Write the end that the training process, which is gone, could not write."""
        with Lock(self.folder / RUN_LOCK) as lock:
            if not lock.acquire():
                return  # somebody has just resumed the run
            try:
                journal = Journal(self.folder)
                if journal.ended is None:
                    end_entry(journal, "KILLED", _ABANDONED)
                elif journal.sync() <= self.place.position:  # a place that is behind an end which was never told
                    end_entry(journal, journal.ended, None)
                journal.close()
            except RunError:  # a full disk: the store is told all the same
                end = Entry("end", end_value("KILLED", _ABANDONED), self.place.position)
                self._tell(end)

    def _refuse(self, error: Exception, why: str) -> None:
        known = isinstance(error, ConfigError)
        key, value, why = (error.key, str(error.value), error.why) if known else (None, None, why)  # type: ignore[attr-defined]
        self.place.refused = {"key": key, "value": value, "why": why}
        self.place.problem = why
        self._save()

    def _advance(self, position: int, rows: int) -> None:
        self.place.position = position
        self.place.rows += rows
        self._save()

    def _save(self) -> None:
        # a full disk: the place on the disk stays behind, and whoever goes on from it asks the store what it has
        with suppress(OSError):
            self.place.save(self.folder)

    def _check_owner(self) -> None:
        try:
            owner = (self.folder / _OWNER).read_text(encoding="utf-8")
        except OSError:
            return
        if owner and owner != self._token:
            self.taken_over = True
            raise _StoppedError


def end_entry(journal: Journal, status: str, reason: str | None) -> None:
    """Write how the run ended, now."""
    journal.write("end", end_value(status, reason))


def end_value(status: str, reason: str | None) -> dict[str, Any]:
    """What the journal says of the end of a run, now."""
    return {"status": status, "reason": reason, "time_ms": time.time_ns() // 1_000_000}
