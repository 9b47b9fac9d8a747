"""The schedule: every group's rate at every step, from a plan, a policy, gradual unfreezing and events."""

from __future__ import annotations

from bisect import bisect_right, insort_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import torch

from lwexp.errors import ConfigError, UnknownOptionError

from .measured.base import MeasuredDecay
from .options import at_least, rate, whole
from .phases import Phase, Training, make_phases, match_groups
from .plan_table import PlanTable
from .policy import Policy, PolicyOptions, is_metric_driven, make_policy
from .value_policy import ValuePolicy, make_value_policy


@dataclass(frozen=True)
class Event:
    """Sets `group` (plan index or name) to the absolute rate `lr` from optimizer step `step` until its next event."""

    step: int
    group: int | str
    lr: float


class ScheduleOptions(PolicyOptions, total=False):
    """What `Plan.schedule` takes by keyword besides `steps`."""

    steps_per_epoch: int
    policies: Mapping[str, Any] | None
    phases: Sequence[Mapping[str, Any]]
    lr_events: Iterable[Event | Mapping[str, Any]]
    unfreeze_every_steps: int | None
    unfreeze_at: Mapping[str, int] | None
    weight_decay_policy: Mapping[str, Any] | None
    momentum_policy: Mapping[str, Any] | str | None


_step_of = attrgetter("step")


@dataclass(frozen=True)
class _Part:
    """The groups that a policy moves in a phase: their positions, rates and floors."""

    policy: Policy
    positions: list[int]
    rates: list[float]
    floors: list[float]
    moves_all: bool  # then the positions are those of all groups, at rate 0 if not in the optimizer


@dataclass
class Schedule:
    """rate of group g at step t = its last event's rate, else lr[g] * lr_factor * factor(t - start) * mask(t, g).

    `factor` is the policy that the phase at t, which starts at `start`, has for the group; a group that rests in it has
    rate 0. mask(t, g) is 0 until the group opens: at its step in `opens_at`, or by gradual unfreezing, one more every
    `unfreeze_every_steps` steps, starting at the head. Only `events` (by `add_event`) and the state of metric-driven
    policies change after construction.
    """

    plan: PlanTable
    policy: Policy  # of groups and phases that have no other
    phases: tuple[Phase, ...]
    steps: int | None = None
    unfreeze_every_steps: int | None = None
    opens_at: tuple[int, ...] | None = None
    events: list[Event] = field(default_factory=list)
    values: tuple[ValuePolicy, ...] = ()  # of weight decay and momentum
    rule: MeasuredDecay | None = None  # that measures scales, by which the rates of some groups are multiplied
    steps_per_epoch: int | None = None  # None: not known
    scales: tuple[float, ...] | None = None  # of all groups, as last measured

    def __post_init__(self) -> None:
        """Precompute what is the same at every step."""
        plan = self.plan
        self._starts = [phase.start for phase in self.phases]
        self._combine()
        moving = sorted({g.index for g in plan.groups if g.optimizer_names and not g.frozen})
        opened = {index: rank * (self.unfreeze_every_steps or 0) for rank, index in enumerate(moving)}
        self._opens = [*self.opens_at] if self.opens_at else [opened.get(g.index, 0) for g in plan.groups]
        self._all_open = max(self._opens)
        written, self.events = self.events, []
        self._set: dict[int, list[Event]] = {}
        for event in written:
            self.add_event(event)

    def set_scales(self, scales: Sequence[float]) -> None:
        """Multiply the planned rate of each group by its measured scale, from now on."""
        self.scales = tuple(scales)
        self._combine()

    def _combine(self) -> None:
        self._parts = [[*self._parts_of(phase)] for phase in self.phases]

    def _parts_of(self, phase: Phase) -> Iterator[_Part]:
        groups = self.plan.groups
        planned = [g.lr for g in groups]
        if self.scales is not None:
            planned = [lr * scale for lr, scale in zip(planned, self.scales, strict=True)]
        optimized = [i for i, g in enumerate(groups) if g.optimizer_names]
        for place, policy in enumerate(phase.policies):
            positions = [i for i, own in enumerate(phase.of_group) if own == place and groups[i].optimizer_names]
            moves_all = positions == optimized
            if moves_all:
                positions = [*range(len(groups))]
            rates = [planned[i] * phase.lr_factor if groups[i].optimizer_names else 0.0 for i in positions]
            floor = policy.floor * policy.settings.lr
            if positions:
                floors = [min(floor / lr, 1.0) if lr > 0 else 0.0 for lr in rates]
                yield _Part(policy, positions, rates, floors, moves_all)

    @property
    def uniform(self) -> bool:
        """Whether everything in the optimizer has the base rate, times one policy's factor, at every step."""
        alike = all(len(parts) == 1 and parts[0].moves_all for parts in self._parts)
        return alike and not self._all_open and not self._set and self.plan.uniform

    @property
    def policies(self) -> list[Policy]:
        """The policies of all phases."""
        return [policy for phase in self.phases for policy in phase.policies]

    @property
    def is_metric_driven(self) -> bool:
        """Whether rates depend on metrics, so that they are unknown before training."""
        return any(map(is_metric_driven, self.policies))

    @property
    def follows_training(self) -> bool:
        """Whether rates depend on metrics or on measurements, so that they are unknown before training."""
        return self.is_metric_driven or self.plan.measured is not None

    def phase(self, step: int) -> Phase:
        """The phase in which optimizer step `step` is."""
        return self.phases[bisect_right(self._starts, max(step, 0)) - 1]

    def rates(self, step: int) -> list[float]:
        """Every group's rate at optimizer step `step`, in the plan's order; 0 for groups not in the optimizer."""
        number = bisect_right(self._starts, max(step, 0)) - 1
        own, rates = step - self._starts[number], [0.0] * len(self._opens)
        for part in self._parts[number]:
            if part.policy.absolute:
                factors = part.policy.above(own, part.floors)
                for i, lr, factor in zip(part.positions, part.rates, factors, strict=True):
                    rates[i] = lr * factor
            else:
                factor = part.policy(own)
                if part.moves_all:
                    rates = [lr * factor for lr in part.rates]
                    continue
                for i, lr in zip(part.positions, part.rates, strict=True):
                    rates[i] = lr * factor
        if step < self._all_open:
            rates = [rate if step >= opens else 0.0 for rate, opens in zip(rates, self._opens, strict=True)]
        for i, events in self._set.items():
            past = bisect_right(events, step, key=_step_of)
            if past:
                rates[i] = events[past - 1].lr
        return rates

    def table(self, steps: Sequence[int]) -> torch.Tensor:
        """Rates at all `steps`, float64 [steps, groups]; raises `ConfigError` where they are not known.

        Of a measured decay, with the scales that were measured last.
        """
        if self.is_metric_driven:
            raise ConfigError("policy", "plateau", "is metric-driven, so its rates are not known before training")
        if self.plan.measured is not None and self.scales is None:
            raise ConfigError("decay", self.plan.decay, "is measured, so its rates are not known before training")
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
    steps_per_epoch: int | None = None,
    policies: Mapping[str, Any] | None = None,
    phases: Sequence[Mapping[str, Any]] = (),
    lr_events: Iterable[Event | Mapping[str, Any]] = (),
    unfreeze_every_steps: int | None = None,
    unfreeze_at: Mapping[str, int] | None = None,
    weight_decay_policy: Mapping[str, Any] | None = None,
    momentum_policy: Mapping[str, Any] | str | None = None,
    rule: MeasuredDecay | None = None,
) -> Schedule:
    """Build a schedule from settings; raises `ConfigError` where they contradict each other."""
    if steps is not None:
        at_least("steps", steps := whole("steps", steps), 1)
    epoch, steps_per_epoch = steps_per_epoch, 1 if steps_per_epoch is None else steps_per_epoch
    at_least("steps_per_epoch", steps_per_epoch := whole("steps_per_epoch", steps_per_epoch), 1)
    if unfreeze_every_steps is not None:
        unfreeze_every_steps = whole("unfreeze.every_steps", unfreeze_every_steps)
        at_least("unfreeze.every_steps", unfreeze_every_steps, 1)
    built = make_policy(policy, options, lr=plan.lr, steps=steps, steps_per_epoch=steps_per_epoch)
    made = make_phases(Training(plan, policy, options, policies or {}, steps, steps_per_epoch), phases)
    if not phases and not policies:
        made = (replace(made[0], policies=(built,)),)
    last = made[-1]
    if steps is None and phases and last.steps is not None:
        steps = last.start + last.steps
    opens_at = _opens_at(plan, unfreeze_at, steps, unfreeze_every_steps) if unfreeze_at else None
    if isinstance(lr_events, Mapping) or not isinstance(lr_events, Iterable):
        raise ConfigError("lr_events", lr_events, "must be a list of {step, group, lr}")
    events = [event if isinstance(event, Event) else _event(event) for event in lr_events]
    values = (
        make_value_policy("weight_decay", weight_decay_policy, steps, built.settings),
        make_value_policy("momentum", momentum_policy, steps, built.settings),
    )
    given = tuple(value for value in values if value is not None)
    return Schedule(
        plan, built, made, steps, unfreeze_every_steps, opens_at, events, given,
        rule=None if rule is None else rule.fresh(), steps_per_epoch=epoch,
    )  # fmt: skip


def _opens_at(
    plan: PlanTable, unfreeze_at: Mapping[str, int], steps: int | None, every_steps: int | None
) -> tuple[int, ...]:
    """The step at which each group opens."""
    if not isinstance(unfreeze_at, Mapping):
        raise ConfigError("unfreeze.at", unfreeze_at, "must map patterns to optimizer steps, e.g. {layer4: 100}")
    if every_steps is not None:
        raise ConfigError("unfreeze.at", dict(unfreeze_at), "is given beside every_steps or every_epochs; give one")
    for pattern, step in unfreeze_at.items():
        key = f"unfreeze.at.{pattern}"
        at_least(key, whole(key, step), 0)
        if steps is not None and step >= steps:
            raise ConfigError(key, step, f"the training has the steps 0 to {steps - 1}")
    matched = match_groups(plan, [*unfreeze_at], "unfreeze.at")
    return tuple(0 if pattern is None else whole("unfreeze.at", unfreeze_at[pattern]) for pattern in matched)


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
