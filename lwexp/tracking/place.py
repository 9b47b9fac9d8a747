"""How far a run's journal has been delivered: a small file beside it, written by whoever delivers, read by all."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

FILE = "delivery.json"


@dataclass
class Place:
    """Where the delivery of one run stands."""

    run_id: str | None = None  # None until the store has made the run
    position: int = 0  # bytes of the journal that the store has
    rows: int = 0  # metric rows among them
    status: str | None = None  # the end that the store was told; None while the run goes on
    where: str = ""  # the store's address without secrets
    answered: float = 0.0  # when the store last answered, seconds since the Unix epoch
    problem: str | None = None  # why the last attempt failed; None once the store has answered again
    refused: dict[str, Any] | None = None  # an answer that trying again will not change: key, value, why
    pid: int = 0  # who delivers
    host: str = ""

    def save(self, folder: Path) -> None:
        """Write the file whole or not at all. Raises `OSError`."""
        path = folder / FILE
        temporary = path.with_name(f".{FILE}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def read_place(folder: Path) -> Place:
    """The place written in `folder`; that of the beginning where there is none or it cannot be read."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        known = {field.name for field in fields(Place)}
        return Place(**{key: value for key, value in found.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return Place()
