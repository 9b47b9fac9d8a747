"""When a measured decay measures, and the scales that follow: bounds, smoothing, state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lwexp.core.plan_table import PlanTable
from lwexp.errors import ConfigError, LwexpError, RunError
from lwexp.formatting import one_line

from .base import MeasuredDecay

if TYPE_CHECKING:
    from .probe import Probe


class Measurement:
    """A rule in a training: what it measured last, and whether it is time to measure again."""

    def __init__(self, rule: MeasuredDecay, plan: PlanTable, steps_per_epoch: int | None) -> None:
        """Nothing is measured yet: all scales are 1."""
        self.rule, self._plan = rule, plan
        self._epoch_unknown = rule.every_epochs is not None and steps_per_epoch is None
        self.interval = rule.interval(steps_per_epoch or 1)
        self.last: int | None = None  # the optimizer step before which was measured
        self.scales = self._before = (1.0,) * len(plan.groups)

    @property
    def name(self) -> str:
        """Of the rule, with its options."""
        return f"{self._plan.decay} {self.rule.options}"

    def due(self, step: int) -> bool:
        """Whether to measure before optimizer step `step`. Raises `ConfigError` where that cannot be known."""
        if self.last is None:
            return True
        if self._epoch_unknown and step != self.last:
            why = f"must be given to the scheduler: decay.every_epochs={self.rule.every_epochs:g} counts epochs"
            raise ConfigError("steps_per_epoch", None, why)
        return self.last != step and self.interval is not None and step % self.interval == 0

    def at(self, step: int) -> tuple[float, ...]:
        """The scale of each group at optimizer step `step`, which may be on the way to the one measured last."""
        done = 0 if self.last is None else max(step - self.last + 1, 0)
        if done >= self.rule.ramp_steps:
            return self.scales
        share = done / self.rule.ramp_steps
        return tuple(old + (new - old) * share for old, new in zip(self._before, self.scales, strict=True))

    def measure(self, probe: Probe) -> tuple[float, ...]:
        """Measure now; returns the scale of each group of the plan."""
        found = self._found(probe)
        return self.take({position: found[position] for position in probe.compared if position in found}, probe.step)

    def _found(self, probe: Probe) -> Mapping[int, float]:
        """What the rule says. Raises `RunError` for a rule of the user's own that fails or says something else."""
        if type(self.rule).__module__.startswith("lwexp."):
            return self.rule.measure(probe)
        decay = f"decay={self._plan.decay}"
        try:
            found = self.rule.measure(probe)
        except LwexpError:
            raise
        except Exception as error:
            why = f"the measurement before step {probe.step} failed: {one_line(error, kind=True)}"
            raise RunError(f"{decay}: {why}") from error
        if not isinstance(found, Mapping):
            kind = type(found).__name__
            raise RunError(f"{decay}: measure must return {{position in the plan: scale}}, not a {kind}")
        for position, scale in found.items():
            if not isinstance(scale, (float, int)):
                label = self._plan.labels[position]
                raise RunError(f"{decay}: the scale of {label} is {scale!r}, must be a number")
        return found

    def measured_scales(self) -> dict[str, float]:
        """The scales that are measured, by the groups' labels."""
        every = zip(self._plan.labels, self.scales, self._plan.groups, strict=True)
        return {label: scale for label, scale, g in every if g.measured}

    def take(self, found: Mapping[int, float], step: int) -> tuple[float, ...]:
        """Take new scales, by position in the plan, before optimizer step `step`; returns those of all groups."""
        self._before, scales = self.at(step - 1), list(self.scales)
        for position, raw in found.items():
            if math.isfinite(raw):
                kept = 0.0 if self.last is None else self.rule.smoothing
                scales[position] = self.rule.bounded(kept * scales[position] + (1 - kept) * raw)
        self.last, self.scales = step, tuple(scales)
        return self.scales

    def state_dict(self) -> dict[str, Any]:
        """The last measurement and the rule's own state; scales by the groups' names."""
        scales, before = (dict(zip(self._plan.labels, each, strict=True)) for each in (self.scales, self._before))
        return {
            "name": self.name, "last": self.last, "scales": scales, "before": before, "rule": self.rule.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; a group that it lacks has scale 1."""
        self.last = state["last"]
        self.scales, self._before = (
            tuple(state[key].get(label, 1.0) for label in self._plan.labels) for key in ("scales", "before")
        )
        self.rule.load_state_dict(state["rule"])
