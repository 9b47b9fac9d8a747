"""How far a run's journal has been delivered: `delivery.json` beside it, written by the delivery and read by all."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lwexp.host.files import atomic_write

FILE = "delivery.json"
_MIN_LENGTH = 1024  # characters, so that a later state fits into the file of an earlier one on a full disk


@dataclass
class DeliveryState:
    """How far the delivery of one run has come; the fields are those of the file."""

    run_id: str | None = None  # None until the store has created the run
    position: int = 0  # bytes of the journal that the store has
    rows: int = 0  # metric rows among them
    status: str | None = None  # the final status that the store has; None while the run is open
    where: str = ""  # the store's address without secrets
    answered: float = 0.0  # when the store last answered, seconds since the Unix epoch
    problem: str | None = None  # why the last attempt failed; None once the store has answered again
    refused: dict[str, Any] | None = None  # an answer that a retry will not change: key, value, why
    not_kept: dict[str, str] = field(default_factory=dict)  # artifacts that cannot be copied, and why
    pid: int = 0  # of the process that delivers
    host: str = ""

    def save(self, folder: Path) -> None:
        """Replace the file atomically; on a full disk overwrite it in place. Raises `OSError`."""
        path = folder / FILE
        text = json.dumps(asdict(self)).ljust(_MIN_LENGTH)
        try:
            atomic_write(path, text, durable=False)
        except OSError:
            with path.open("r+", encoding="utf-8") as file:
                file.write(text)


def read_state(folder: Path) -> DeliveryState:
    """The state in `folder`; the initial one if there is none or it cannot be read."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        known = {known.name for known in fields(DeliveryState)}
        return DeliveryState(**{key: value for key, value in found.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return DeliveryState()


def clear_failure(folder: Path) -> None:
    """Remove an earlier delivery's failure from the state in `folder`, so that the next one reports its own."""
    state = read_state(folder)
    if state.refused is not None or state.problem is not None:
        state.refused = state.problem = None
        with suppress(OSError):  # a full disk: the next delivery's report comes later
            state.save(folder)
