"""The record of a run: a journal in the run's folder, and its delivery to MLflow by a process of its own.

`start` gives a `Tracker`, which writes everything to the journal; nothing in the training process talks to the store.
"""

from __future__ import annotations

import getpass
import logging
import os
import shlex
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lwexp.config.schema import MLflowConfig, NoTrackingConfig
from lwexp.redaction import redact, redact_addresses

from . import address
from .address import resolve_uri
from .contact import UnreachableError, check_store
from .delivery_process import courier
from .delivery_state import FILE as PLACE
from .delivery_state import read_place
from .journal import FILE as JOURNAL
from .journal import ended, has_journal, run_record
from .keys import param_values, safe_key, safe_keys
from .tracker import JournalTracker, Status

__all__ = [
    "JournalTracker", "NoTracker", "Status", "Tracker", "begun_in", "check_store", "deliver_rest", "ended", "has_run",
    "open_hint", "prepare", "redact_addresses", "resolve_uri", "safe_key", "safe_keys", "start",
]  # fmt: skip

NOTE_TAG = "mlflow.note.content"  # the tag that MLflow shows as a run's description

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where a run's metrics, files and tags go."""

    run_name: str
    where: str  # the store's address for people, without secrets

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None without MLflow, and until the store has made it."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of the optimizer step `step`; returns at once."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """A file, or a folder's files, under `folder` of the run's artifacts."""

    def tag(self, tags: Mapping[str, str]) -> None:
        """Tags of the run."""

    def position(self) -> int:
        """How much of the record is on the disk for certain, in bytes."""

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Deliver everything, then set the run's status. A second call does nothing."""


class NoTracker:
    """Takes everything, keeps nothing: for trainings inside a run."""

    run_id: str | None = None
    where = "none"

    def __init__(self, run_name: str) -> None:
        """Keep the name, which people see with any tracker."""
        self.run_name = run_name

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Do nothing."""

    def tag(self, tags: Mapping[str, str]) -> None:
        """Do nothing."""

    def position(self) -> int:
        """Nothing is kept."""
        return 0

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Do nothing."""


def prepare(config: MLflowConfig | NoTrackingConfig, base: Path | None = None) -> bool:
    """Whether the store answers; its delivery process starts, and imports mlflow while other things are built.

    A store that does not answer is told in one line: the run can go on without it. Raises `ConfigError` for an address
    that cannot be used.
    """
    if isinstance(config, NoTrackingConfig):
        return True
    answers = True
    try:
        check_store(config, base)
    except UnreachableError as error:
        log.warning("%s; the run goes on, its metrics wait in its folder (or go on without: tracking=none)", error)
        answers = False
    courier.start()
    return answers


def start(
    config: MLflowConfig | NoTrackingConfig,
    *,
    folder: Path,
    run_name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    description: str,
    parent: Path | None = None,
    base: Path | None = None,
    answers: bool = True,
) -> JournalTracker:
    """A new run in `folder`, RUNNING, in the experiment `config.experiment`; or the run that is there, continued.

    `description` is Markdown, shown on the run's page; `parent` the folder of the run that this one is a child of.
    Relative addresses count from `base`, by default the current folder. With `answers`, as `prepare` said, the store's
    first word is waited for. Raises `ConfigError` for an address or experiment that cannot be used, `RunError` for a
    store that refuses, a folder in use or a full disk.
    """
    base, run_name = base or Path.cwd(), redact(run_name)
    uri = resolve_uri(config, base) if isinstance(config, MLflowConfig) else None
    tracker = JournalTracker(folder, run_name, uri, config.flush_timeout if isinstance(config, MLflowConfig) else 0.0)
    try:
        if tracker.journal.run is not None:
            tracker.run_name = tracker.journal.run["run_name"]
            # one that failed before it had a config gets what it lacks
            lacking = {} if tracker.journal.run["params"] else param_values(params)
            resumed = {"time_ms": time.time_ns() // 1_000_000, "where": tracker.where, "params": lacking}
            tracker.journal.write("resumed", resumed)
            if lacking:
                tracker.tag({NOTE_TAG: description, **tags})
        else:
            own = {
                "mlflow.source.type": "LOCAL",
                "mlflow.source.name": "lwexp.run",
                "mlflow.user": _user(),
                NOTE_TAG: description,
            }
            record = {
                "id": uuid.uuid4().hex,
                "run_name": run_name,
                "experiment": config.experiment if isinstance(config, MLflowConfig) else "lwexp",
                "where": tracker.where,
                "base": str(base.absolute()),
                "parent": os.path.relpath(parent, folder) if parent is not None else None,
                "tags": {key: redact(value) for key, value in {**own, **tags}.items()},
                "params": param_values(params),
                "time_ms": time.time_ns() // 1_000_000,
            }
            tracker.journal.write("run", record)
        tracker.begin(at_once=answers)
    except BaseException as error:
        new = read_place(folder).run_id is None and not tracker.journal.rows_written
        tracker.close()
        if new and isinstance(error, Exception):  # refused: as if it had never been begun
            for name in (JOURNAL, PLACE):
                (folder / name).unlink(missing_ok=True)
        raise
    return tracker


def has_run(folder: Path) -> bool:
    """Whether `folder` holds the record of a run."""
    return has_journal(folder)


def begun_in(folder: Path) -> Path | None:
    """Where the run in `folder` was begun, from which its relative addresses and paths count; None if not here."""
    record = run_record(folder)
    base = Path(record["base"]) if record is not None else None
    return base if base is not None and base.is_dir() else None


def deliver_rest(
    config: MLflowConfig | NoTrackingConfig,
    folder: Path,
    base: Path | None = None,
    status: Status = "KILLED",
    reason: str | None = None,
) -> None:
    """Deliver what is left of a run whose process is gone, and say what is not delivered.

    One that has not written its end gets `status` and `reason`. Raises `RunError` where it is running.
    """
    place = read_place(folder)
    if place.status is not None and place.position >= (folder / JOURNAL).stat().st_size:
        return
    uri = resolve_uri(config, base or Path.cwd()) if isinstance(config, MLflowConfig) else None
    tracker = JournalTracker(folder, "", uri, config.flush_timeout if isinstance(config, MLflowConfig) else 0.0)
    tracker.run_name = (tracker.journal.run or {"run_name": ""})["run_name"]
    tracker.begin(at_once=False)
    tracker.finish(status, reason)


def open_hint(config: MLflowConfig | NoTrackingConfig, base: Path | None = None) -> str:
    """Two lines for people: how to open MLflow's page on this store, with lwexp and with MLflow alone."""
    if isinstance(config, NoTrackingConfig):
        return "tracking=none: nothing was sent to MLflow"
    uri = resolve_uri(config, base or Path.cwd())
    elsewhere = address.uri_source(config)[1] == address.DEFAULT_URI and base not in (None, Path.cwd())
    shown = uri if elsewhere else config.uri
    options = [] if shown is None else [f"tracking.uri={redact_addresses(shown)}"]
    options += [] if config.experiment == "lwexp" else [f"tracking.experiment={config.experiment}"]
    ours = shlex.join(["python", "-m", "lwexp.ui", *options])
    if address.kind(uri).startswith("http"):
        return f"open MLflow: {ours}\n         or: {redact_addresses(uri)}"
    theirs = shlex.join(["mlflow", "ui", "--backend-store-uri", redact_addresses(uri)])
    return f"open MLflow: {ours}\n         or: {theirs}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without an entry for the user id
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"
