"""The MLflow client of a store, the experiment, and the errors of its calls.

mlflow is imported inside functions only: it takes seconds, and tracking=none does not need it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lwexp.config.schema import MLflowConfig
from lwexp.errors import ConfigError, RunError
from lwexp.redaction import redact_addresses

from . import address
from .contact import check_store, error_line
from .keys import ID_TAG
from .mlflow_internals import DATABASE_LOGGER, KIND, KIND_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")

_LOCK_SECONDS = 120.0
_TRANSIENT = {
    "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "RESOURCE_EXHAUSTED", "REQUEST_LIMIT_EXCEEDED",
    "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED", "IO_ERROR",
}  # fmt: skip
# MLflow's own retries take over four minutes, and it prints links when a run ends
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def connect(config: MLflowConfig, base: Path | None = None, *, create: bool = True) -> tuple[MlflowClient, str]:
    """A client of the store that has answered, its tables made on first use, and the store's resolved address.

    Raises `ConfigError` for an address that cannot be used, and without `create` for an SQLite file that does not
    exist; `RunError` for a store that does not answer.
    """
    uri = check_store(config, base, create=create)
    import_quietly()
    with translate_errors(uri), lock_first_use(uri), limit_retries():
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri), uri


@contextmanager
def lock_first_use(uri: str) -> Iterator[None]:
    """A file lock beside an SQLite file: MLflow's creation of tables is not safe in two processes at once."""
    if address.kind(uri) != "sqlite":
        yield
        return
    from filelock import FileLock, Timeout

    lock = FileLock(f"{address.sqlite_path(uri)}.lock", timeout=_LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        why = f"another process has held {lock.lock_file} for {_LOCK_SECONDS:g} s"
        raise RunError(f"the tracking store {redact_addresses(uri)} cannot be set up: {why}") from None
    try:
        yield
    finally:
        lock.release()


def given_run(client: MlflowClient, run_id: str, own_id: str) -> Run:
    """The run that MLFLOW_RUN_ID names, for the run of lwexp whose id is `own_id`.

    Raises `ConfigError` for one that does not exist, was deleted, or is another run of lwexp already.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise ConfigError("MLFLOW_RUN_ID", run_id, "there is no such run in the tracking store; unset it") from None
    if found.info.lifecycle_stage != "active":
        raise ConfigError("MLFLOW_RUN_ID", run_id, "was deleted; restore it (mlflow runs restore), or unset it")
    if found.data.tags.get(ID_TAG, own_id) != own_id:
        raise ConfigError("MLFLOW_RUN_ID", run_id, "is another run of lwexp already; unset it for a run of its own")
    return found


def experiment_id(
    client: MlflowClient, name: str, uri: str, base: Path | None = None, given_id: str | None = None
) -> str:
    """The id of the experiment `name`, created on first use and marked as model training; `given_id` if it is there.

    Raises `ConfigError` for a name that MLflow refuses or that belongs to a deleted experiment.
    """
    from mlflow.exceptions import MlflowException

    if not name.strip() or len(name) > 500:
        raise ConfigError("tracking.experiment", name, "must have from 1 to 500 characters")
    if given_id is not None:
        try:
            return str(client.get_experiment(given_id).experiment_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise ConfigError("MLFLOW_EXPERIMENT_ID", given_id, "there is no such experiment in the store") from None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, _artifact_location(uri, base), {KIND_TAG: KIND}))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process was faster
    if found is None or found.lifecycle_stage != "active":
        restore = f" (mlflow experiments restore --experiment-id {found.experiment_id})" if found else ""
        raise ConfigError("tracking.experiment", name, f"was deleted; restore it{restore} or choose another name")
    if found.tags.get(KIND_TAG) != KIND:
        client.set_experiment_tag(found.experiment_id, KIND_TAG, KIND)
    return str(found.experiment_id)


def artifact_folder(uri: str, base: Path | None = None) -> Path:
    """The artifact folder of a database store: `mlartifacts` beside an SQLite file, else below `base`/outputs/."""
    if address.kind(uri) == "sqlite":
        return address.sqlite_path(uri).parent / "mlartifacts"
    return (base or Path.cwd()).absolute() / "outputs" / "mlartifacts"


def _artifact_location(uri: str, base: Path | None) -> str | None:
    """The artifact location for a database; None for a server, which has its own."""
    return None if address.kind(uri).startswith("http") else artifact_folder(uri, base).as_uri()


def is_transient(error: Exception) -> bool:
    """Whether a retry may help: any error but an answer of MLflow that the request itself is wrong."""
    from mlflow.exceptions import MlflowException

    return not isinstance(error, MlflowException) or error.error_code in _TRANSIENT


def is_missing(error: Exception) -> bool:
    """Whether MLflow answered that something does not exist."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST"


@contextmanager
def translate_errors(uri: str, what: str = "failed") -> Iterator[None]:
    """Re-raises errors of MLflow, the database and the network as a `RunError` of one line without secrets."""
    try:
        yield
    except (RunError, ConfigError):
        raise
    except Exception as error:
        raise RunError(f"the tracking store {redact_addresses(uri)} {what}: {error_line(error, uri)}") from None


class _RetryLimits:
    """Sets MLFLOW_HTTP_… variables, which MLflow's HTTP client reads at every request.

    Only while a call of ours runs (in any thread), and only those that the user has not set.
    """

    def __init__(self) -> None:
        self._lock, self._depth, self._added = threading.Lock(), 0, list[str]()

    def enter(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._added = [name for name in _SETTINGS if name not in os.environ]
                os.environ.update({name: _SETTINGS[name] for name in self._added})

    def leave(self) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                for name in self._added:
                    os.environ.pop(name, None)


_limits = _RetryLimits()


@contextmanager
def limit_retries() -> Iterator[None]:
    """Calls of MLflow's client fail at once; `Delivery` retries them itself, and reports the error meanwhile."""
    _limits.enter()
    try:
        yield
    finally:
        _limits.leave()


def import_quietly() -> None:
    """Import mlflow without log messages, progress bars and telemetry; a level set by MLFLOW_LOGGING_LEVEL stays."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow  # noqa: F401

    if "MLFLOW_LOGGING_LEVEL" in os.environ:
        return
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger(DATABASE_LOGGER).setLevel(logging.CRITICAL)
