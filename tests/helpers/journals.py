"""What a journal holds, in a form that tests compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lwexp.tracking.journal import CHUNK, Entry, Reader

RUN = {"id": "a1", "run_name": "rün", "params": {"lr": "0.1"}}


def contents(path: Path, chunk: int = CHUNK) -> list[tuple[str, Any]]:
    """The entries of a journal without their times, and without those that only name keys."""
    return [shown(entry) for entry in Reader(path, chunk).entries() if entry.kind != "keys"]


def shown(entry: Entry) -> tuple[str, Any]:
    if entry.kind == "rows":
        return "rows", (entry.value.step, dict(zip(entry.value.keys, entry.value.values, strict=True)))
    return entry.kind, entry.value
