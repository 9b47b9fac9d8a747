"""Saves the whole state of a training between two steps, by all processes at the same step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from lwexp.core.dtensor import full_state
from lwexp.distributed.world import World
from lwexp.errors import LwexpError
from lwexp.tracking import Tracker
from lwexp.training.callbacks import Callbacks
from lwexp.training.nonfinite import NonFiniteGuard
from lwexp.training.seeding import random_state_of, seed_apart, set_random_state
from lwexp.training.state import Learner, Progress
from lwexp.training.trial import Trial

from .files import CheckpointFiles
from .snapshot import snapshot
from .weights import save_weights

log = logging.getLogger(__name__)


class Checkpointer:
    """Keeps the state of one training: the learner, its progress, its callbacks, and all random generators."""

    def __init__(
        self,
        learner: Learner,
        progress: Progress,
        callbacks: Callbacks,
        guard: NonFiniteGuard,
        tracker: Tracker,
        world: World,
        folder: Path,
        files: CheckpointFiles | None,
        config: Mapping[str, Any],
        trial: Trial,
    ) -> None:
        """`folder` is the run's; without `files` no checkpoint is saved. `config`: plain values to save with each."""
        self._learner, self._progress, self._callbacks, self._guard = learner, progress, callbacks, guard
        self._tracker, self._world, self._folder, self._config = tracker, world, folder, config
        self._trial, self.files = trial, files

    def start(self, resumed: Mapping[str, Any] | None) -> None:
        """Right before the first step: what is left to restore of the state `resumed`, random generators last."""
        rank, step = self._world.rank, self._progress.step
        random = None if resumed is None else random_state_of(resumed, rank)
        if random is None and rank > 0:  # else all ranks would drop the same units
            seed_apart(rank, step)
        if resumed is not None:
            self._callbacks.load_state_dict(resumed.get("callbacks", {}))
            if self.files is not None and not self._world.on_rank_zero(self._tidy_up) and self._progress.best:
                log.warning("the best weights up to step %d are missing; the best is counted from there", step)
                self._progress.best = {}
            self._trial.load_state_dict(resumed.get("undo", {}))
        if self.files is not None:
            self.files.begin(step)
        if random is not None:
            set_random_state(random)

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.files is not None and self.files.due(self._progress.step)

    def save(self, flush: Callable[[], None]) -> None:
        """Save a checkpoint of this step, unless there is one, after `flush` has brought all numbers of steps.

        Raises `RunError` where weights are not finite, and as `CheckpointFiles.save`.
        """
        flush()
        files, step = self.files, self._progress.step
        if files is None or files.saved_step == step:
            return
        self._guard.check_weights(self._world)
        best = self._folder / "best.safetensors" if self._progress.best else None
        state = self.state()
        self._world.on_rank_zero(lambda: files.save(state, step, best))
        files.note_saved(step)

    def undone(self, flush: Callable[[], None]) -> None:
        """The training is back at an earlier step: one checkpoint replaces those of what was undone.

        Raises as `save`.
        """
        files, step = self.files, self._progress.step
        if files is not None and self._world.all_gather(files.go_back(step))[0]:
            self.save(flush)

    def save_end(self, flush: Callable[[], None]) -> None:
        """`save` after the last step, where `files` has it so; a failure is a warning: the training is complete."""
        if self.files is None or not self.files.at_end:
            return
        if self._trial.sets_scales:
            self.files.saved_step = None  # one of this step may hold the epoch before it was accepted
        try:
            self.save(flush)
        except LwexpError as error:
            log.warning("no checkpoint of the end, from which a longer training could continue: %s", error)

    def state(self) -> dict[str, Any]:
        """Everything that continues the training exactly. Tensors are the learner's own: save before the next step."""
        callbacks, position = self._callbacks.state_dict(), self._tracker.position()
        state = snapshot(self._learner, self._progress, callbacks, position, self._world, self._config)
        if undo := self._trial.state_dict():
            state["undo"] = undo
        return full_state(state, keep=self._world.is_rank_zero) if self._world.size > 1 else state

    def _tidy_up(self) -> bool:
        """Remove what a killed process left half written; returns whether the best weights of that time are back."""
        assert self.files is not None
        for left in self._folder.glob(".*.safetensors.*"):
            with suppress(OSError):
                left.unlink()
        # The file may hold weights of a later step, which are not part of this training.
        best = self._folder / "best.safetensors"
        return bool(self._progress.best) and self.files.restore_best(self._progress.step, best)


def save_model(model: nn.Module, world: World, path: Path) -> None:
    """Write the full weights of `model` to `path` atomically; all ranks must call."""
    state = full_state(model.state_dict(), keep=world.is_rank_zero)
    world.on_rank_zero(lambda: save_weights(state, path))
