"""Whether the epochs of a training count: all of them, but for those that `lwexp.training.undo` undoes."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from lwexp.tracking import Tracker
from lwexp.tracking.held import HeldTracker


class Trial:
    """Base class: every epoch is accepted."""

    sets_scales = False  # in place of measurements between steps

    def __init__(self, tracker: Tracker) -> None:
        """`tracker` gets the metrics."""
        self._rows = HeldTracker(tracker)

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing."""

    def begin(self) -> None:
        """An epoch starts."""

    def end(self) -> bool:
        """The epoch's last step is done; returns whether it was undone."""
        return False

    def accept(self) -> None:
        """The training has stopped within the epoch."""

    def finish(self) -> None:
        """The training is complete."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What another decay (`checkpoint.remap`) had on trial is accepted."""
        self._rows.hold((state.get("trial") or {}).get("rows", ()))
        self._rows.release()
