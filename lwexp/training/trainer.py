"""The training loop: forward, loss, backward, step, then the schedule."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lwexp.core.dtensor import shard_like
from lwexp.core.optim.fused import takes_found_inf
from lwexp.data import EpochLoader, Inputs, call
from lwexp.distributed.parallel import broadcast_tensors
from lwexp.distributed.world import SINGLE, World
from lwexp.host.console import console
from lwexp.host.signals import Requests
from lwexp.tracking import Tracker

from .batches import Batches, BatchFeed
from .callbacks import Callback, Callbacks
from .checkpoint.checkpointer import Checkpointer, save_model
from .checkpoint.files import CheckpointFiles
from .checkpoint.weights import load_weights, read_weights
from .console import EpochLog, ProgressBar
from .cost import CostMeter
from .deferred_step import DeferredStep
from .diagnostics import Diagnostics
from .evaluation import EachBatch, evaluate
from .loss import BatchWeight
from .measuring import Measuring, Observing
from .modes import train_mode
from .nonfinite import Mode, NonFiniteGuard
from .probing import Probing
from .recording import AverageWeights, BestWeights, MetricsLogger
from .seeding import random_state, set_random_state
from .state import Learner, Progress, StepResult
from .step import EagerStep, ScaledStep, Step
from .stopping import EarlyStopping
from .system_metrics import SystemMetrics
from .undo import make_trial

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainerOptions:
    """How a training is made, besides what its learner says."""

    accumulate: int = 1  # batches in an optimizer step
    clip_grad_norm: float | None = None
    nonfinite: Mode = "stop"  # "skip": leave such steps out
    compile: bool = False
    freeze_stats: bool = False  # running statistics of frozen norms stay as they are
    sync_batchnorm: bool = True
    eval_every_epochs: int = 1  # the last one is always evaluated
    eval_every_steps: int | None = None  # optimizer steps between two evaluations; None: at the end of each epoch only
    patience: int | None = None  # evaluations without improvement after which the training ends
    min_delta: float = 0.0  # smallest change of the monitored metric that is an improvement
    rates_every: int = 1  # optimizer steps between two records of all rates
    diagnose_every: int | None = None  # optimizer steps between two that are measured; None: none is
    system_metrics: bool = False  # the load of the machine as well; needs psutil
    progress_bar: bool = True
    title: str = ""  # in front of what is shown while it trains
    defer: bool | None = None  # read a step's numbers one step late; None: on a GPU
    scores_of: Callable[[Any, Inputs], Tensor] = call  # of an evaluation: model and inputs to scores
    config: Mapping[str, Any] = field(default_factory=dict)  # plain values that checkpoints keep for a comparison


class Trainer:
    """Trains a learner; `fit` is the loop.

    With `checkpoints`, the whole state is saved when one is due and when a signal asks for it, and a training stops
    after the step under way; without, Ctrl-C and SIGTERM stop it at once. Raises `RunError` on non-finite values: at
    the first step whose loss or gradient is NaN or infinite ("stop"), or after 20 consecutive skipped steps ("skip").

    Where several processes train, each on its shard of every batch, all save, skip and stop at the same step, and
    rank 0 writes the files.
    """

    def __init__(
        self,
        learner: Learner,
        train: EpochLoader,
        val: EpochLoader,
        progress: Progress,
        *,
        folder: Path,
        tracker: Tracker,
        checkpoints: CheckpointFiles | None = None,
        callbacks: Mapping[str, Callback] | None = None,
        world: World = SINGLE,
        options: TrainerOptions | None = None,
        resumed: Mapping[str, Any] | None = None,
        measured_on: EpochLoader | None = None,
        changing: Sequence[Callback] = (),
    ) -> None:
        """`learner` is parallelized already; `resumed` is the state that it and `progress` were restored from.

        `measured_on`: the batches of `train` once more, for a measured decay. `changing` callbacks change
        gradients, before all others.
        """
        self.learner, self.train, self.val, self.progress = learner, train, val, progress
        self.folder, self.tracker, self.world, self.options = folder, tracker, world, options or TrainerOptions()
        self.resumed = resumed
        accumulate, clips = self.options.accumulate, self.options.clip_grad_norm is not None
        steps_per_epoch = -(-len(train) // accumulate)
        self.log = EpochLog(progress, steps_per_epoch, self.options.title)
        own: list[Callback] = [CostMeter(progress), MetricsLogger(progress, self.options.rates_every)]
        own += [BestWeights(world, folder), self.log]
        if self.options.diagnose_every is not None:
            own.append(Diagnostics(self.options.diagnose_every, world, folder))
        if self.options.progress_bar and world.is_rank_zero:
            own.append(ProgressBar(train, accumulate, self.options.title))
        if self.options.system_metrics and world.is_rank_zero:
            own.append(SystemMetrics())
        if learner.average is not None:
            own.append(AverageWeights())
        if self.options.patience is not None:
            own.append(EarlyStopping(self.options.patience, self.options.min_delta))
        self.measuring: Measuring | None = None
        measurement = learner.scheduler.measurement
        if measurement is not None and measured_on is not None and not measurement.rule.after_epochs:
            clip = self.options.clip_grad_norm
            probing = Probing(learner, progress, measured_on, accumulate, clip, world, changing)
            self.measuring = Measuring(learner, progress, probing, tracker)
            own.append(self.measuring)
            if measurement.rule.observes:
                own.append(Observing(learner, self.measuring))
        self.callbacks = Callbacks([*changing, *own], callbacks or {})
        self.trial, held = make_trial(learner, progress, self.callbacks, tracker, world, folder)
        self.callbacks.setup(learner, held)
        guard = NonFiniteGuard(self.options.nonfinite, learner, progress, clips, checkpoints)
        self.step = self._step(guard)
        self.checkpointer = Checkpointer(
            learner, progress, self.callbacks, guard, tracker, world, folder, checkpoints, self.options.config,
            self.trial,
        )  # fmt: skip
        self._weightless = False  # whether a step without any weight was reported
        self.signals = Requests(stops=checkpoints is not None, quiet=not world.is_rank_zero)
        self.feed = BatchFeed(BatchWeight(learner.loss), world, self.signals, self.checkpointer, self.flush)

    def fit(self) -> dict[str, float]:
        """Train to the last step; returns the metrics of the best evaluation, whose weights are in best.safetensors."""
        learner, progress, every = self.learner, self.progress, self.options.eval_every_steps
        self.checkpointer.start(self.resumed)
        with self.signals, self.trial, self.callbacks, console.doing(self.log.text, own_bar=self.options.progress_bar):
            self.callbacks.fit_start(progress)
            while not progress.done:
                self.trial.begin()
                self.train_mode()
                for batches in self.train_batches():
                    if every is not None and self.is_due(every):
                        self.validate_within_epoch()
                        if progress.stopped is not None:
                            break
                    if self.measuring is not None:
                        self.measuring.before_step(self.flush)
                    rates = learner.scheduler.rates()
                    self.callbacks.step_start(progress)
                    for result in self.train_step(batches, rates):
                        self.callbacks.step_end(result)
                    learner.scheduler.advance()
                    progress.advance(len(batches))
                self.flush()
                if progress.stopped is not None:
                    break
                if self.trial.end():  # undone: the same epoch again
                    self.checkpointer.undone(self.flush)
                    continue
                if progress.step >= progress.steps:  # before the epoch ends: a longer training has more of it
                    self.checkpointer.save_end(self.flush)
                if progress.ends_evaluated(self.options.eval_every_epochs):
                    self.validate()
                progress.end_epoch()
                self.callbacks.epoch_end(progress)
            self.trial.accept()
            if progress.stopped is not None:
                self.checkpointer.save_end(self.flush)
            save_model(learner.model, self.world, self.folder / "model.safetensors")
            self.feed.agree()
            self.trial.finish()
            self.callbacks.fit_end(progress)
        return progress.best

    def train_mode(self) -> None:
        """Let the model train, but for running statistics that are frozen."""
        train_mode(self.learner.model, self.learner.plan.frozen_names if self.options.freeze_stats else ())

    def is_due(self, every: int) -> bool:
        """Whether an evaluation is due before the next step; also one that a stop has cut off."""
        step = self.progress.step
        return step > 0 and step % every == 0 and step != self.progress.evaluated

    def validate(self) -> None:
        """Evaluate on the validation split: the schedule and the callbacks learn of it."""
        learner, progress = self.learner, self.progress
        metrics = self.evaluate(self.val, "val", model=learner.evaluated)
        learner.scheduler.observe(metrics)
        progress.evaluated = progress.step
        self.callbacks.evaluation_end(progress, metrics)

    def validate_within_epoch(self) -> None:
        """`validate` between two steps, which then are as they would have been without it."""
        self.flush()
        random = random_state()
        self.progress.within_epoch = True
        try:
            self.validate()
        finally:
            self.progress.within_epoch = False
        set_random_state(random)
        self.train_mode()

    def train_batches(self) -> Iterator[Batches]:
        """What is left of this epoch, in batches of one optimizer step each."""
        self.train.set_epoch(self.progress.epoch, self.progress.batches)
        self.callbacks.epoch_start(self.progress)
        yield from self.feed(self.train, self.options.accumulate, more=lambda: self.progress.step < self.progress.steps)

    def train_step(self, batches: Batches, rates: list[float]) -> list[StepResult]:
        """Make one optimizer step; where no sample counts for the loss there is nothing to learn, so it is skipped."""
        number = self.progress.step
        if batches.total > 0:
            return self.step(number, batches, rates)
        self.flush()
        problem = f"no sample of optimizer step {number} counts for the loss: its classes have the weight 0"
        if not self._weightless:
            log.warning("%s; such steps are skipped (train/skipped)", problem)
        self._weightless = True
        return [StepResult(number, math.nan, rates, problem)]

    def flush(self) -> None:
        """Wait for the numbers that are still on their way from a GPU."""
        for result in self.step.flush():
            self.callbacks.step_end(result)

    def evaluate(
        self, loader: EpochLoader, split: str, each: EachBatch | None = None, *, model: nn.Module | None = None
    ) -> dict[str, float]:
        """Mean loss and metrics of the task over a split, as `<split>/loss`, …; restarts after a resume.

        `each` receives scores and labels of every batch, as of `lwexp.training.evaluation.evaluate`; `model`: whose
        weights, None: those that are trained.
        """
        model = model or self.learner.model
        self.callbacks.evaluation_start(split)
        if self.world.size > 1 and not self.options.sync_batchnorm:
            broadcast_tensors(model.buffers())  # evaluate what is saved
        name = {"val": "validation"}.get(split, split)
        with console.doing(f"{self.log.title}evaluating the {name} split"):
            metrics = evaluate(
                model,
                (found.batches[0] for found in self.feed(loader, 1)),
                loader.epoch_sampler,
                self.learner.loss,
                split,
                device=self.learner.device,
                context=self._inference(),
                world=self.world,
                each=each,
                scores_of=self.options.scores_of,
                own=self.learner.metrics,
            )
        return self.world.on_rank_zero(lambda: metrics)

    def test(
        self, loader: EpochLoader, split: str = "test", each: EachBatch | None = None, file: str = "best.safetensors"
    ) -> dict[str, float]:
        """Evaluate the weights in `file`, the best ones, on the test split or another; `each` as of `evaluate`."""
        path, own = self.folder / file, self.learner.model.state_dict()
        state = self.world.on_rank_zero(lambda: read_weights(path))
        load_weights(self.learner.model, {name: shard_like(t, own.get(name, t)) for name, t in state.items()}, path)
        return self.evaluate(loader, split, each)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        with self.learner.parallel.no_grad(), self.learner.autocast():
            yield

    def _step(self, guard: NonFiniteGuard) -> Step:
        """The way of making a step that fits the device and the precision."""
        learner, options = self.learner, self.options
        defer = learner.device.type == "cuda" if options.defer is None else options.defer
        forward = torch.compile(learner.parallel.forward) if options.compile else learner.parallel.forward
        parts: Any = learner, self.progress, guard, self.callbacks, self.world, forward, options.clip_grad_norm
        if learner.scaler.is_enabled():
            return ScaledStep(*parts)
        # A skipped step must be known before the next; the kernel must take `found_inf`.
        if defer and options.nonfinite == "stop" and takes_found_inf(learner.optimizer):
            return DeferredStep(*parts)
        return EagerStep(*parts)
