"""Shared by the figures of a report: the split that is drawn, its scale, labels and grids."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lwexp.plots.axes import FONT

from .analysis import Analysis, Setting
from .conclusions import Numbers
from .runs import SweepRun
from .statistics import Floats, Summary

SMALL: dict[str, Any] = {"fontsize": 8, "parse_math": False, "fontfamily": FONT}


class Scale:
    """Which split is drawn, test where there is one, and how its values are written on an axis."""

    def __init__(self, found: Analysis) -> None:
        """Test where any setting has been tested."""
        self.numbers = Numbers(found.metric, found.confidence)
        self.on_test = any(setting.test.n for setting in found.settings)
        self.factor = 100.0 if self.numbers.percent else 1.0
        self.name = f"{'test' if self.on_test else 'validation'} {found.metric}"
        self.unit = ", %" if self.numbers.percent else ""

    def summary(self, setting: Setting) -> Summary:
        """Of the split, unscaled."""
        return setting.test if self.on_test else setting.validation

    def value(self, run: SweepRun) -> float:
        """Of the split, as the axis has it."""
        return self.factor * (run.test if self.on_test else run.validation)

    def seeds(self, setting: Setting) -> Floats:
        """`value` of each run."""
        return np.array([self.value(run) for run in setting.runs.values()])


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
