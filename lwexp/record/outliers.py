"""Groups that hardly moved, or moved far more than the rest: a line each, with what may help."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lwexp.core.patterns import matches
from lwexp.core.plan_table import PlanGroup, PlanTable
from lwexp.plots.diagnosis import Diagnosis

_FAR = 10.0  # times the median distance, or the median over this
_MOST = 3  # lines of each kind


def outliers(
    plan: PlanTable, diagnosis: Diagnosis, lr_mults: Mapping[str, float], fixed: Mapping[str, float]
) -> list[str]:
    """A line for each group whose distance from its start is a tenth of the median group's, or ten times it.

    Only groups that were trained, and whose weights did not start at 0, are compared. The suggested factor is the
    square root of what is missing: a rate moves the other groups' gradients too. `lr_mults` are those of the plan;
    groups that the patterns `fixed` cover (`lr_overrides`) get a rate in place of a factor.
    """
    distances, trained = diagnosis.measures["distance"][-1], (diagnosis.rates > 0).any(axis=0)
    compared = np.flatnonzero(trained & np.isfinite(distances))
    if len(compared) < 3:
        return []
    median = float(np.median(distances[compared]))
    if median <= 0:
        return []
    order = compared[np.argsort(distances[compared], kind="stable")]
    low = [int(g) for g in order if distances[g] <= median / _FAR]
    high = [int(g) for g in order[::-1] if distances[g] >= median * _FAR]
    lines = []
    for found, what in ((low, "hardly moved"), (high, "moved far more than the rest")):
        for g in found[:_MOST]:
            way = float(distances[g])
            scale = f" (its rate is {plan.groups[g].scale:.2g} of the base rate)" if plan.groups[g].scale != 1 else ""
            way_of = f"by {_share(way)} of its start{scale}, the median group by {_share(median)}"
            line = f"{plan.labels[g]} {what}: {way_of}"
            missing = min(max(median / way, 0.01), 100.0) if way else 100.0
            lines.append(line + _suggestion(plan, plan.groups[g], math.sqrt(missing), lr_mults, fixed))
        if len(found) > _MOST:
            more = len(found) - _MOST
            lines.append(f"{more} more {'group' if more == 1 else 'groups'} {what}; diagnostics.csv has them")
    return lines


def _suggestion(
    plan: PlanTable, group: PlanGroup, factor: float, lr_mults: Mapping[str, float], fixed: Mapping[str, float]
) -> str:
    """What to type, where a pattern names the group and nothing else."""
    others = [name for g in plan.groups if g is not group for name in g.parameter_names]
    patterns = list(dict.fromkeys(_own_prefix(name, others) for name in group.parameter_names))
    if len(patterns) > _MOST:
        return ""
    first = group.parameter_names[0]
    key, value = "lr_mults", factor * next((mult for p, mult in lr_mults.items() if matches(p, first)), 1.0)
    if any(matches(p, first) for p in fixed):
        key, value = "lr_overrides", factor * group.lr
    shown = f"{float(f'{value:.1g}'):g}"
    return f"; '{key}={{{', '.join(f'{pattern}: {shown}' for pattern in patterns)}}}' may help"


def _own_prefix(name: str, others: Sequence[str]) -> str:
    """The shortest dotted prefix of `name` that is none of one of the `others`."""
    parts = name.split(".")
    prefixes = (".".join(parts[:end]) for end in range(1, len(parts)))
    return next((prefix for prefix in prefixes if not any(matches(prefix, other) for other in others)), name)


def _share(ratio: float) -> str:
    return f"{100 * ratio:.2g} %" if ratio < 10 else f"{ratio:.3g} times"
