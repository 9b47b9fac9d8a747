"""A schedule in words: which groups each phase trains, and by which policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from lwexp.formatting import few, plain

from .policy import Policy, common
from .schedule import Schedule
from .schedule_state import describe
from .scheduler import PlanScheduler
from .shapes import POLICIES


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


def summary(schedule: Schedule) -> str:
    """Policy, phases, events and unfreezing in a few words; empty where all rates stay as the plan has them."""
    one = schedule.policies[0] if len(schedule.policies) == 1 else None
    parts = [""] if one is None or _is_constant(one) else [f"policy={_name(one)}{_options(one)}"]
    if one is None:
        several = f" in {len(schedule.phases)} phases" if len(schedule.phases) > 1 else ""
        parts = [f"{len(schedule.policies)} policies{several}"]
    if schedule.events:
        parts.append(f"{len(schedule.events)} event{'s' if len(schedule.events) > 1 else ''}")
    if schedule.unfreeze_every_steps:
        parts.append(f"unfreezing every {schedule.unfreeze_every_steps} steps")
    if schedule.opens_at and any(schedule.opens_at):
        steps = sorted({step for step in schedule.opens_at if step})
        parts.append(f"unfreezing at step{'s' if len(steps) > 1 else ''} {few([*map(str, steps)], 4)}")
    return ", ".join(part for part in parts if part)


def schedule_hash(schedule: Schedule) -> str:
    """Ten hexadecimal digits that identify the rates of every step: the plan, policies, phases, events, unfreezing."""
    events = [(event.step, event.group, event.lr) for event in schedule.events]
    own = any(not isinstance(policy.settings.policy, str) for policy in schedule.policies)
    # the name of a function does not say its options
    rates = (
        [schedule.rates(step) for step in range(schedule.steps or 0)] if own and not schedule.follows_training else []
    )
    settings = [schedule.plan.hash, schedule.steps, describe(schedule), events, *rates]
    return hashlib.sha256(json.dumps(settings, default=str, sort_keys=True).encode()).hexdigest()[:10]


def line_of(schedule: Schedule) -> str:
    """The line of a plan's header about its schedule; empty where there is nothing to say."""
    said = summary(schedule)
    return f"{said}; rates {schedule_hash(schedule)}" if said else ""


def value_notes(scheduler: PlanScheduler) -> Iterator[str]:
    """A line for each schedule of weight decay and momentum: its values from the first step to the last."""
    for policy in scheduler.schedule.values:
        last = policy.steps - 1
        shown = [f"{scheduler.values(t)[policy.kind]:.4g} at step {t}" for t in dict.fromkeys((0, last // 2, last))]
        yield f"{policy.kind.replace('_', ' ')}, {policy.name}: {', '.join(shown)}"


def _is_constant(policy: Policy) -> bool:
    return policy.settings.policy == "constant" and not policy.warmup.steps


def _options(policy: Policy) -> str:
    """Those that differ from the defaults, as they are typed."""
    made = policy.settings
    defaults = dict(common.__kwdefaults__ or {})
    if isinstance(made.policy, str):
        defaults |= POLICIES[made.policy].__kwdefaults__ or {}
    kept = {key: value for key, value in made.options.items() if value is not None and value != defaults.get(key)}
    if made.policy == "torch":
        kept.pop("name", None)
    if kept.get("warmup") == "linear":
        del kept["warmup"]
    return "".join(f" {key}={plain(value)}" for key, value in kept.items())


def _name(policy: Policy) -> str:
    made = policy.settings
    name = made.policy if isinstance(made.policy, str) else getattr(made.policy, "__name__", type(made.policy).__name__)
    return str(made.options["name"]) if name == "torch" else name
