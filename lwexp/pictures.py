"""A plan's rates as pictures: the bridge from plan and schedule to `lwexp/plots.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .plan import Plan
from .plots import RateTable, subsample, write_plots
from .schedule import Schedule


def draw_plan(plan: Plan, schedule: Schedule, steps: int, folder: Path) -> list[Path]:
    """Pictures of the rates at all `steps`, before any is taken; returns the files written to `folder`."""
    shown = subsample(np.arange(steps))
    return write_plots(_table(plan, schedule.table(shown.tolist()).numpy(), shown), folder)


def draw_seen(plan: Plan, rates: Sequence[Sequence[float]], folder: Path) -> list[Path]:
    """The same from rates seen in training, one row per step, for policies that look at it."""
    shown = subsample(np.arange(len(rates)))
    return write_plots(_table(plan, np.asarray(rates, dtype=np.float64)[shown], shown), folder)


def _table(plan: Plan, rates: np.ndarray, steps: np.ndarray) -> RateTable:
    mult = f", mult={plan.mult:g}" if plan.decay == "linear" else ""
    return RateTable(
        title=f"{plan.model}: {plan.grouping}, {plan.decay}, lr={plan.lr:g}{mult}",
        names=plan.labels,
        depths=[g.depth for g in plan.groups],
        frozen=[g.frozen for g in plan.groups],
        rates=rates,
        steps=steps,
    )
