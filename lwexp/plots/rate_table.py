"""A table of rates [steps, groups] to be plotted, and selecting some of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RateTable:
    """The rate of every group at every plotted step; raises `ValueError` for inconsistent shapes or values.

    `names` from the head to the stem, `depths` with 0 for the stem (groups may share one), `rates` [steps, groups]
    finite and at least 0 (0: frozen, or not yet unfrozen), `steps` [steps] the optimizer step of each row, increasing.
    """

    title: str
    names: Sequence[str]
    depths: Sequence[int]
    frozen: Sequence[bool]
    rates: Floats
    steps: NDArray[np.int64]

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
        return RateTable(self.title, self.names, self.depths, self.frozen, self.rates[rows], self.steps[rows])


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
    """`table` with at most `at_most` rows: the first, the last and evenly spaced ones."""
    return table.at(subsample(np.arange(len(table.steps)), at_most))
