"""What a training is made of: the learner, and how far it has come."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from lwexp.core.plan import Plan
from lwexp.core.scheduler import PlanScheduler
from lwexp.distributed.parallel import ParallelModel

from .average import WeightAverage
from .measures import OwnMetrics
from .monitor import ACCURACY, Monitor

Precision = Literal["fp32", "bf16", "fp16"]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Learner:
    """What is trained, and what moves it.

    `parallel` is how the training calls the model: `lwexp.distributed.parallel.parallelize` exchanges it, and `plan`,
    where several processes train.
    """

    model: nn.Module
    plan: Plan
    optimizer: torch.optim.Optimizer
    scheduler: PlanScheduler
    loss: nn.Module  # mean loss of a batch: loss(model(inputs), labels)
    device: torch.device
    precision: Precision = "fp32"
    average: WeightAverage | None = None  # of the weights, evaluated and kept in their place
    metrics: OwnMetrics | None = None  # of the user's own
    scaler: torch.amp.GradScaler = field(init=False)  # does nothing unless `precision` is fp16
    parallel: ParallelModel = field(init=False)

    def __post_init__(self) -> None:
        """Start in a single process."""
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.parallel = ParallelModel(self.model)

    @property
    def evaluated(self) -> nn.Module:
        """The network whose weights are evaluated and kept: the average of the weights where there is one."""
        average = self.average
        return self.model if average is None or not average.has_begun else average.module

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The optimizer's parameters, in its order."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def optimized_groups(self) -> list[int]:
        """Indices of the plan's groups that the optimizer has, head first."""
        return [i for i, group in enumerate(self.plan.groups) if group.optimizer_names]

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass in this precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_AUTOCAST[self.precision])


@dataclass
class Cost:
    """What a training has cost so far, those parts included that were resumed or undone."""

    train_seconds: float = 0.0  # of its steps; evaluations do not count
    peak_memory_mb: float = 0.0  # 10^6 bytes, resident or, on a GPU, allocated there; 0 where it is not known

    def include(self, earlier: Mapping[str, float]) -> None:
        """Count on from `earlier`, unless as much is counted already."""
        self.train_seconds = max(self.train_seconds, earlier.get("train_seconds", 0.0))
        self.peak_memory_mb = max(self.peak_memory_mb, earlier.get("peak_memory_mb", 0.0))


@dataclass
class Progress:
    """How far a training has come. Plain numbers, saved with every checkpoint."""

    steps: int  # optimizer steps in all
    epochs: int
    step: int = 0  # optimizer steps done
    epoch: int = 0
    batches: int = 0  # used so far in this epoch
    skipped: int = 0  # consecutive steps skipped for non-finite values
    best: dict[str, float] = field(default_factory=dict)  # metrics of the best evaluation, best/epoch and best/step
    monitor: Monitor = ACCURACY  # which evaluation is the best
    evaluated: int | None = None  # optimizer steps done at the last evaluation
    within_epoch: bool = False  # whether the evaluation under way is not that of an epoch's end
    waited: int = 0  # evaluations without an improvement, where a training may stop early
    reached: float | None = None  # score of the last improvement
    stopped: str | None = None  # why the training has stopped early
    seen_rates: list[list[float]] | None = None  # [steps, groups], only where the policy is metric-driven
    cost: Cost = field(default_factory=Cost)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do; an epoch whose last step is done may still lack its evaluation."""
        if self.stopped is not None:
            return True
        return self.epoch >= self.epochs or (self.step >= self.steps and not self.batches)

    def advance(self, batches: int) -> None:
        """Count an optimizer step on so many batches."""
        self.step += 1
        self.batches += batches

    def ends_evaluated(self, every: int) -> bool:
        """Whether the epoch that ends now is evaluated: each `every`-th one is, and the last."""
        number = self.epoch + 1
        return number % every == 0 or number == self.epochs or self.step >= self.steps

    def end_epoch(self) -> None:
        """Count an epoch."""
        self.epoch, self.batches = self.epoch + 1, 0


@dataclass(frozen=True)
class StepResult:
    """The numbers of one optimizer step."""

    number: int  # of the step, from 0
    loss: float  # mean over the whole step
    rates: list[float]  # learning rate of each of the plan's groups, as the step used it; 0 if not in the optimizer
    problem: str | None = None  # why the step was skipped
