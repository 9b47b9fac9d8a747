"""Epochs on trial: one whose weights changed in the wrong order is undone and run again with other rates (`auto_lr`).

While an epoch is on trial its metric rows are held back. Accepted, they are logged as those of any epoch. Undone, they
are logged as `undone/<name>` at steps of their own, which count undone steps only, and everything is as it was at the
epoch's start: weights, buffers, optimizer, schedule, scaler, average, random generators, progress, the best weights
and the users' callbacks. A checkpoint within the epoch holds that start and the rows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from lwexp.core.dtensor import full_tensor
from lwexp.core.measured.auto_lr import AutoLR, Verdict, compared_layers
from lwexp.core.measured.measurement import Measurement
from lwexp.core.measured.variation import variation
from lwexp.core.present_rates import scale_metric
from lwexp.distributed.world import World
from lwexp.errors import LwexpError
from lwexp.host.files import link_or_copy
from lwexp.tracking import Tracker
from lwexp.tracking.held import HeldTracker

from .callbacks import Callbacks, Pruned
from .checkpoint.in_memory import go_back, remember, sharded_as
from .checkpoint.snapshot import optimizer_class
from .checkpoint.weights import read_weights, save_weights
from .measuring import shown
from .state import Learner, Progress
from .trial import Trial

log = logging.getLogger(__name__)


class EpochTrial(Trial):
    """The epoch under way, until it is accepted or undone."""

    sets_scales = True

    def __init__(
        self,
        rule: AutoLR,
        learner: Learner,
        progress: Progress,
        callbacks: Callbacks,
        tracker: HeldTracker,
        world: World,
        folder: Path,
    ) -> None:
        """`folder` is the run's. Raises `ConfigError` for a plan with nothing to compare."""
        self._rule, self._learner, self._progress, self._callbacks = rule, learner, progress, callbacks
        self._tracker, self._world = tracker, world
        self._best, self._kept_best = folder / "best.safetensors", folder / ".best.safetensors.of_start"
        groups = learner.plan.groups
        compared = [i for i, g in enumerate(groups) if g.measured]
        self._layers = compared_layers(learner.plan, dict(learner.model.named_parameters()), compared)
        self.undone_steps = self.undone_epochs = 0
        self._retries = 0  # of this epoch
        self._targets: Mapping[int, float] | None = None  # of its first try
        self._start: dict[str, Any] | None = None  # everything at its start; None: no epoch is on trial

    def __enter__(self) -> None:
        """At the end of the block no row is left behind, unless the training is to be resumed."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """After an error the rows of the unfinished epoch count as undone; a pruned run has no epoch after it."""
        if self._start is None or not isinstance(error, Exception):
            return
        with suppress(LwexpError):  # the first error counts
            self._tracker.release() if isinstance(error, Pruned) else self._release_undone()

    def begin(self) -> None:
        """An epoch starts, also again. One that resumes in the middle stays on trial, or accepted, as it was."""
        progress, learner = self._progress, self._learner
        if self._start is not None or progress.batches:
            return
        if self._rule.fresh_optimizer:
            learner.optimizer.state.clear()
        self._start = remember(learner, progress, self._callbacks, self._world)
        if self._world.is_rank_zero and progress.best:
            link_or_copy(self._best, self._kept_best)
        self._tracker.hold()
        scales = self._measurement.measured_scales()
        self._tracker.log({scale_metric(label): scale for label, scale in scales.items()}, progress.step)

    def end(self) -> bool:
        """The epoch's last step is done: accept it or undo it. Returns whether it was undone. All ranks must call."""
        if self._start is None:
            return False
        changes = self._variations()
        scales, epoch = self._measurement.scales, self._progress.epoch
        verdict = self._world.on_rank_zero(
            lambda: self._rule.verdict(self._layers, changes, scales, epoch, self._targets)
        )
        if verdict.in_order or self._retries >= self._rule.retries:
            self._keep(verdict)
            return False
        self._undo(verdict)
        return True

    def accept(self) -> None:
        """Whatever the order: the training has stopped within the epoch."""
        if self._start is None:
            return
        self._tracker.release()
        self._start, self._targets, self._retries = None, None, 0
        if self._world.is_rank_zero:
            self._kept_best.unlink(missing_ok=True)

    def finish(self) -> None:
        """The training is complete: its cost."""
        steps, undone = self._progress.step, self.undone_steps
        epochs = f"{self.undone_epochs} epoch{'' if self.undone_epochs == 1 else 's'}"
        share = 100 * undone / max(steps + undone, 1)
        cost = f"{undone} of {steps + undone} steps ({share:.0f} %), {epochs}"
        self._tracker.tag({"lwexp.undone": cost})
        log.info("undone and run again: %s", cost)

    def state_dict(self) -> dict[str, Any]:
        """What has been undone, and the epoch on trial: its start and its rows."""
        trial = None
        if self._start is not None:
            changed = self._world.is_rank_zero and self._progress.best != self._start["best"]
            best = read_weights(self._kept_best) if changed and self._kept_best.is_file() else None
            trial = {
                "start": self._start,
                "rows": list(self._tracker.rows or ()),
                "retries": self._retries,
                "targets": None if self._targets is None else dict(self._targets),
                "best": best,
            }
        return {"steps": self.undone_steps, "epochs": self.undone_epochs, "trial": trial}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        With another plan, optimizer or length the epoch under way counts as accepted: its rows may be delivered.
        """
        self.undone_steps, self.undone_epochs = state.get("steps", 0), state.get("epochs", 0)
        trial = state.get("trial")
        if trial is None:
            return
        self._tracker.hold(trial["rows"])
        start, learner = trial["start"], self._learner
        now = learner.plan.hash, optimizer_class(learner.optimizer), self._progress.steps
        if (start["plan"]["hash"], start["optimizer_class"], start["stopping"]["steps"]) != now:
            self._tracker.release()
            return
        self._start = sharded_as(start, learner)
        self._retries, self._targets = trial["retries"], trial["targets"]
        if self._world.is_rank_zero and start["best"]:
            if trial["best"] is not None:
                save_weights(trial["best"], self._kept_best)
            elif self._best.is_file():
                link_or_copy(self._best, self._kept_best)

    @property
    def _measurement(self) -> Measurement:
        measurement = self._learner.scheduler.measurement
        assert measurement is not None
        return measurement

    def _variations(self) -> list[float]:
        """By how much each layer has changed since the epoch's start. A collective where tensors are sharded."""
        assert self._start is not None
        before, after = self._start["model"], dict(self._learner.model.named_parameters())

        def change(name: str) -> Tensor:
            own = after[name].detach()
            return full_tensor(own - before[name].to(own.device))

        alike = self._rule.root_mean_square
        return [variation(map(change, layer.names), root_mean_square=alike) for layer in self._layers]

    def _keep(self, verdict: Verdict) -> None:
        """Accept the epoch; where its order is wrong, the next one has other rates."""
        progress, retries = self._progress, self._retries
        self.accept()
        numbers = {"auto_lr/quality": verdict.quality, "undone/steps": float(self.undone_steps)}
        self._tracker.log(numbers, progress.step - 1)
        if verdict.in_order:
            return
        self._learner.scheduler.take_scales(verdict.scales)
        tried = f" after {retries} retr{'y' if retries == 1 else 'ies'}" if retries else ""
        log.info("epoch %d/%d is kept%s: %s", progress.epoch + 1, progress.epochs, tried, _order(verdict))
        self._show_scales()

    def _undo(self, verdict: Verdict) -> None:
        """Everything is as it was at the epoch's start, but for the rates."""
        start, progress, learner = self._start, self._progress, self._learner
        assert start is not None
        steps, retry = progress.step - start["step"], self._retries + 1
        log.info(
            "epoch %d/%d is undone after %d steps: %s; retry %d of at most %d",
            progress.epoch + 1, progress.epochs, steps, _order(verdict), retry, self._rule.retries,
        )  # fmt: skip
        self._release_undone()
        self._world.on_rank_zero(self._put_best_back)
        go_back(start, learner, progress, self._callbacks, self._world)
        self.undone_steps, self.undone_epochs = self.undone_steps + steps, self.undone_epochs + 1
        self._retries, self._targets, self._start = retry, verdict.targets, None
        learner.scheduler.take_scales(verdict.scales)
        self._show_scales()
        self._callbacks.epoch_undone(progress)
        self.begin()

    def _release_undone(self) -> None:
        assert self._start is not None
        self._tracker.release(lambda name: f"undone/{name}", self.undone_steps - self._start["step"])

    def _put_best_back(self) -> None:
        """The best weights of the epoch's start, where an evaluation within it has found better ones."""
        assert self._start is not None
        if self._progress.best == self._start["best"]:
            return
        if self._start["best"] and self._kept_best.is_file():
            self._kept_best.replace(self._best)
        else:
            self._best.unlink(missing_ok=True)

    def _show_scales(self) -> None:
        log.info("scales from step %d on: %s", self._progress.step, shown(self._measurement.measured_scales()))


def make_trial(
    learner: Learner, progress: Progress, callbacks: Callbacks, tracker: Tracker, world: World, folder: Path
) -> tuple[Trial, Tracker]:
    """How a training tries its epochs, and the tracker for its metrics. Raises `ConfigError`."""
    measurement = learner.scheduler.measurement
    if measurement is None or not isinstance(measurement.rule, AutoLR):
        return Trial(tracker), tracker
    held = HeldTracker(tracker)
    return EpochTrial(measurement.rule, learner, progress, callbacks, held, world, folder), held


def _order(verdict: Verdict) -> str:
    return (
        "the weights of its layers change in the wrong order from stem to head "
        f"(sorting quality {verdict.quality:.3g}, wanted {verdict.wanted:.3g})"
    )
