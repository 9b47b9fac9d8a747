"""The schedule: every group's rate at every step, from a plan, a policy, gradual unfreezing and events."""

from __future__ import annotations

from bisect import bisect_right, insort_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, mul
from typing import Any

import torch

from lwexp.errors import ConfigError, UnknownOptionError

from .options import at_least, rate, whole
from .plan_table import PlanTable
from .policy import Policy, is_metric_driven, make_policy


@dataclass(frozen=True)
class Event:
    """Sets `group` (plan index or name) to the absolute rate `lr` from optimizer step `step` until its next event."""

    step: int
    group: int | str
    lr: float


_step_of = attrgetter("step")


@dataclass
class Schedule:
    """rate of group g at step t = its last event's rate, else lr[g] * factor(t) * mask(t, g).

    mask(t, g) is 0 until gradual unfreezing reaches the group: one more every `unfreeze_every_steps` steps, starting at
    the head. Only `events` (by `add_event`) and the state of a metric-driven policy change after construction.
    """

    plan: PlanTable
    policy: Policy
    steps: int | None = None
    unfreeze_every_steps: int | None = None
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Precompute what is the same at every step."""
        plan = self.plan
        self._rates = [g.lr if g.optimizer_names else 0.0 for g in plan.groups]
        floor = self.policy.floor * plan.lr
        self._floors = [min(floor / lr, 1.0) if lr > 0 else 0.0 for lr in self._rates]
        moving = sorted({g.index for g in plan.groups if g.optimizer_names and not g.frozen})
        opened = {index: rank * (self.unfreeze_every_steps or 0) for rank, index in enumerate(moving)}
        self._opens = [opened.get(g.index, 0) for g in plan.groups]
        self._all_open = max(self._opens)
        written, self.events = self.events, []
        self._set: dict[int, list[Event]] = {}
        for event in written:
            self.add_event(event)

    @property
    def uniform(self) -> bool:
        """Whether everything in the optimizer has the base rate, times the policy's factor, at every step."""
        return not self._all_open and not self._set and self.plan.uniform

    def rates(self, step: int) -> list[float]:
        """Every group's rate at optimizer step `step`, in the plan's order; 0 for groups not in the optimizer."""
        if self.policy.absolute:
            rates = list(map(mul, self._rates, self.policy.above(step, self._floors)))
        else:
            factor = self.policy(step)
            rates = [lr * factor for lr in self._rates]
        if step < self._all_open:
            rates = [rate if step >= opens else 0.0 for rate, opens in zip(rates, self._opens, strict=True)]
        for i, events in self._set.items():
            past = bisect_right(events, step, key=_step_of)
            if past:
                rates[i] = events[past - 1].lr
        return rates

    def table(self, steps: Sequence[int]) -> torch.Tensor:
        """Rates at all `steps`, float64 [steps, groups]; raises `ConfigError` for a metric-driven policy."""
        if is_metric_driven(self.policy):
            raise ConfigError("policy", "plateau", "is metric-driven, so its rates are not known before training")
        table = torch.empty(len(steps), len(self.plan.groups), dtype=torch.float64)
        for row, step in zip(table, steps, strict=True):
            row.copy_(torch.tensor(self.rates(step), dtype=torch.float64))
        return table

    def add_event(self, event: Event, key: str = "lr_events") -> None:
        """Insert `event` in order of steps; raises `ConfigError` unless it fits the plan and the number of steps."""
        event = Event(whole(f"{key}.step", event.step), event.group, rate(f"{key}.lr", event.lr))
        at_least(f"{key}.step", event.step, 0)
        if self.steps is not None and event.step >= self.steps:
            raise ConfigError(f"{key}.step", event.step, f"the training has the steps 0 to {self.steps - 1}")
        positions = self.plan.find(event.group, f"{key}.group")
        positions = [i for i in positions if self.plan.groups[i].optimizer_names]
        if not positions:
            raise ConfigError(f"{key}.group", event.group, "the group is frozen and not in the optimizer")
        self.events.append(event)
        for i in positions:
            insort_right(
                self._set.setdefault(i, []), event, key=_step_of
            )  # of two at one step, the last one added wins


def make_schedule(
    plan: PlanTable,
    policy: str | Callable[[int], float],
    options: Mapping[str, Any],
    *,
    steps: int | None,
    steps_per_epoch: int = 1,
    lr_events: Iterable[Event | Mapping[str, Any]] = (),
    unfreeze_every_steps: int | None = None,
) -> Schedule:
    """Build a schedule from settings; raises `ConfigError` where they contradict each other."""
    if steps is not None:
        at_least("steps", steps := whole("steps", steps), 1)
    at_least("steps_per_epoch", steps_per_epoch := whole("steps_per_epoch", steps_per_epoch), 1)
    if unfreeze_every_steps is not None:
        unfreeze_every_steps = whole("unfreeze.every_steps", unfreeze_every_steps)
        at_least("unfreeze.every_steps", unfreeze_every_steps, 1)
    built = make_policy(policy, options, lr=plan.lr, steps=steps, steps_per_epoch=steps_per_epoch)
    if isinstance(lr_events, Mapping) or not isinstance(lr_events, Iterable):
        raise ConfigError("lr_events", lr_events, "must be a list of {step, group, lr}")
    events = [event if isinstance(event, Event) else _event(event) for event in lr_events]
    return Schedule(plan, built, steps, unfreeze_every_steps, events)


def _event(written: Mapping[str, Any]) -> Event:
    if not isinstance(written, Mapping):
        raise ConfigError("lr_events", written, "must be a list of {step, group, lr}")
    for key in written:
        if key not in Event.__dataclass_fields__:
            raise UnknownOptionError(f"lr_events.{key}", written[key], Event.__dataclass_fields__)
    for key in Event.__dataclass_fields__:
        if key not in written:
            raise ConfigError(f"lr_events.{key}", "???", "must be given")
    return Event(**written)
