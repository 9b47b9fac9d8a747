"""Plots of a plan's rates: as scheduled before training, or as recorded in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lwexp.core.plan_table import PlanTable
from lwexp.core.schedule import Schedule

from . import process
from .rate_table import RateTable, subsample


def draw_plan(plan: PlanTable, schedule: Schedule, steps: int, folder: Path, *, in_process: bool = False) -> list[Path]:
    """Plot the scheduled rates of `steps` optimizer steps; returns the files written to `folder`.

    `in_process`: as for `lwexp.plots.process.write_plots`. Raises `RunError`.
    """
    shown = subsample(np.arange(steps))
    table = rate_table(plan, schedule.table(shown.tolist()).numpy(), shown)
    return process.write_plots(table, folder, in_process=in_process)


def draw_recorded(
    plan: PlanTable,
    rates: Sequence[Sequence[float]],
    folder: Path,
    *,
    steps: Sequence[int] | None = None,
    in_process: bool = False,
) -> list[Path]:
    """Plot rates recorded in training, [steps][groups], as metric-driven policies need it; otherwise as `draw_plan`.

    `steps` are the optimizer steps of the rows, by default 0, 1, 2, …
    """
    shown = subsample(np.arange(len(rates)))
    numbers = shown if steps is None else np.asarray(steps, dtype=np.int64)[shown]
    table = rate_table(plan, np.asarray(rates, dtype=np.float64)[shown], numbers)
    return process.write_plots(table, folder, in_process=in_process)


def rate_table(plan: PlanTable, rates: np.ndarray, steps: np.ndarray) -> RateTable:
    """The plan's groups with their `rates` [steps, groups] at optimizer steps `steps` [steps]."""
    mult = f", mult={plan.mult:g}" if plan.decay == "linear" else ""
    return RateTable(
        title=f"{plan.model}: {plan.grouping}, {plan.decay}, lr={plan.lr:g}{mult}",
        names=plan.labels,
        depths=[g.depth for g in plan.groups],
        frozen=[g.frozen for g in plan.groups],
        rates=rates,
        steps=steps,
    )
