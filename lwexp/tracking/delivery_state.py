"""How far a run's journal has been delivered: a small file beside it, written by whoever delivers, read by all."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lwexp.host.files import atomic_write

FILE = "delivery.json"
_ROOM = 1024  # characters, so that a later place fits where an earlier one stood


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
    not_kept: dict[str, str] = field(default_factory=dict)  # artifacts that cannot be copied, and why
    pid: int = 0  # who delivers
    host: str = ""

    def save(self, folder: Path) -> None:
        """Write the file whole or not at all; on a full disk into the room that it has. Raises `OSError`."""
        path = folder / FILE
        text = json.dumps(asdict(self)).ljust(_ROOM)
        try:
            atomic_write(path, text, durable=False)
        except OSError:
            with path.open("r+", encoding="utf-8") as file:
                file.write(text)


def read_place(folder: Path) -> Place:
    """The place written in `folder`; that of the beginning where there is none or it cannot be read."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        known = {known.name for known in fields(Place)}
        return Place(**{key: value for key, value in found.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return Place()


def forget_failure(folder: Path) -> None:
    """Leave what an earlier delivery met out of the place in `folder`: the next one finds out for itself."""
    place = read_place(folder)
    if place.refused is not None or place.problem is not None:
        place.refused = place.problem = None
        with suppress(OSError):  # a full disk; the next delivery's own word comes later then
            place.save(folder)
