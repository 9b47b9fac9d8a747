"""Addresses of MLflow stores: resolving and validating them, and showing them without secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from lwexp.config.schema import MLflowConfig
from lwexp.errors import ConfigError, nearest
from lwexp.redaction import redact_addresses

from .mlflow_internals import database_path, path_in_address

DEFAULT_URI, DEFAULT_EXPERIMENT = "sqlite:///outputs/mlflow.db", "lwexp"
_DATABASES = ("postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")
_KINDS = ("sqlite", *_DATABASES, *_SERVERS)
_HINT = "a local database is sqlite:///outputs/mlflow.db, a server http://host:5000"
_FOLDER = "MLflow keeps no runs in plain folders any more; use a database in it: sqlite:///<folder>/mlflow.db"


def shown(uri: str) -> str:
    """`redact` for one whole address as typed, which may be malformed: without slashes, or with blanks in it."""
    return redact_addresses(re.sub(r"^((?:[\w+.-]+:/*)?[^:/@]*:).*@", r"\1***@", uri, flags=re.DOTALL))


def resolve_uri(config: MLflowConfig, base: Path) -> str:
    """The store's address: `tracking.uri`, else MLFLOW_TRACKING_URI, else a database below `base`/outputs.

    A relative SQLite path counts from `base`, the folder where the command was started, and comes back absolute.
    Creates and contacts nothing. Raises `ConfigError` for an invalid address, with its secrets redacted.
    """
    return absolute(*uri_source(config), base)


def absolute(key: str, uri: str, base: Path) -> str:
    """`resolve_uri` for an address as written; `key` names its source in errors."""
    if kind(uri) == "sqlite":
        return _absolute_sqlite(key, uri, base)
    if kind(uri) in _SERVERS:
        return _checked_server(key, uri)
    if kind(uri) in _DATABASES:
        return _checked_database(key, uri)
    raise ConfigError(key, shown(uri), _unknown(uri))


def uri_source(config: MLflowConfig) -> tuple[str, str]:
    """The source of the address (an option, or the environment variable), and the address as written."""
    if config.uri is not None:
        return "tracking.uri", config.uri.strip()
    return "MLFLOW_TRACKING_URI", os.environ.get("MLFLOW_TRACKING_URI", "").strip() or DEFAULT_URI


def experiment_name(config: MLflowConfig) -> str:
    """The experiment's name: `tracking.experiment`, else MLFLOW_EXPERIMENT_NAME, else lwexp."""
    return config.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip() or DEFAULT_EXPERIMENT


def given_experiment_id(config: MLflowConfig) -> str | None:
    """MLFLOW_EXPERIMENT_ID, where neither the config nor MLFLOW_EXPERIMENT_NAME says which experiment."""
    named = config.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip()
    return None if named else os.environ.get("MLFLOW_EXPERIMENT_ID", "").strip() or None


def kind(uri: str) -> str:
    """The scheme without a driver: `postgresql` of `postgresql+psycopg2://…`; empty for what has no `://`."""
    scheme, separator, _ = uri.partition("://")
    return scheme.partition("+")[0].lower() if separator else ""


def sqlite_path(uri: str) -> Path:
    """The file of a resolved `sqlite:///…` address: the one that MLflow opens."""
    return Path(database_path(uri.partition(":///")[2].partition("?")[0]))


def is_missing(uri: str) -> bool:
    """Whether `uri` is an SQLite file that does not exist."""
    return kind(uri) == "sqlite" and not is_there(sqlite_path(uri))


def is_there(path: Path) -> bool:
    """Whether `path` exists; False for a name that the file system does not take."""
    return os.path.exists(path)  # noqa: PTH110 (Path.exists raises for a name that is too long)


def _absolute_sqlite(key: str, uri: str, base: Path) -> str:
    scheme, _, rest = uri.partition("://")
    path, question, query = rest.removeprefix("/").partition("?")
    if rest and not rest.startswith("/"):
        why = "three slashes before a relative path, four before an absolute one: sqlite:///outputs/mlflow.db"
        raise ConfigError(key, shown(uri), why)
    if not path:
        raise ConfigError(key, shown(uri), f"names no file; {_HINT}")
    if path == ":memory:":
        raise ConfigError(key, shown(uri), "a database in memory is gone when the run ends; name a file")
    if path.startswith("file:"):
        raise ConfigError(key, shown(uri), f"write the path itself: sqlite:///{path.removeprefix('file:')}")
    file = _sqlite_file(key, uri, path, base)
    if path.endswith("/") or _is_folder(file):
        raise ConfigError(key, shown(uri), "is a folder; name a file in it, e.g. mlflow.db")
    encoded = path_in_address(str(file))
    if encoded is None:
        raise ConfigError(key, shown(uri), f"the path {file} has a question mark, which ends the path of an address")
    return f"{scheme.lower()}:///{encoded}{question}{query}"


def _sqlite_file(key: str, uri: str, written: str, base: Path) -> Path:
    """The file that the path of an SQLite address names; relative paths count from `base`."""
    texts = (database_path(written), written)
    # resolve() would follow links
    file, literal = (Path(os.path.abspath(base / Path(text).expanduser())) for text in texts)  # noqa: PTH100
    meant = literal == file or str(literal) == path_in_address(str(file))
    if not meant and _is_folder(literal.parent) and not _is_folder(file.parent):
        why = f"in an address %xx stands for a character, so this is {file}; for {literal} write"
        raise ConfigError(key, shown(uri), f"{why} sqlite:///{path_in_address(str(literal))}")
    return file


def _is_folder(path: Path) -> bool:
    return is_there(path) and path.is_dir()


def _checked_server(key: str, uri: str) -> str:
    why = None
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
    except ValueError:
        raise ConfigError(key, shown(uri), f"not a valid address; {_HINT}") from None
    try:
        if parts.port == 0:
            raise ValueError
    except ValueError:
        why = "the port must be a number from 1 to 65535"
    if not host:
        why = f"names no host; {_HINT}"
    elif re.search(r"\s", uri) or not re.fullmatch(r"[\w.-]+|[0-9a-fA-F:.%]+", host) or ".." in host:
        why = f"{host!r} cannot be the name of a host"
    elif parts.query or parts.fragment:
        why = "give the server's own address, without what follows ? or #"
    if why is not None:
        raise ConfigError(key, shown(uri), why)
    return uri.rstrip("/")


def _checked_database(key: str, uri: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    form = "the form is dialect+driver://user:password@host:port/database"
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        raise ConfigError(key, shown(uri), f"not a valid database address; {form}") from None
    if url.port is not None and not 0 < url.port < 65536:
        raise ConfigError(key, shown(uri), "the port must be a number from 1 to 65535")
    if not url.database and not url.query:
        raise ConfigError(key, shown(uri), f"names no database; {form}")
    return uri


def _unknown(uri: str) -> str:
    """Why `uri`, which is not of a known kind, is not an address of a store."""
    scheme, colon, _ = uri.partition(":")
    if not uri:
        return f"is empty; {_HINT}"
    if scheme.lower() == "file" or uri.startswith((".", "/", "~")):
        return _FOLDER
    if colon and scheme.partition("+")[0].lower() in _KINDS:
        return f"{scheme}: is followed by slashes; {_HINT}"
    if "://" in uri:
        return f"no such kind of store; {nearest(scheme.lower(), _KINDS)}"
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        return f"a server's address begins with http:// or https://: http://{uri}"
    return f"not an address; {_HINT}"
