"""The first contact with an MLflow store: bounded in time, without importing mlflow, explained in one line."""

from __future__ import annotations

import os
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from lwexp.config.schema import MLflowConfig
from lwexp.errors import ConfigError, RunError
from lwexp.redaction import redact_addresses, redact_answer

from . import address
from .mlflow_internals import missing_dialect, reason_of

T = TypeVar("T")

ANSWER_SECONDS = 40.0  # for a whole answer: a server may send a byte at a time
SLOWEST = 50_000  # bytes a second of an artifact's way to a server
_SHORT_PATH = 400  # bytes; SQLite itself limits paths, usually to 504
# Answered from the server's database, so that a server whose database hangs does not count as available
_PROBE = "/api/2.0/mlflow/experiments/search?max_results=1"


class UnreachableError(RunError):
    """The store at `uri` does not answer; `why` is the short reason."""

    def __init__(self, uri: str, why: str) -> None:
        """Join address, without its secrets, and reason to one line."""
        self.why = why
        super().__init__(f"the tracking store {redact_addresses(uri)} is not available ({why})")


def check_store(config: MLflowConfig, base: Path | None = None, *, create: bool = True) -> str:
    """The resolved address of a store that answers within `config.timeout` seconds; mlflow is not imported.

    Raises `ConfigError` for an address that cannot be used, and without `create` for an SQLite file that does not
    exist; `UnreachableError` for a store that does not answer.
    """
    uri = address.resolve_uri(config, base or Path.cwd())
    key = address.uri_source(config)[0]
    if not create and address.is_missing(uri):
        why = "there is no such database: no run has been tracked there yet"
        if config.uri is None and not os.environ.get("MLFLOW_TRACKING_URI", "").strip():
            key = "tracking.uri"
            why = "there are no runs here; runs lie in outputs/ of the folder where they were started: change to it"
        raise ConfigError(key, redact_addresses(uri), why)
    if address.kind(uri) == "sqlite":
        _check_file(key, uri)
        return uri
    contact = _contact_server if address.kind(uri).startswith("http") else _contact_database
    try:
        within(config.timeout, lambda: contact(uri, config.timeout))
    except ModuleNotFoundError as error:
        why = (
            f"the Python package {error.name} is not installed; install it, or name another driver (dialect+driver://)"
        )
        raise ConfigError(key, redact_addresses(uri), why) from None
    except TimeoutError:
        raise UnreachableError(uri, f"no answer within {config.timeout:g} s") from None
    except Exception as error:
        raise UnreachableError(uri, error_line(error, uri)) from None
    return uri


def within(seconds: float, action: Callable[[], T]) -> T:
    """The result of `action`, or `TimeoutError`; a call that blocks in the operating system is left in its thread."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(action())
        except BaseException as error:  # re-raised below
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True, name="lwexp-first-contact")
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no whole answer within {seconds:g} s")
    return results[0]


def _check_file(key: str, uri: str) -> None:
    path = address.sqlite_path(uri)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"the folder {path.parent} cannot be made: {error.strerror}"
        raise ConfigError(key, redact_addresses(uri), why) from None
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(key, redact_addresses(uri), "no permission to write there")
    if not address.is_there(path) and len(os.fsencode(path)) <= _SHORT_PATH:
        return
    try:
        connection = sqlite3.connect(path)
        try:
            connection.execute("PRAGMA schema_version")
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if not address.is_there(path):
            why = f"SQLite opens no file whose path has {len(os.fsencode(path))} bytes; name a shorter one"
            raise ConfigError(
                key, redact_addresses(uri), f"{why}, e.g. tracking.uri=sqlite:////tmp/mlflow.db"
            ) from None
        if "locked" not in str(error):  # later calls wait for a lock
            raise UnreachableError(uri, str(error)) from None
    except sqlite3.DatabaseError:
        raise ConfigError(key, redact_addresses(uri), "the file exists and is not an SQLite database") from None


def _contact_server(uri: str, timeout: float) -> None:
    parts = urlsplit(uri)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # urllib takes no user:password@
    try:
        urllib.request.urlopen(plain + _PROBE, timeout=timeout).close()  # http or https, by `resolve_uri`
    except urllib.error.HTTPError:
        return  # an answer; MLflow's own requests will report what it means
    except urllib.error.URLError as error:
        if "SSL" not in type(error.reason).__name__:  # MLflow has its own options for certificates
            raise error.reason if isinstance(error.reason, Exception) else error from None
    except HTTPException as error:
        raise ConnectionError(f"what listens there is no web server: {error or type(error).__name__}") from None


def _contact_database(uri: str, timeout: float) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import NoSuchModuleError
    from sqlalchemy.pool import NullPool

    try:
        engine = create_engine(uri, poolclass=NullPool)
    except NoSuchModuleError as error:
        raise ModuleNotFoundError(name=missing_dialect(error)) from None
    engine.connect().close()


def error_line(error: BaseException, uri: str) -> str:
    """The reason in an error of MLflow, a database or the network: one line without secrets, up to 300 characters."""
    text = reason_of(str(error)) or type(error).__name__
    password = urlsplit(uri).password or ""
    text = redact_answer(text, password, unquote(password))
    return text if len(text) <= 300 else f"{text[:299]}…"
