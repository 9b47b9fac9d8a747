"""A schedule in words: which groups each phase trains, and by which policy."""

from __future__ import annotations

from collections.abc import Iterator

from lwexp.formatting import few

from .policy import Policy
from .schedule import Schedule
from .scheduler import PlanScheduler


def notes_of(schedule: Schedule) -> Iterator[str]:
    """A line for each phase; none where all groups follow one policy from the first step to the last."""
    if len(schedule.phases) == 1 and len(schedule.phases[0].policies) == 1:
        return
    for i, phase in enumerate(schedule.phases):
        end = "on" if phase.steps is None else f"to {phase.start + phase.steps - 1}"
        factor = "" if phase.lr_factor == 1 else f", rates times {phase.lr_factor:g}"
        parts = []
        for place, policy in enumerate(phase.policies):
            names = [g.name for g, own in zip(schedule.plan.groups, phase.of_group, strict=True) if own == place]
            if names:
                parts.append(f"{few(names, 4)}: {_name(policy)}")
        if resting := [g.name for g, own in zip(schedule.plan.groups, phase.of_group, strict=True) if own is None]:
            parts.append(f"{few(resting, 4)}: at rest")
        what = f"phase {i}, steps" if len(schedule.phases) > 1 else "steps"
        yield f"{what} {phase.start} {end}{factor}: {'; '.join(parts)}"


def value_notes(scheduler: PlanScheduler) -> Iterator[str]:
    """A line for each schedule of weight decay and momentum: its values from the first step to the last."""
    for policy in scheduler.schedule.values:
        last = policy.steps - 1
        shown = [f"{scheduler.values(t)[policy.kind]:.4g} at step {t}" for t in dict.fromkeys((0, last // 2, last))]
        yield f"{policy.kind.replace('_', ' ')}, {policy.name}: {', '.join(shown)}"


def _name(policy: Policy) -> str:
    made = policy.settings
    name = made.policy if isinstance(made.policy, str) else getattr(made.policy, "__name__", type(made.policy).__name__)
    return str(made.options["name"]) if name == "torch" else name
