"""Starting a run's record, resuming it, and delivering what is left of it."""

from __future__ import annotations

import getpass
import logging
import os
import shlex
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lwexp.config.schema import MLflowConfig, NoTrackingConfig
from lwexp.errors import RunError
from lwexp.host.files import remove_temporaries
from lwexp.host.lock import Lock
from lwexp.redaction import redact, redact_addresses

from . import address
from .address import resolve_uri
from .base import Status
from .contact import UnreachableError, check_store
from .copies import original_of, separate
from .delivery import DELIVERY_LOCK
from .delivery_client import courier
from .delivery_state import FILE as DELIVERY_STATE
from .delivery_state import read_state
from .journal import FILE as JOURNAL
from .journal import run_record
from .keys import NOTE_TAG, param_values
from .mirror import mirrors_of, packages, recorded_mirrors
from .tracker import JournalTracker

log = logging.getLogger(__name__)


def prepare(
    config: MLflowConfig | NoTrackingConfig, base: Path | None = None, *, hint: str = " (without MLflow: tracking=none)"
) -> bool:
    """Start the delivery process, which imports mlflow while the model is built; returns whether the store answers.

    A store that does not answer is a warning, which ends with `hint`: the run continues without it. Raises
    `ConfigError` for an address that cannot be used.
    """
    packages(config)
    if isinstance(config, NoTrackingConfig):
        if mirrors_of(config):
            courier.start()
        return True
    answers = True
    try:
        check_store(config, base)
    except UnreachableError as error:
        log.warning("%s; the run continues, its metrics wait in its folder%s", error, hint)
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
    source: str = "lwexp.run",
) -> JournalTracker:
    """Start a run in `folder` and the experiment that `config` names, or continue the run that is there.

    A run without `parent` becomes the MLflow run that MLFLOW_RUN_ID names, as `mlflow run` sets it.

    A copy of another run's folder is continued as a new run, with all that was recorded before.

    `description` is Markdown, shown on the run's page; `parent` the folder of the parent run, for a sweep's job.
    Relative addresses count from `base`, by default the current folder. With `answers`, as `prepare` returned it, this
    waits for the store's first answer. `source` is the command or script, shown on the run's page. Raises `ConfigError`
    for an address or experiment that cannot be used, `RunError` for a store that refuses, a folder in use or a full
    disk.
    """
    base, run_name = base or Path.cwd(), redact(run_name)
    uri = resolve_uri(config, base) if isinstance(config, MLflowConfig) else None
    with Lock(folder / DELIVERY_LOCK) as delivery:
        if folder.is_dir() and delivery.acquire():  # else one is at work
            remove_temporaries(folder, of=DELIVERY_STATE)
    original = original_of(folder)
    copied = {} if original is None else {"lwexp.copy_of": separate(folder, original)}
    mirrors = mirrors_of(config)
    tracker = JournalTracker(folder, run_name, uri, config.flush_timeout, mirrors)
    try:
        if tracker.journal.run is not None:
            tracker.run_name = tracker.journal.run["run_name"]
            # a run that failed before its config was known has no params yet
            missing = {} if tracker.journal.run["params"] else param_values(params)
            resumed = {"time_ms": time.time_ns() // 1_000_000, "where": tracker.where, "params": missing}
            resumed |= {"mirrors": mirrors} if mirrors or recorded_mirrors(folder) else {}
            tracker.journal.write("resumed", {**resumed, "folder": str(folder.absolute())})
            if missing or copied:
                tracker.tag({**({NOTE_TAG: description, **tags} if missing else {}), **copied})
        else:
            own = {
                "mlflow.source.type": "LOCAL",
                "mlflow.source.name": source,
                "mlflow.user": _user(),
                NOTE_TAG: description,
            }
            record = {
                "id": uuid.uuid4().hex,
                "run_name": run_name,
                **_mlflows_own(config, has_parent=parent is not None),
                "where": tracker.where,
                "base": str(base.absolute()),
                "folder": str(folder.absolute()),
                "parent": os.path.relpath(parent, folder) if parent is not None else None,
                "tags": {key: redact(value) for key, value in {**own, **tags}.items()},
                "params": param_values(params),
                "time_ms": time.time_ns() // 1_000_000,
                **({"mirrors": mirrors} if mirrors else {}),
            }
            tracker.journal.write("run", record)
        tracker.begin(at_once=answers)
    except BaseException as error:
        new = read_state(folder).run_id is None and not tracker.journal.rows_written
        tracker.close()
        if new and isinstance(error, Exception):  # refused: leave no trace of it
            for name in (JOURNAL, DELIVERY_STATE):
                (folder / name).unlink(missing_ok=True)
        raise
    return tracker


def started_in(folder: Path) -> Path | None:
    """The folder where the run in `folder` was started, from which its relative paths count; None if not here."""
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
    """Deliver the rest of a run whose process is gone, and log what could not be delivered.

    A run without an end gets `status` and `reason`. Raises `RunError` if it is still running.
    """
    state = read_state(folder)
    if state.status is not None and state.position >= (folder / JOURNAL).stat().st_size:
        return
    uri = resolve_uri(config, base or Path.cwd()) if isinstance(config, MLflowConfig) else None
    tracker = JournalTracker(folder, "", uri, config.flush_timeout, mirrors_of(config))
    tracker.run_name = (tracker.journal.run or {"run_name": ""})["run_name"]
    tracker.begin(at_once=False)
    tracker.finish(status, reason)


def amend(config: MLflowConfig | NoTrackingConfig, folder: Path, base: Path | None, tags: Mapping[str, str]) -> None:
    """Add tags to the run in `folder`, which has ended; they are delivered as all of it is, at the latest by a sync.

    Does nothing where the disk is full or another process has the run.
    """
    uri = resolve_uri(config, base or Path.cwd()) if isinstance(config, MLflowConfig) else None
    try:
        tracker = JournalTracker(folder, "", uri, config.flush_timeout if isinstance(config, MLflowConfig) else 0.0)
    except RunError:
        return
    tracker.run_name = (tracker.journal.run or {"run_name": ""})["run_name"]
    with suppress(RunError):
        tracker.journal.write("tags", {key: redact(value) for key, value in tags.items()})
    tracker.begin(at_once=False)
    tracker.finish(tracker.journal.status or "FINISHED", quiet=True)  # type: ignore[arg-type]


def open_hint(config: MLflowConfig | NoTrackingConfig, base: Path | None = None) -> str:
    """Two lines: the command that opens MLflow's page on this store, with lwexp and with MLflow alone."""
    if isinstance(config, NoTrackingConfig):
        return "nothing was sent to MLflow"
    uri = resolve_uri(config, base or Path.cwd())
    elsewhere = address.uri_source(config)[1] == address.DEFAULT_URI and base not in (None, Path.cwd())
    shown = uri if elsewhere else config.uri
    options = [] if shown is None else [f"tracking.uri={redact_addresses(shown)}"]
    options += (
        [] if config.experiment in (None, address.DEFAULT_EXPERIMENT) else [f"tracking.experiment={config.experiment}"]
    )
    ours = shlex.join(["python", "-m", "lwexp.ui", *options])
    theirs = redact_addresses(uri)
    if not address.kind(uri).startswith("http"):
        theirs = shlex.join(["mlflow", "ui", "--backend-store-uri", theirs])
    return f"open MLflow: {ours}\n         or: {theirs}"


def _mlflows_own(config: MLflowConfig | NoTrackingConfig, *, has_parent: bool) -> dict[str, str | None]:
    """The experiment and the run that the config or MLflow's own variables name."""
    if isinstance(config, NoTrackingConfig):
        return {"experiment": address.DEFAULT_EXPERIMENT}
    run_id = None if has_parent else os.environ.get("MLFLOW_RUN_ID", "").strip() or None
    return {
        "experiment": address.experiment_name(config),
        "experiment_id": address.given_experiment_id(config),
        "run_id": run_id,
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without an entry for the user id
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"
