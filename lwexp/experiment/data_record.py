"""The record of what a run's data consisted of, in its folder, and how the data differ from it now."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwexp.data.contents import Contents, difference
from lwexp.errors import ConfigError, RunError
from lwexp.host.files import atomic_write

FILE = "data.json.gz"
_NAMES = ("path", "dataset", "root")  # keys of the data section that say where the data are


def save_data_record(folder: Path, contents: Contents) -> None:
    """Write the names and sizes in `contents`. Raises `RunError`."""
    text = json.dumps({"format": 1, "contents": dict(contents)}, indent=0)
    try:
        atomic_write(folder / FILE, gzip.compress(text.encode("utf-8"), compresslevel=6, mtime=0))
    except OSError as error:
        raise RunError(f"{folder / FILE} cannot be written: {error.strerror or error}") from error


def data_changes(folder: Path, contents: Contents, values: Mapping[str, Any], *, remap: bool) -> list[str]:
    """How `contents` differ from those of the run in `folder`, as one text in a list; empty where they do not.

    A run of an earlier version of lwexp has no record. Raises `ConfigError` for a difference unless `remap`; `values`
    is the config.
    """
    before = _record(folder)
    found = "" if before is None else difference(before, contents)
    if not found:
        return []
    if not remap:
        key = next((key for key in _NAMES if values["data"].get(key)), "name")
        why = f"the data have changed since the run began: {found}; checkpoint.remap=true resumes with them as they are"
        raise ConfigError("data" if key == "name" else f"data.{key}", values["data"].get(key), why)
    return [f"data: {found}"]


def _record(folder: Path) -> Contents | None:
    try:
        found = json.loads(gzip.decompress((folder / FILE).read_bytes()))["contents"]
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # none, or damaged: nothing to compare with
        return None
    return found if isinstance(found, dict) else None
