"""`lwexp.plot`: a plan's rates under a policy as one figure, for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

from matplotlib.figure import Figure

from lwexp.core.options import at_least, whole
from lwexp.core.plan import Plan
from lwexp.core.schedule import ScheduleOptions
from lwexp.core.shapes import PolicyName
from lwexp.errors import ConfigError, UnknownNameError

from .plan import scheduled_rates
from .rate_table import RateTable
from .rates import draw_heatmap, draw_rates_by_depth, draw_rates_by_step

if TYPE_CHECKING:
    from typing_extensions import Unpack

PlotKind = Literal["by_step", "by_depth", "heatmap"]
_DRAW: dict[PlotKind, Callable[[RateTable], Figure]] = {
    "by_step": draw_rates_by_step,
    "by_depth": draw_rates_by_depth,
    "heatmap": draw_heatmap,
}


def plot(
    plan: Plan,
    policy: PolicyName | Callable[[int], float] = "constant",
    *,
    steps: int,
    kind: PlotKind = "by_step",
    **options: Unpack[ScheduleOptions],
) -> Figure:
    """A matplotlib figure of every group's rate over `steps` optimizer steps; nothing is trained and no window opens.

    `kind`: a line for each group (`by_step`), the first, highest and last rates over depth (`by_depth`), or layer ×
    step with the rate as color (`heatmap`). `options` are those of `Plan.schedule`. Save it with
    `figure.savefig("rates.png")`. Raises `ConfigError`, also for metric-driven policies.
    """
    if not isinstance(plan, Plan):
        raise ConfigError("plan", type(plan).__name__, "must be a plan, as make_plan(model) returns it")
    if kind not in _DRAW:
        raise UnknownNameError("kind", kind, get_args(PlotKind), "no such plot")
    at_least("steps", steps := whole("steps", steps), 1)
    schedule = plan.schedule(policy, steps=steps, **options)
    return _DRAW[kind](scheduled_rates(plan, schedule, steps))
