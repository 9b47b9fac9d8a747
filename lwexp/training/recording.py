"""The training's own callbacks: what is logged and kept of every step and evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from lwexp.core.present_rates import rate_metric
from lwexp.distributed.world import World
from lwexp.tracking import Tracker

from .callbacks import Callback
from .checkpoint.checkpointer import save_model
from .state import Learner, Progress, StepResult


class MetricsLogger(Callback):
    """Logs the loss of every step, its rates as the optimizer used them, and every evaluation.

    Weight decay and momentum too, where they have a schedule.
    """

    def __init__(self, progress: Progress, rates_every: int) -> None:
        """Rates of every `rates_every`-th step and of the last one are logged."""
        self._progress, self._rates_every = progress, rates_every

    def setup(self, learner: Learner, tracker: Tracker) -> None:
        """Name the metrics by the plan."""
        self._tracker = tracker
        self._scheduler = learner.scheduler
        self._names = [(i, rate_metric(learner.plan.labels[i])) for i in learner.optimized_groups]

    def step_end(self, result: StepResult) -> None:
        """Log a step."""
        metrics = {}
        if result.number % self._rates_every == 0 or result.number == self._progress.steps - 1:
            metrics = {name: result.rates[i] for i, name in self._names}
            metrics |= self._scheduler.values(result.number)
        if math.isfinite(result.loss):
            metrics = {"train/loss": result.loss, **metrics}
        if result.problem is not None:
            metrics["train/skipped"] = 1.0
        self._tracker.log(metrics, result.number)
        if self._progress.seen_rates is not None:
            self._progress.seen_rates.append(result.rates)

    def evaluation_end(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Log an evaluation at the step before it."""
        self._tracker.log(metrics, progress.step - 1)


class BestWeights(Callback):
    """Keeps the weights of the best evaluation in best.safetensors, and logs its metrics.

    `best/<metric>` is logged at every evaluation, so the latest value is the best also of a run that was killed,
    resumed with other rates, pruned or trained longer. `best/epoch` counts from 1; `best/step` is the step at which the
    metrics of that evaluation are logged.
    """

    def __init__(self, world: World, folder: Path) -> None:
        """`folder` is the run's."""
        self._world, self._path = world, folder / "best.safetensors"

    def setup(self, learner: Learner, tracker: Tracker) -> None:
        """Keep the learner at hand."""
        self._learner, self._tracker = learner, tracker

    def evaluation_end(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Keep better ones."""
        step = progress.step - 1
        if not progress.best or progress.monitor.is_better(metrics, progress.best):
            progress.best = {**metrics, "best/epoch": progress.epoch + 1, "best/step": step}
            save_model(self._learner.evaluated, self._world, self._path)
        self._tracker.log({f"best/{name.partition('/')[2]}": value for name, value in progress.best.items()}, step)


class AverageWeights(Callback):
    """Updates the average of the weights after each step of the optimizer."""

    def setup(self, learner: Learner, tracker: Tracker) -> None:
        """Keep the learner at hand."""
        self._learner = learner

    def update_end(self, progress: Progress) -> None:
        """The weights have moved."""
        assert self._learner.average is not None
        self._learner.average.update(self._learner.model, progress.step)
