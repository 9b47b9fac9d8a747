"""Plots of a plan's rates: as scheduled before training, or as recorded in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lwexp.core.plan_table import PlanTable
from lwexp.core.schedule import Schedule
from lwexp.core.schedule_text import summary

from . import process
from .rate_table import RateTable, subsample, with_jumps


def draw_plan(plan: PlanTable, schedule: Schedule, steps: int, folder: Path, *, in_process: bool = False) -> list[Path]:
    """Plot the scheduled rates of `steps` optimizer steps; returns the files written to `folder`.

    `in_process`: as for `lwexp.plots.process.write_plots`. Raises `RunError`.
    """
    return process.write_plots(scheduled_rates(plan, schedule, steps), folder, in_process=in_process)


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


def scheduled_rates(plan: PlanTable, schedule: Schedule, steps: int) -> RateTable:
    """The rates of `steps` optimizer steps, at most 2,000 of them and those around events."""
    jumps = [(i, event.step) for event in schedule.events for i in plan.find(event.group) if event.step < steps]
    shown = with_jumps(subsample(np.arange(steps)), [step for _, step in jumps])
    return rate_table(plan, schedule.table(shown.tolist()).numpy(), shown, summary(schedule), jumps)


def planned_rates(plan: PlanTable) -> RateTable:
    """The plan's own rates as those of step 0, where a metric-driven policy leaves the others open."""
    return rate_table(plan, np.asarray([[g.lr for g in plan.groups]]), np.zeros(1, dtype=np.int64))


def rate_table(
    plan: PlanTable, rates: np.ndarray, steps: np.ndarray, about: str = "", jumps: Sequence[tuple[int, int]] = ()
) -> RateTable:
    """The plan's groups with their `rates` [steps, groups] at optimizer steps `steps` [steps]; the rest as there."""
    mult = f", mult={plan.mult:g}" if plan.decay == "linear" else ""
    return RateTable(
        about=about or plan.schedule_line.partition("; rates ")[0],
        count=len({g.index for g in plan.groups}),
        jumps=jumps,
        title=f"{plan.model}: {plan.grouping}, {plan.decay}, lr={plan.lr:g}{mult}",
        names=plan.labels,
        depths=[g.depth for g in plan.groups],
        frozen=[g.frozen for g in plan.groups],
        rates=rates,
        steps=steps,
    )
