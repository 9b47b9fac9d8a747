"""The pictures of a plan's rates as artifacts; without them a training continues."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from lwexp.core.plan_table import PlanTable
from lwexp.core.schedule import Schedule
from lwexp.errors import RunError
from lwexp.plots.plan import draw_plan, draw_recorded
from lwexp.tracking import Tracker

from .rates import recorded_rates

log = logging.getLogger(__name__)


def keep_planned(tracker: Tracker, plan: PlanTable, schedule: Schedule | None, folder: Path) -> None:
    """Before the first step: the planned rates, where they are known."""
    if schedule is not None and (steps := _known_steps(schedule)) is not None:
        _keep(tracker, lambda: draw_plan(plan, schedule, steps, folder))


def keep_recorded(tracker: Tracker, plan: PlanTable, schedule: Schedule | None, folder: Path) -> None:
    """After the last step: the rates in the journal of `folder`, where they were not known before."""

    def draw() -> list[Path]:
        steps, rates = recorded_rates(folder, plan.labels)
        return draw_recorded(plan, rates, folder, steps=steps) if steps else []

    if schedule is None or _known_steps(schedule) is None:
        _keep(tracker, draw)


def _known_steps(schedule: Schedule) -> int | None:
    """The number of steps whose rates are known before the training; None where they are not."""
    return None if schedule.follows_training else schedule.steps


def _keep(tracker: Tracker, draw: Callable[[], list[Path]]) -> None:
    try:
        for path in draw():
            tracker.artifact(path)
    except (RunError, ValueError) as error:  # no matplotlib, a rate that is not finite
        log.warning("%s", error)
