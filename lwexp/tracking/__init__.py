"""Starting and ending the record of a run, or of a multirun's parent, in MLflow or nowhere."""

from __future__ import annotations

import atexit
import getpass
import logging
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lwexp.config import MLflowConfig, NoTrackingConfig
from lwexp.errors import RunError

from . import address
from .address import redact, resolve_uri
from .contact import check_store
from .keys import MAX_NAME, MAX_TAG, cut, param_values, safe_key, safe_keys, tag_values
from .store import connect, experiment_id, explained, persist
from .tracker import PATIENCE_SECONDS, MLflowTracker, Status

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "NoTracker", "Status", "Tracker", "check_store", "end_parent", "open_hint", "redact", "resolve_uri",
    "safe_key", "safe_keys", "start", "start_parent",
]  # fmt: skip

_NOTE = "mlflow.note.content"  # the tag that MLflow shows as a run's description
PARAMS_PER_CALL = 20  # the longest values, with every character escaped, stay below the 1 MB that a request may have

_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where a run's metrics, files and tags go."""

    run_id: str | None
    run_name: str
    where: str  # the store's address for people, without secrets

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of the optimizer step `step`; returns at once."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """A file, or a folder's files, under `folder` of the run's artifacts."""

    def tag(self, tags: Mapping[str, str]) -> None:
        """Tags of the run."""

    def position(self) -> int:
        """How much of the journal is safe on the disk, in bytes."""

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Deliver everything, then set the run's status. A second call does nothing."""


class NoTracker:
    """tracking=none: takes everything, keeps nothing."""

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
        """There is no journal."""
        return 0

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Do nothing."""


def start(
    config: MLflowConfig | NoTrackingConfig,
    *,
    run_name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    description: str,
    parent_run_id: str | None = None,
    base: Path | None = None,
) -> Tracker:
    """A new run, RUNNING, with its params and tags, in the experiment `config.experiment`.

    `description` is Markdown, shown on the run's page. Relative addresses count from `base`, by default the current
    folder. Raises `ConfigError` for an address or experiment that cannot be used, `RunError` for a store that does
    not answer within `config.timeout` seconds or refuses.
    """
    if isinstance(config, NoTrackingConfig):
        return NoTracker(run_name)
    client, uri, run_id = _create_run(
        config, run_name=run_name, tags=tags, description=description, parent_run_id=parent_run_id, base=base
    )
    tracker = MLflowTracker(client, run_id, run_name, uri)
    try:
        _log_params(client, run_id, params, uri)
    except BaseException as error:
        tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED", "setting up the run failed")
        raise
    return tracker


def start_parent(
    config: MLflowConfig | NoTrackingConfig,
    *,
    run_name: str,
    tags: Mapping[str, str],
    description: str,
    params: Mapping[str, Any],
    base: Path | None = None,
) -> str | None:
    """The id of a new run for the jobs of a multirun to be children of; None with tracking=none."""
    if isinstance(config, NoTrackingConfig):
        return None
    client, uri, run_id = _create_run(config, run_name=run_name, tags=tags, description=description, base=base)
    if not _parents:
        atexit.register(_abandoned_parents, os.getpid())
    _parents[run_id] = client, uri
    _log_params(client, run_id, params, uri)
    return run_id


def end_parent(
    config: MLflowConfig | NoTrackingConfig,
    run_id: str | None,
    status: Status,
    summary_markdown: str | None = None,
    *,
    base: Path | None = None,
) -> None:
    """Set a parent run's status; `summary_markdown` comes before its description. A second call does nothing."""
    if isinstance(config, NoTrackingConfig) or run_id is None or _parents.get(run_id, ()) is None:
        return
    client, uri = _parents.get(run_id) or connect(config, base)
    _end_parent(client, uri, run_id, status, summary_markdown)


# id -> client and address of the parent runs that this process started, None once ended
_parents: dict[str, tuple[MlflowClient, str] | None] = {}


def _end_parent(client: MlflowClient, uri: str, run_id: str, status: Status, summary: str | None) -> None:
    def end() -> None:
        if summary:
            before = client.get_run(run_id).data.tags.get(_NOTE, "")
            text = f"{summary}\n\n{before}".strip()
            client.set_tag(run_id, _NOTE, cut(redact(text), MAX_TAG))
        client.set_terminated(run_id, status)

    with explained(uri, "did not take the end of the parent run"):
        persist(end, PATIENCE_SECONDS)
    _parents[run_id] = None


def _abandoned_parents(pid: int) -> None:
    """At the interpreter's exit, in the process that started them: parent runs that nobody has ended."""
    for run_id, found in _parents.items() if os.getpid() == pid else ():
        if found is not None:
            try:
                _end_parent(*found, run_id, "FAILED", None)
            except RunError as error:
                _log.error("%s", error)


def open_hint(config: MLflowConfig | NoTrackingConfig, base: Path | None = None) -> str:
    """Two lines for people: how to open MLflow's page on this store, with lwexp and with MLflow alone."""
    if isinstance(config, NoTrackingConfig):
        return "tracking=none: nothing was sent to MLflow"
    uri = resolve_uri(config, base or Path.cwd())
    options = [] if config.uri is None else [f"tracking.uri={redact(config.uri)}"]
    options += [] if config.experiment == "lwexp" else [f"tracking.experiment={config.experiment}"]
    ours = shlex.join(["python", "-m", "lwexp.ui", *options])
    if address.kind(uri).startswith("http"):
        return f"open MLflow: {ours}\n         or: {redact(uri)}"
    return f"open MLflow: {ours}\n         or: {shlex.join(['mlflow', 'ui', '--backend-store-uri', redact(uri)])}"


def _create_run(
    config: MLflowConfig,
    *,
    run_name: str,
    tags: Mapping[str, str],
    description: str,
    parent_run_id: str | None = None,
    base: Path | None,
) -> tuple[MlflowClient, str, str]:
    client, uri = connect(config, base)
    own = {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "lwexp.run",
        "mlflow.user": _user(),
        _NOTE: description,
    }
    if parent_run_id is not None:
        own["mlflow.parentRunId"] = parent_run_id
    all_tags = tag_values({**own, **tags})
    run_name = cut(run_name, MAX_NAME)
    with explained(uri):
        experiment = persist(lambda: experiment_id(client, config.experiment, uri, base), config.timeout)
        # once only: where the answer was lost, a second attempt would leave a first run behind
        run = persist(lambda: client.create_run(experiment, None, all_tags, run_name), patience=0.0)
    return client, uri, str(run.info.run_id)


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any], uri: str) -> None:
    from mlflow.entities import Param

    entities = [Param(*item) for item in param_values(params).items()]
    with explained(uri, "did not take the run's params"):
        for first in range(0, len(entities), PARAMS_PER_CALL):
            part = entities[first : first + PARAMS_PER_CALL]
            persist(lambda part=part: client.log_batch(run_id, params=part), PATIENCE_SECONDS)  # type: ignore[misc]


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without an entry for the user id
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"
