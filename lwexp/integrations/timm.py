"""timm's training script: a plan's policy with the interface of timm's schedulers.

timm's optimizers take the groups of a plan as they are: `create_optimizer_v2(plan.param_groups(), opt="adamw")`. timm's
own schedulers move them too, but set `warmup_lr_init` and `lr_min` as absolute rates for all groups alike.

Example, in the loop of timm's script, for any `model`::

    from timm.optim import create_optimizer_v2
    from lwexp import make_plan
    from lwexp.integrations.timm import TimmScheduler

    plan = make_plan(model, grouping="depth_index", lr=1e-3, mult=0.75)
    optimizer = create_optimizer_v2(plan.param_groups(), opt="lamb", weight_decay=0.05)
    lr_scheduler = TimmScheduler(optimizer, plan, "cosine", steps=1000, warmup_steps=100)
    optimizer.step()
    lr_scheduler.step_update(1)  # after each update; after each epoch: lr_scheduler.step(epoch + 1, metric)
"""

from __future__ import annotations

from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler

from lwexp.core.plan import Plan


class TimmScheduler(Scheduler):
    """Call `step_update(num_updates)` after each update, and `step(epoch, metric)` after each epoch, as timm does.

    The metric is what a metric-driven policy observes.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, plan: Plan, policy: Any = "cosine", **options: Any) -> None:
        """`policy` and `options`: as for `plan.scheduler`, `steps` among them."""
        super().__init__(optimizer, "lr", t_in_epochs=False)
        self.scheduler = plan.scheduler(optimizer, policy, **options)

    def _get_lr(self, t: int) -> list[float]:
        if t > 0:
            self.scheduler.check_measured()
        self.scheduler.last_epoch = t - 1  # a resumed script begins anywhere
        self.scheduler.advance()
        return self.scheduler.get_last_lr()  # type: ignore[return-value]

    def step(self, epoch: int, metric: float | None = None) -> None:
        """Observe the metric of an epoch; the rates move by updates."""
        if metric is not None and self.scheduler.schedule.is_metric_driven:
            self.scheduler.step(metric)

    def state_dict(self) -> dict[str, Any]:
        """The plan's scheduler's."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the saved update."""
        self.scheduler.load_state_dict(state_dict)
