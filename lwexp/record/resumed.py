"""The list of a run's resumptions, in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lwexp.errors import RunError
from lwexp.host.files import atomic_write

FILE = "resumed.json"


def note_resumed(folder: Path, step: int, changed: Sequence[str] = ()) -> str:
    """Add a resumption at optimizer step `step`, with the options that have `changed`; returns the list as one text.

    Raises `RunError` where the file cannot be written.
    """
    file = folder / FILE
    try:
        before = [str(entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        before = []
    entries = [*before, " ".join([f"step {step}", *(["with"] if changed else []), *changed])]
    try:
        atomic_write(file, json.dumps(entries, indent=1))
    except OSError as error:
        raise RunError(f"{file} cannot be written: {error.strerror or error}") from error
    return "; ".join(entries)
