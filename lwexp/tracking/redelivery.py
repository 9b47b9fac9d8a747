"""Delivering runs whose process is gone: finding their journals, and sending what their stores do not have."""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwexp.config.schema import MLflowConfig
from lwexp.errors import ConfigError, RunError, nearest
from lwexp.host.lock import Lock
from lwexp.redaction import redact_addresses

from .address import resolve_uri, uri_source
from .copies import original_of
from .delivery import DELIVERY_LOCK, DELIVERY_OWNER, RUN_LOCK, Delivery, stuck
from .delivery_state import FILE as STATE
from .delivery_state import DeliveryState, read_state
from .journal import FILE, RESERVE, Reader
from .mirror import Mirror, MirrorState, lock_file, read_mirror, recorded_mirrors, state_file
from .trust import check_own_files, why_untrusted

_PROGRESS_SECONDS = 2.0
_RECORD = {"id": str, "run_name": str, "experiment": str, "where": str, "base": str, "tags": dict, "params": dict}
_LOCK_SECONDS = 0.3  # a delivery that checks for the training process holds the lock for a moment


@dataclass
class RecordedRun:
    """A run as its journal has it; `record` is the journal's entry about the run."""

    folder: Path
    record: dict[str, Any]
    rows: int  # metric rows
    length: int  # of the journal, in bytes
    damaged: int  # bytes without a valid record

    @property
    def state(self) -> DeliveryState:
        """How far it has been delivered."""
        return read_state(self.folder)

    @property
    def delivered(self) -> bool:
        """Whether the store has everything; an artifact that it refused counts as long as its file is there."""
        state = self.state
        left = any((self.folder / name).exists() for name in state.not_kept)
        return state.status is not None and state.position >= self.length and not left

    @property
    def original(self) -> Path | None:
        """The folder of which this one is a copy; None if it is none."""
        return original_of(self.folder)

    @property
    def running(self) -> bool:
        """Whether a process holds the run."""
        with Lock(self.folder / RUN_LOCK) as lock:
            return not lock.acquire(_LOCK_SECONDS)


def find_journals(folder: Path, must_exist: bool) -> list[Path]:
    """The journals in `folder` and below. With `must_exist`, raises `ConfigError` if there is no such folder."""
    if not folder.is_dir():
        if must_exist:
            siblings = [str(path) for path in folder.parent.glob("*/")] if folder.parent.is_dir() else []
            raise ConfigError("folder", folder, f"there is no such folder; {nearest(str(folder), siblings)}")
        return []
    return sorted(folder.rglob(FILE))


def read_run(path: Path) -> RecordedRun | None:
    """The run in a journal; None where its process died before it wrote the run. Raises `RunError`."""
    check_own_files(path.parent, (FILE, STATE, DELIVERY_OWNER, RUN_LOCK, DELIVERY_LOCK, RESERVE))
    reader, record, rows = Reader(path), None, 0
    for entry in reader.entries():
        if entry.kind == "run":
            record = entry.value
        elif entry.kind == "resumed" and record is not None:
            record["where"] = entry.value.get("where", record["where"])
        elif entry.kind == "rows":
            rows += len(entry.value.keys)
    if record is not None and not all(isinstance(record.get(key), kind) for key, kind in _RECORD.items()):
        raise RunError("the record that names the run is not one of lwexp")
    if record is None and rows:
        raise RunError(f"the record that names the run is damaged; {rows} metric rows are in the journal")
    return RecordedRun(path.parent, record, rows, reader.position, reader.damaged) if record is not None else None


def delivery_address(run: RecordedRun, config: MLflowConfig) -> tuple[str, bool]:
    """The address to deliver `run` to, and whether the caller's own settings name it: `config`, MLFLOW_TRACKING_URI.

    Else it is the run's own, which must be one that needs no trust: a folder may come from somebody else. The password
    is not kept with the run: it comes from the settings. Raises `ConfigError` where they must name the address.
    """
    where, key = str(run.record["where"]), uri_source(config)[0]
    given = resolve_uri(config, Path.cwd())
    if config.uri is not None or redact_addresses(given) == where:
        return given, config.uri is not None or bool(os.environ.get("MLFLOW_TRACKING_URI"))
    if "***" in where:
        why = f"its password is not kept in the run's folder; give tracking.uri=… or {key} with it"
        raise ConfigError("tracking.uri", where, why)
    uri = resolve_uri(config.model_copy(update={"uri": where}), Path(run.record["base"]))
    trust = why_untrusted(uri, Path(run.record["base"]), run.folder)
    if trust is not None:
        again = shlex.join(["python", "-m", "lwexp.sync", f"tracking.uri={where}", os.path.relpath(run.folder)])
        raise ConfigError(
            "tracking.uri", where, f"only the folder {os.path.relpath(run.folder)} names it; {trust}: {again}"
        )
    return uri, False


def rest_of_mirrors(run: RecordedRun) -> list[str]:
    """The mirrors of a run that lack something."""
    states = {kind: read_mirror(run.folder, kind) for kind in recorded_mirrors(run.folder)}
    return [kind for kind, state in states.items() if state.position < run.length or state.problem is not None]


def write_mirror(run: RecordedRun, kind: str) -> MirrorState:
    """Write what the mirror `kind` of `run` lacks. Only files are written: a folder may come from somebody else."""
    check_own_files(run.folder, (state_file(kind), lock_file(kind)))
    options = {"entity": None, **recorded_mirrors(run.folder)[kind], "mode": "offline"}
    mirror = Mirror(run.folder, kind, options, RUN_LOCK)
    try:
        mirror.run()
    except Exception as error:
        mirror.fail(error)
    return mirror.state


def redeliver(
    run: RecordedRun, uri: str, patience: float, progress: Callable[[int], None], *, trusted: bool, renew: bool = False
) -> str | None:
    """Deliver `run` to the store at `uri`; returns why that failed, None if it did not.

    Waits for a delivery that another process has requested meanwhile. `patience`: seconds without an answer after which
    it gives up; `trusted` as `delivery_address` says; `renew` as of `Delivery`; `progress` is called with the number of
    delivered rows every two seconds.
    """
    while True:
        delivery = Delivery(run.folder, uri, patience=patience, trusted=trusted, renew=renew)
        # in a thread, so that an interrupt ends the command at once
        thread = threading.Thread(target=_deliver, args=(delivery,), daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_PROGRESS_SECONDS)
            if thread.is_alive():
                progress(delivery.state.rows)
        if not delivery.taken_over:
            if run.state.status is None:
                return delivery.state.problem or "its delivery died unexpectedly"
            return None
        if not _await_other_delivery(run.folder, patience, progress):
            return f"{stuck(run.state)}; end it: kill -9 {run.state.pid}"
        if run.delivered:
            return None


def _await_other_delivery(folder: Path, patience: float, progress: Callable[[int], None]) -> bool:
    """Wait until the process that has taken the delivery over has ended it; False if it does nothing for `patience`."""
    time.sleep(_LOCK_SECONDS)  # until it has the lock
    seen, since = read_state(folder), time.monotonic()
    with Lock(folder / DELIVERY_LOCK) as lock:
        while not lock.acquire(_PROGRESS_SECONDS):
            if (now := read_state(folder)) != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= patience:
                return False
            progress(now.rows)
    return True


def _deliver(delivery: Delivery) -> None:
    try:
        delivery.run()
    except Exception as error:  # reported by `redeliver`, which reads the state
        delivery.fail(error)
