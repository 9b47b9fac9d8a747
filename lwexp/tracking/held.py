"""Metric rows that wait until it is known what they count as: those of an epoch that may be undone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import Status, Tracker
from .inputs import DatasetRecord

Row = list[Any]  # metrics, step, milliseconds since the Unix epoch, whether they are delivered


class HeldTracker:
    """Passes everything on to `tracker` at once, but metric rows between `hold` and `release`."""

    def __init__(self, tracker: Tracker) -> None:
        """Nothing is held yet."""
        self._tracker = tracker
        self.run_name, self.where = tracker.run_name, tracker.where
        self.rows: list[Row] | None = None  # None: they pass at once

    @property
    def run_id(self) -> str | None:
        """See `Tracker`; so for all others."""
        return self._tracker.run_id

    def hold(self, rows: Sequence[Row] = ()) -> None:
        """Hold rows from now on, in addition to `rows` of before."""
        self.rows = [*rows]

    def release(self, name: Callable[[str], str] = str, offset: int = 0) -> None:
        """Log what is held, with the time at which it came; under other names and at other steps where they are given.

        Rows pass at once from now on.
        """
        rows, self.rows = self.rows or [], None
        for metrics, step, time_ms, deliver in rows:
            renamed = {name(key): value for key, value in metrics.items()}
            self._tracker.log(renamed, step + offset, time_ms, deliver=deliver)

    def log(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None, *, deliver: bool = True) -> None:
        """Hold the row, or pass it."""
        if self.rows is None:
            self._tracker.log(metrics, step, deliver=deliver)
        elif metrics:
            time_ms = time.time_ns() // 1_000_000 if time_ms is None else time_ms
            self.rows.append([dict(metrics), step, time_ms, deliver])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Pass it."""
        self._tracker.artifact(path, folder)

    def model(self, package: Path, facts: Mapping[str, Any]) -> None:
        """Pass it."""
        self._tracker.model(package, facts)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Pass them."""
        self._tracker.tag(tags)

    def inputs(self, datasets: Sequence[DatasetRecord]) -> None:
        """Pass them."""
        self._tracker.inputs(datasets)

    def position(self) -> int:
        """Of what is written."""
        return self._tracker.position()

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Pass it."""
        self._tracker.finish(status, reason)
