"""Shared by the figures of a report: the split that is drawn, its scale, labels and grids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lwexp.plots.axes import FONT

from .analysis import Analysis
from .runs import SweepRun
from .settings import Setting
from .statistics import Comparison, Floats, Summary

UNIFORM_COLOR = "0.25"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6BB1", "#A6761D")  # Okabe and Ito's
VERDICT_COLORS = {1: "#009E73", -1: "#D55E00", 0: "0.45"}
SMALL: dict[str, Any] = {"fontsize": 8, "parse_math": False, "fontfamily": FONT}


class Scale:
    """Which split is drawn, test where there is one, and how its values are written on an axis."""

    def __init__(self, found: Analysis) -> None:
        """Test where any setting has been tested."""
        self.metric, self.on_test = found.metric, found.on_test
        self.factor = found.metric.factor
        self.name = f"{found.split} {found.metric.name}"
        self.unit = found.metric.in_unit

    def summary(self, setting: Setting) -> Summary:
        """Of the split, unscaled."""
        return setting.test if self.on_test else setting.validation

    def value(self, run: SweepRun) -> float:
        """Of the split, as the axis has it."""
        return self.factor * (run.test if self.on_test else run.validation)

    def seeds(self, setting: Setting) -> Floats:
        """`value` of each run."""
        return np.array([self.value(run) for run in setting.runs.values()])

    def differences(self, setting: Setting, other: Setting | None) -> Floats:
        """Of their runs with the same seed, as the axis has it."""
        runs = other.runs if other is not None else {}
        both = [(self.value(run), self.value(runs[seed])) for seed, run in setting.runs.items() if seed in runs]
        return np.array([one - twin for one, twin in both if np.isfinite(one - twin)])

    def ends(self, found: Summary) -> tuple[float, float]:
        """Of an interval, as the axis has it."""
        return self.factor * found.low, self.factor * found.high

    def ends_of_all(self, found: Comparison) -> tuple[float, float]:
        """Of the interval that holds together with others."""
        return self.factor * found.low_all, self.factor * found.high_all

    @property
    def limits(self) -> tuple[float, float]:
        """The possible values, as the axis has them."""
        return self.factor * self.metric.low, self.factor * self.metric.high


class Window:
    """The part of an axis that is drawn: where the data are and what surrounds them, not where intervals end."""

    def __init__(self, points: Iterable[float], intervals: Iterable[tuple[float, float]]) -> None:
        """Of `points` all are shown; of `intervals` so much as lies within the points' span on either side of them."""
        shown = np.array([value for value in points if np.isfinite(value)] or [0.0])
        ends = np.array([pair for pair in intervals if np.isfinite(pair[0])]).ravel()
        low, high = float(shown.min()), float(shown.max())
        room = (high - low) or 0.05 * abs(high) or 1.0
        self.low = max(low - room, float(min(ends.min(initial=low), low)))
        self.high = min(high + room, float(max(ends.max(initial=high), high)))
        margin = 0.04 * (self.high - self.low or room)
        self.limits = self.low - margin, self.high + margin
        self.clipped = False  # whether an interval is longer than drawn

    def interval(
        self, axes: Axes, place: float, ends: tuple[float, float], *, vertical: bool = False, **style: Any
    ) -> None:
        """A line from end to end, at `place` of the other axis; an arrow where it leaves the window."""
        if not np.isfinite(ends[0]):
            return
        low, high = self.limits
        inside = [max(ends[0], low), min(ends[1], high)]
        places = [place, place]
        axes.plot(*((places, inside) if vertical else (inside, places)), solid_capstyle="butt", **style)
        for end, limit, mark in ((ends[0], low, "v" if vertical else "<"), (ends[1], high, "^" if vertical else ">")):
            if (end < low) if limit == low else (end > high):
                at = (place, limit) if vertical else (limit, place)
                axes.plot(*at, mark, color=style["color"], markersize=6, clip_on=False, zorder=5)
                self.clipped = True

    @property
    def note(self) -> str:
        """For the axis's title: what arrows mean, where there are some."""
        return "\n(arrow: the interval is longer)" if self.clipped else ""


def log_spaced(values: Floats) -> bool:
    """Whether sorted `values` are more evenly spaced on a log scale than on a linear one, over more than a factor 5.

    >>> log_spaced(np.array([1e-4, 1e-3, 1e-2])), log_spaced(np.array([0.85, 0.9, 0.95, 1.0]))
    (True, False)
    """
    if len(values) < 3 or values[0] <= 0 or values[-1] <= 5 * values[0]:
        return False
    linear, log = np.diff(values), np.diff(np.log(values))
    return bool(log.std() / log.mean() < linear.std() / linear.mean())


def pale_grid(axes: Axes, which: Any) -> None:
    """Behind what is drawn, for the `which` axis: x, y or both."""
    axes.grid(True, axis=which, color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelsize=8.5, labelfontfamily=FONT)


def draw_mean(axes: Axes, value: float, place: float, color: str) -> None:
    """A dot for a mean, above the points of single seeds."""
    axes.plot(value, place, "o", color=color, markersize=6, markeredgecolor="white", markeredgewidth=0.8, zorder=4)


def spaced(places: Floats, log: bool) -> list[float]:
    """Those of the sorted `places` whose labels do not overlap."""
    at = np.log(places) if log else places
    kept = [0]
    for k in range(1, len(at)):
        if at[k] - at[kept[-1]] >= 0.07 * (at[-1] - at[0]):
            kept.append(k)
    return [float(places[k]) for k in kept]
