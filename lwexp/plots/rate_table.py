"""A table of rates [steps, groups] to be plotted, and selecting some of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RateTable:
    """The rate of every group at every plotted step; raises `ValueError` for inconsistent shapes or values.

    `names` from the head to the stem, `depths` with 0 for the stem (groups may share one), `rates` [steps, groups]
    finite and at least 0 (0: frozen, or not yet unfrozen), `steps` [steps] the optimizer step of each row, increasing.
    `about` is the schedule in words, `count` the number of groups as the plan counts them, where parts of one have
    rates of their own. `jumps` are pairs of a column and a step at which an event sets its rate.
    """

    title: str
    names: Sequence[str]
    depths: Sequence[int]
    frozen: Sequence[bool]
    rates: Floats
    steps: NDArray[np.int64]
    about: str = ""
    count: int | None = None
    jumps: Sequence[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        """Check shapes and values."""
        shape = (len(self.steps), len(self.names))
        if self.rates.shape != shape or 0 in shape:
            raise ValueError(f"rates {self.rates.shape} for {shape[0]} steps and {shape[1]} groups, at least one each")
        if not len(self.names) == len(self.depths) == len(self.frozen):
            raise ValueError(f"{len(self.names)} names, {len(self.depths)} depths, {len(self.frozen)} frozen")
        if not (np.isfinite(self.rates).all() and (self.rates >= 0).all() and (np.diff(self.steps) > 0).all()):
            raise ValueError("rates must be finite and not below 0, steps increasing")

    def at(self, rows: NDArray[np.int64]) -> RateTable:
        """The same table with only these rows."""
        return replace(self, rates=self.rates[rows], steps=self.steps[rows])

    def jump_rows(self) -> list[tuple[int, int]]:
        """The `jumps` as pairs of a column and the row of the step, where that and the row before it are shown."""
        found = [(group, int(np.searchsorted(self.steps, step)), step) for group, step in self.jumps]
        return [(g, row) for g, row, step in found if 0 < row < len(self.steps) and self.steps[row] == step]


def subsample(steps: NDArray[np.int64], at_most: int = 2000) -> NDArray[np.int64]:
    """The first, the last and evenly spaced `steps`, at most `at_most` (2 or more) in all.

    >>> subsample(np.arange(100), 4).tolist(), subsample(np.arange(3)).tolist()
    ([0, 33, 66, 99], [0, 1, 2])
    """
    if len(steps) <= at_most:
        return steps
    kept: NDArray[np.int64] = steps[np.linspace(0, len(steps) - 1, at_most).round().astype(np.int64)]
    return kept


def thin(table: RateTable, at_most: int) -> RateTable:
    """`table` with about `at_most` rows: the first, the last, evenly spaced ones, and those around a jump."""
    return table.at(with_jumps(subsample(np.arange(len(table.steps)), at_most), [row for _, row in table.jump_rows()]))


def with_jumps(rows: NDArray[np.int64], jumps: Sequence[int], at_most: int = 200) -> NDArray[np.int64]:
    """`rows` and, for up to `at_most` of the `jumps`, those and the ones before them.

    >>> with_jumps(np.array([0, 50, 100]), [70]).tolist()
    [0, 50, 69, 70, 100]
    """
    near = [row for jump in jumps[:at_most] for row in (jump - 1, jump) if row >= 0]
    return np.union1d(rows, np.asarray(near, dtype=np.int64))
