"""How far down the plan each group is, for measured decays with a profile that falls by `mult` from group to group."""

from __future__ import annotations

from lwexp.core.plan_table import PlanTable


def profile(plan: PlanTable, mult: float) -> list[float]:
    """mult**index of each row of `plan`; as the other decays do, it counts from where `index_from` says."""
    return [mult**exponent for exponent in exponents(plan)]


def exponents(plan: PlanTable) -> list[int]:
    """The index of each row of `plan`, from 0 at the head or, with `index_from=trained`, at the first trained group."""
    trained = [g.index for g in plan.groups if not g.frozen]
    first = min(trained, default=0) if plan.index_from == "trained" else 0
    return [max(g.index - first, 0) for g in plan.groups]
