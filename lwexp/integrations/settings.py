"""What the adapters have in common: the options of plan, optimizer and policy, and the names of the rates in a log."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from lwexp.core.make_plan import make_plan
from lwexp.core.optim.names import OptimizerName
from lwexp.core.plan import Plan
from lwexp.core.present_rates import rate_metric
from lwexp.core.scheduler import PlanScheduler
from lwexp.core.shapes import PolicyName
from lwexp.errors import UnknownOptionError


class Settings:
    """The options of a plan, its optimizer and its policy, for a model that comes later.

    `plan` are the keywords of `make_plan` (`lr`, `mult`, `grouping`, …); `optimizer` and `policy` are names, classes or
    callables as for `plan.optimizer` and `plan.scheduler`, and `optimizer_options` and `policy_options` their keywords.
    """

    def __init__(
        self,
        *,
        optimizer: OptimizerName | type[torch.optim.Optimizer] = "adam",
        optimizer_options: Mapping[str, Any] | None = None,
        policy: PolicyName | Callable[[int], float] = "constant",
        policy_options: Mapping[str, Any] | None = None,
        **plan: Any,
    ) -> None:
        """Raises `UnknownOptionError` for a keyword that is none of these."""
        own = ["optimizer", "optimizer_options", "policy", "policy_options"]
        known = [name for name in inspect.signature(make_plan).parameters if name != "model"]
        for key, value in plan.items():
            if key not in known:
                raise UnknownOptionError(key, value, [*known, *own])
        self.plan_options = plan
        self.optimizer: Any = optimizer
        self.optimizer_options = dict(optimizer_options or {})
        self.policy, self.policy_options = policy, dict(policy_options or {})

    def make_plan(self, model: nn.Module) -> Plan:
        """The plan of `model`, with what it freezes frozen in the model."""
        plan = make_plan(model, **self.plan_options)
        plan.apply_freeze(model)
        return plan

    def make_optimizer(self, plan: Plan) -> torch.optim.Optimizer:
        """The optimizer over all groups of `plan`."""
        optimizer: torch.optim.Optimizer = plan.optimizer(self.optimizer, **self.optimizer_options)
        return optimizer

    def make_scheduler(self, plan: Plan, optimizer: torch.optim.Optimizer, **lengths: Any) -> PlanScheduler:
        """The scheduler; `lengths` (`steps`, `steps_per_epoch`) are what the loop knows, unless the options say so."""
        return plan.scheduler(optimizer, self.policy, **{**lengths, **self.policy_options})


def rates(scheduler: PlanScheduler) -> dict[str, float]:
    """The current rate of each group in the optimizer, by the name it has in a log: `lr/<index>_<group>`."""
    plan = scheduler.schedule.plan
    found = zip(plan.groups, plan.labels, scheduler.rates(), strict=True)
    return {rate_metric(label): rate for group, label, rate in found if group.optimizer_names}
