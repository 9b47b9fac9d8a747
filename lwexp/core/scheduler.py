"""The scheduler: a torch `LRScheduler` that sets every group of an optimizer to the rate of its schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lwexp.errors import ConfigError, UnknownNameError

from . import schedule_state, scheduled_values
from .measured.measurement import Measurement
from .options import at_least, whole
from .policy import Policy, is_metric_driven
from .present_rates import present_rates
from .schedule import Event, Schedule
from .torch_policy import MetricPolicy
from .warmup import warmup_option

if TYPE_CHECKING:
    from .measured.probe import Probe


class PlanScheduler(LRScheduler):
    """Call `.step()` after each `optimizer.step()`, and `.observe(metrics)` after each evaluation.

    Groups of the optimizer are matched by their `name`, else by their parameters, in any order; other groups keep their
    rate, also those that join the optimizer later. A rate that is a tensor (`group["lr"] = torch.tensor(…)`, so that a
    compiled step need not be compiled again) stays that tensor and is filled in place. `last_epoch` is the
    optimizer step whose rates are set.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule) -> None:
        """Set the rates of step 0; raises `ConfigError` if the optimizer lacks a group of the plan."""
        self.schedule = schedule
        self._matched: list[dict[str, Any]] = []
        self._positions: list[int | None] = []
        self._waits_for_step = False
        plan, rule = schedule.plan, schedule.rule
        self.measurement = None if rule is None else Measurement(rule, plan, schedule.steps_per_epoch)
        found = plan.positions(optimizer.param_groups)
        missing = {g.name for i, g in enumerate(plan.groups) if g.optimizer_names and i not in found}
        if missing:
            lacking = ", ".join(sorted(missing)[:5])
            why = f"lacks the plan's groups {lacking}; build it from plan.param_groups(), or from a part, plan.split(…)"
            raise ConfigError("optimizer", type(optimizer).__name__, why)
        scheduled_values.check(optimizer, schedule.values, plan.weight_decay)
        super().__init__(optimizer)

    @property
    def _plan_positions(self) -> list[int | None]:
        """The plan's group of each of the optimizer's groups; matched again where those have changed."""
        groups = self.optimizer.param_groups
        if len(groups) != len(self._matched) or not all(map(is_, groups, self._matched)):
            self._positions = self.schedule.plan.positions(groups)
            self._matched = list(groups)
        return self._positions

    def step(self, metrics: float | torch.Tensor | Mapping[str, float] | None = None) -> None:
        """Advance to the next optimizer step; with `metrics`, only observe them, as torch's ReduceLROnPlateau does.

        `metrics` is the value that a metric-driven policy observes, or a mapping that has it by its name.
        """
        if metrics is None:
            if self.last_epoch >= 0:
                self.check_measured()
            self._waits_for_step = False
            super().step()
            self._apply_values()
            return
        driven = self._metric_policies()
        if not driven:
            kind = schedule_state.describe(self.schedule)["policy"]
            raise ConfigError("policy", kind, "observes no metric; call scheduler.step() after each optimizer.step()")
        unstepped = self.last_epoch == 0 and getattr(self.optimizer, "_opt_called", False)  # set by torch
        for policy, start in driven:
            if self.last_epoch < start + policy.warmup.steps and (unstepped or self._waits_for_step):
                why = "the warm-up counts optimizer steps: call scheduler.step() after each, besides step(metrics)"
                raise ConfigError(*warmup_option(policy.settings.options), why)
        self._waits_for_step = True
        shapes: list[MetricPolicy] = [policy.shape for policy, _ in driven]  # type: ignore[misc]
        self.observe(metrics if isinstance(metrics, Mapping) else {shape.metric: float(metrics) for shape in shapes})

    def check_measured(self) -> None:
        """Raise `ConfigError` where scales are to be measured and none are: all groups would train at the base rate."""
        if self.measurement is not None and self.measurement.last is None:
            why = "is measured, and nothing was: call scheduler.measure(model, loss, batches) before each step"
            raise ConfigError("decay", self.schedule.plan.decay, why)

    def _metric_policies(self) -> list[tuple[Policy, int]]:
        """The metric-driven policies of the phase of the last step that was done, with its start."""
        phase = self.schedule.phase(self.last_epoch - 1)
        return [(policy, phase.start) for policy in phase.policies if is_metric_driven(policy)]

    def get_lr(self) -> list[float]:  # type: ignore[override]  # torch allows tensors too
        """The rate of each of the optimizer's groups at step `last_epoch`."""
        if self.measurement is not None and self.measurement.last is not None:
            scales = self.measurement.at(self.last_epoch)
            if scales != self.schedule.scales:
                self.schedule.set_scales(scales)
        rates = self.schedule.rates(self.last_epoch)
        return [
            float(group["lr"]) if position is None else rates[position]
            for group, position in zip(self.optimizer.param_groups, self._plan_positions, strict=True)
        ]

    def group_lr(self, group: int | str) -> float:
        """The current rate of a group by plan index or name, read from the optimizer."""
        positions = self.schedule.plan.find(group)
        for param_group, position in zip(self.optimizer.param_groups, self._plan_positions, strict=True):
            if position in positions:
                return float(param_group["lr"])
        raise ConfigError("group", group, "the group is frozen and not in the optimizer")

    def set_lr(self, group: int | str, lr: float) -> None:
        """Set the absolute rate of a group by plan index or name from this step on, overriding the policy."""
        self.schedule.add_event(Event(max(self.last_epoch, 0), group, lr), key="set_lr")
        self._apply()

    def measure(
        self, model: nn.Module, loss: Callable[[nn.Module, Any], torch.Tensor], batches: Sequence[Any]
    ) -> dict[str, float] | None:
        """Measure the scales of a measured decay where it is time to: call it before each step of your own loop.

        `loss` gives the mean loss of a batch, a scalar, `batches` are of the training, as many as the rule looks at.
        Weights, gradients, buffers, torch's random generators and the optimizer stay as they are. Returns the scales by
        group name, None where nothing was due.
        """
        if self.measurement is None or not self.measurement.due(self.last_epoch):
            return None
        from .measured.probe import Probe

        def backward(batch: Any) -> torch.Tensor:
            value = loss(model, batch)
            torch.autograd.backward(value)
            return value.detach()

        plan = self.schedule.plan
        probe = Probe(plan, model, self.optimizer, backward, lambda: batches, step=self.last_epoch)
        return self.measure_with(probe)

    def observe_gradients(self, model: nn.Module) -> None:
        """Show a measured decay that observes each step (`hypergradient`) the gradients of `model`; else no effect.

        In your own loop: between `loss.backward()`, or `scaler.unscale_(optimizer)`, and `optimizer.step()`.
        """
        if self.measurement is not None and self.measurement.rule.observes:
            self.measurement.rule.observe(self.schedule.plan, dict(model.named_parameters()), lambda sums: sums)

    def measure_with(self, probe: Probe) -> dict[str, float]:
        """Measure the scales of a measured decay now, by a look at the training; returns them by group name."""
        if self.measurement is None:
            raise ConfigError("decay", self.schedule.plan.decay, "is known before training, so nothing is measured")
        scales = self.measurement.measure(probe)
        self._apply()
        return dict(zip([g.name for g in self.schedule.plan.groups], scales, strict=True))

    def take_scales(self, found: Mapping[int, float]) -> None:
        """From this step on, multiply planned rates by the scales `found`, by position in the plan."""
        assert self.measurement is not None
        self.measurement.take(found, self.last_epoch)
        self._apply()

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Pass the latest metrics to a metric-driven policy; no effect for others."""
        driven: list[MetricPolicy] = [policy.shape for policy, _ in self._metric_policies()]  # type: ignore[misc]
        for shape in driven:
            if shape.metric not in metrics:
                raise UnknownNameError("policy.metric", shape.metric, metrics, "no such metric")
        for shape in driven:
            shape.observe(float(metrics[shape.metric]))
        if driven:
            self._apply()

    def values(self, step: int | None = None) -> dict[str, float]:
        """Weight decay and momentum of the optimizer at `step`, or now, where they have a schedule."""
        step = self.last_epoch if step is None else step
        planned = self.schedule.plan.weight_decay
        return {
            policy.kind: policy.value(step, scheduled_values.own_value(self.optimizer, policy.kind, planned))
            for policy in self.schedule.values
        }

    def rates(self) -> list[float]:
        """The current rates, read from the optimizer, one per group of the plan (0: not in it)."""
        present = present_rates(self.optimizer.param_groups)
        rates = [0.0] * len(self.schedule.plan.groups)
        for lr, position in zip(present, self._plan_positions, strict=True):
            if position is not None:
                rates[position] = lr
        return rates

    def preview(self, steps: int = 10) -> dict[int, dict[str, float]]:
        """The rates of the next `steps` optimizer steps, the current one first: step -> group name -> rate.

        It ends with the schedule. For a table: `pandas.DataFrame.from_dict(scheduler.preview(), orient="index")`.
        Groups that are not in the optimizer have rate 0. Raises `ConfigError` for metric-driven policies.
        """
        at_least("steps", steps := whole("steps", steps), 1)
        schedule, first = self.schedule, max(self.last_epoch, 0)
        end = first + steps if schedule.steps is None else min(first + steps, schedule.steps)
        names = [g.name for g in schedule.plan.groups]
        coming = range(first, end)
        rows = schedule.table(coming).tolist()
        return {step: dict(zip(names, row, strict=True)) for step, row in zip(coming, rows, strict=True)}

    def __repr__(self) -> str:
        """One line: the policy, the step and the current rates."""
        schedule = self.schedule
        held = [lr for lr, g in zip(self.rates(), schedule.plan.groups, strict=True) if g.optimizer_names]
        low, high = f"{min(held):.6g}", f"{max(held):.6g}"
        phases = f" in {len(schedule.phases)} phases" if len(schedule.phases) > 1 else ""
        return (
            f"<{type(self).__name__} {schedule_state.describe(schedule)['policy']}{phases}, step {self.last_epoch}"
            f"{'' if schedule.steps is None else f' of {schedule.steps}'}: {len(held)} groups at "
            f"{high if low == high else f'{high} to {low}'}, plan {schedule.plan.hash}>"
        )

    def state_dict(self) -> dict[str, Any]:
        """The step, the events (those set from Python too) and the state of metric-driven policies."""
        return {
            "step": self.last_epoch,
            "plan": self.schedule.plan.hash,
            "settings": schedule_state.describe(self.schedule),
            "events": [(e.step, e.group, e.lr) for e in self.schedule.events],
            "policies": [shape.state_dict() for shape in self._metric_shapes()],
            **({} if self.measurement is None else {"measured": self.measurement.state_dict()}),
        }

    def _metric_shapes(self) -> list[MetricPolicy]:
        return [policy.shape for policy in self.schedule.policies if isinstance(policy.shape, MetricPolicy)]

    def load_state_dict(self, state_dict: dict[str, Any], *, remap: bool = False) -> None:
        """Continue at the saved step and set its rates.

        Raises `ConfigError` with the difference if the state is of another plan, policy or length.
        With `remap` another plan is allowed: events and the policy's options are kept as they are here, and only what
        a policy has observed is restored.
        """
        plan = self.schedule.plan
        if not remap:
            if state_dict["plan"] != plan.hash:
                why = f"the scheduler's state was saved with another plan, {state_dict['plan']}"
                raise ConfigError("plan", plan.hash, why)
            own = schedule_state.describe(self.schedule)
            changed = schedule_state.difference(state_dict.get("settings", own), own)  # not saved before 0.2
            if changed:
                raise ConfigError("policy", own["policy"], f"the scheduler's state was saved with others: {changed}")
            events = [Event(*event) for event in state_dict["events"]]
            self.schedule = replace(self.schedule, events=events)
        before = state_dict.get("policy")  # of a state that was saved before 0.2
        seen = state_dict.get("policies", [before] if before is not None else [])
        for shape, own in zip(self._metric_shapes(), seen, strict=False):  # `remap` may have others
            shape.load_state_dict(own, remap=remap)
        saved = state_dict.get("measured")
        if self.measurement is not None and saved is not None and saved["name"] == self.measurement.name:
            self.measurement.load_state_dict(saved)
        self.last_epoch = state_dict["step"]
        self._apply()

    def advance(self) -> None:
        """`step()` without torch's warning where the optimizer skipped its step for a non-finite value."""
        self._waits_for_step = False
        self.last_epoch += 1
        self._apply()

    def _apply(self) -> None:
        rates = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], (float, int)):
                group["lr"] = lr
            else:  # a tensor, which a compiled step keeps reading
                group["lr"].fill_(lr)
        self._last_lr = [*rates]
        self._apply_values()

    def _apply_values(self) -> None:
        if self.schedule.values:
            planned = self.schedule.plan.weight_decay
            scheduled_values.apply(self.optimizer, self.values(), self._plan_positions, planned)
