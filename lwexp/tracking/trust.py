"""Where the run of a folder may be delivered to: a folder may come from somebody else, and names any address.

Passwords and tokens of this machine are sent to an address only that the caller's own settings name.
"""

from __future__ import annotations

import netrc
import os
import sqlite3
import stat
from collections.abc import Iterable
from contextlib import closing, suppress
from importlib.metadata import entry_points
from pathlib import Path

from lwexp.config.overrides import FOLDERS_URI
from lwexp.errors import ConfigError, RunError
from lwexp.redaction import redact_addresses

from .address import DEFAULT_URI, absolute, kind, sqlite_path

_NO_SECRETS = {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_TRACKING_SERVER_CERT_PATH"}


def credentials_here() -> str | None:
    """What MLflow's client would send to any server, in a few words; None if this machine has no such secrets."""
    for name, value in sorted(os.environ.items()):
        if name.startswith("MLFLOW_TRACKING_") and name not in _NO_SECRETS and value.strip():
            return name
    if (Path.home() / ".mlflow" / "credentials").exists():
        return "~/.mlflow/credentials"
    with suppress(OSError, netrc.NetrcParseError):
        if "default" in netrc.netrc(os.environ.get("NETRC")).hosts:
            return "the default entry of netrc"
    found = [plugin.name for plugin in entry_points(group="mlflow.request_header_provider")]
    return f"MLflow's plugin {found[0]}" if found else None


def is_own_database(path: Path, base: Path, folder: Path) -> bool:
    """Whether the SQLite file that the run in `folder`, started in `base`, names may be made or written.

    That is MLflow's database, or the default store of a folder that holds the run.
    """
    default = base / DEFAULT_URI.partition(":///")[2]
    if os.path.realpath(path) == os.path.realpath(default) and _is_below(folder, base):
        return True
    for mode in ("mode=ro", "immutable=1"):  # the second where a writer was killed: its journal cannot be undone here
        with (
            suppress(sqlite3.Error, OSError),
            closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)) as file,
        ):
            tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            return {"alembic_version", "experiments", "runs", "metrics"} <= tables
    return False


def why_untrusted(uri: str, base: Path, folder: Path) -> str | None:
    """Why the caller must name the resolved `uri`, which `folder` names; None if it is safe to use.

    `base`: where the run in `folder` was started.
    """
    if kind(uri) == "sqlite":
        return None if is_own_database(sqlite_path(uri), base, folder) else "to make or write that file"
    if not kind(uri).startswith("http"):
        return "to connect to that database as you"
    secret = credentials_here()
    return None if secret is None else f"to send {secret} there"


def check_folders_address(where: str, base: Path, folder: Path) -> None:
    """Allow to resume `folder` with the store at `where`, which the folder names and this command does not.

    MLFLOW_TRACKING_URI may name it as well. Otherwise artifacts go only where the store keeps them itself. Raises
    `ConfigError` where the command must name it.
    """
    uri = absolute("tracking.uri", where, base)
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if given and uri in (given.rstrip("/"), absolute("MLFLOW_TRACKING_URI", given, base)):
        return
    why = why_untrusted(uri, base, folder)
    if why is not None:
        shown = redact_addresses(where)
        what = f"only the folder {os.path.relpath(folder)} names it; {why}, give it: tracking.uri={shown}"
        raise ConfigError("tracking.uri", shown, what)
    os.environ[FOLDERS_URI] = uri


def check_own_files(folder: Path, names: Iterable[str]) -> None:
    """Raise `RunError` where a file that a delivery writes is a link, through which it would write elsewhere."""
    for name in names:
        with suppress(FileNotFoundError):
            found = os.lstat(folder / name)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise RunError(f"{name} is a link or no plain file; a run's own files are never links: nothing is sent")


def _is_below(folder: Path, base: Path) -> bool:
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(base))
