"""fastai: the groups and rates of a plan, in fastai's order, from the stem to the head.

Example, for any `model` and `data`::

    from fastai.callback.schedule import Learner  # `from fastai.vision.all import *` has it too
    from lwexp import make_plan
    from lwexp.integrations.fastai import PlanSchedule, rates, splitter

    plan = make_plan(model, grouping="depth_index", lr=1e-3, mult=0.9)
    learner = Learner(data, model, loss_func=torch.nn.CrossEntropyLoss(), splitter=splitter(plan))
    learner.fit_one_cycle(1, lr_max=rates(plan))  # fastai's own schedule, or a policy of the plan:
    learner.fit(1, cbs=PlanSchedule(plan, "cosine", warmup_steps=2))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastai.callback.core import Callback
from torch import nn

from lwexp.core.plan import Plan
from lwexp.errors import ConfigError


def splitter(plan: Plan) -> Callable[[nn.Module], list[list[nn.Parameter]]]:
    """For `Learner(splitter=…)`: the parameters of each group in the optimizer, by name, the stem's first."""

    def split(model: nn.Module) -> list[list[nn.Parameter]]:
        parameters = dict(model.named_parameters())
        groups = [[parameters[name] for name in group.optimizer_names] for group in reversed(plan.groups)]
        return [group for group in groups if group]

    return split


def rates(plan: Plan) -> list[float]:
    """For `lr=` and `lr_max=`: the rate of each of those groups."""
    return [group.lr for group in reversed(plan.groups) if group.optimizer_names]


class PlanSchedule(Callback):  # type: ignore[misc, no-any-unimported]
    """For `learner.fit(epochs, cbs=PlanSchedule(plan, "cosine"))`: the rates of `plan.schedule` at every step."""

    def __init__(self, plan: Plan, policy: Any = "constant", **options: Any) -> None:
        """`policy` and `options`: as for `plan.schedule`; `steps` and `steps_per_epoch` are known to fastai."""
        self.plan, self.policy, self.options = plan, policy, options

    def before_fit(self) -> None:
        """Make the schedule, for all epochs of this fit."""
        if self.plan.measured is not None:
            raise ConfigError("decay", self.plan.decay, "is measured, which this callback does not do; lwexp.run does")
        lengths = {"steps": self.n_epoch * len(self.dls.train), "steps_per_epoch": len(self.dls.train)}
        self.schedule, self.done = self.plan.schedule(self.policy, **{**lengths, **self.options}), 0

    def before_batch(self) -> None:
        """Set the rates of the step to come."""
        if self.training:
            found = zip(reversed(self.plan.groups), reversed(self.schedule.rates(self.done)), strict=True)
            self.opt.set_hyper("lr", [rate for group, rate in found if group.optimizer_names])

    def after_batch(self) -> None:
        """Count the step."""
        self.done += self.training
