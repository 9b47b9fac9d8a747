"""Hugging Face's Trainer: a mixin that trains with the groups of a plan and logs every group's rate.

Example, for any `model`, `arguments` and `data`::

    from lwexp.integrations.transformers import LayerwiseTrainer

    layerwise = {"grouping": "depth_index", "mult": 0.9, "optimizer": "adamw", "policy": "cosine"}
    trainer = LayerwiseTrainer(model, arguments, layerwise=layerwise, train_dataset=data)
    trainer.train()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from lwexp.core.plan import Plan
from lwexp.core.scheduler import PlanScheduler

from .settings import Settings, rates


class LayerwiseMixin:
    """Goes before a Trainer, as in `class Mine(LayerwiseMixin, SFTTrainer)`; the keyword `layerwise`: see `Settings`.

    Without `lr` the base rate is `learning_rate` of the training arguments, and `weight_decay` is that of the arguments
    where the optimizer has one. The policy counts optimizer steps; a metric-driven policy observes what an evaluation
    returns (`"policy_options": {"metric": "eval_loss"}`).
    """

    plan: Plan

    def __init__(self, *args: Any, layerwise: Mapping[str, Any], **options: Any) -> None:
        """`args` and `options` are the Trainer's."""
        super().__init__(*args, **options)
        trainer: Any = self
        self._settings = Settings(**{"lr": trainer.args.learning_rate, **layerwise})
        if trainer.args.weight_decay:
            self._settings.optimizer_options.setdefault("weight_decay", trainer.args.weight_decay)
        self._used: dict[str, float] = {}
        trainer.add_callback(_ReadsRates(self))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Plan the model as it is trained, inside its wrappers."""
        trainer: Any = self
        if trainer.optimizer is None:
            self.plan = self._settings.make_plan(trainer.model if model is None else model)
            trainer.optimizer = self._settings.make_optimizer(self.plan)
        return trainer.optimizer  # type: ignore[no-any-return]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The plan's scheduler in place of the one that `lr_scheduler_type` names."""
        trainer: Any = self
        if trainer.lr_scheduler is None:
            optimizer = trainer.optimizer if optimizer is None else optimizer
            optimizer = getattr(optimizer, "optimizer", optimizer)  # inside Accelerate's
            trainer.lr_scheduler = self._settings.make_scheduler(self.plan, optimizer, steps=num_training_steps)
            trainer._created_lr_scheduler = True
        return trainer.lr_scheduler  # type: ignore[no-any-return]

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Add all rates, as the latest step used them, to what is logged of the training."""
        trainer: Any = super()
        trainer.log({**logs, **self._used} if "loss" in logs else logs, *args, **options)

    def plan_scheduler(self) -> PlanScheduler:
        """The plan's scheduler, inside Accelerate's where there is one."""
        scheduler: Any = self.lr_scheduler  # type: ignore[attr-defined]
        return getattr(scheduler, "scheduler", scheduler)  # type: ignore[no-any-return]


class _ReadsRates(TrainerCallback):
    """Reads the rates between the optimizer's step and the scheduler's, and passes evaluations to the policy."""

    def __init__(self, trainer: LayerwiseMixin) -> None:
        self._trainer = trainer

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._trainer._used = rates(self._trainer.plan_scheduler())

    def on_evaluate(self, *_: Any, metrics: Any = None, **__: Any) -> None:
        if metrics and getattr(self._trainer, "lr_scheduler", None) is not None:  # None: before the training
            self._trainer.plan_scheduler().observe(metrics)


class LayerwiseTrainer(LayerwiseMixin, Trainer):
    """Hugging Face's Trainer with `layerwise`."""
