"""What a training prints: a bar of the epoch under way on a terminal, and a line of every evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from lwexp.data import EpochLoader
from lwexp.tracking import Tracker

from .callbacks import Callback
from .state import Learner, Progress, StepResult

log = logging.getLogger(__name__)


class EpochLog(Callback):
    """Writes a line for each evaluation to the log."""

    def evaluation_end(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Write the line."""
        log.info(
            "epoch %d/%d  step %d/%d  val loss %.4f  accuracy %.2f %%  macro F1 %.4f",
            progress.epoch + 1, progress.epochs, progress.step, progress.steps,
            metrics["val/loss"], 100 * metrics["val/accuracy"], metrics["val/macro_f1"],
        )  # fmt: skip


class ProgressBar(Callback):
    """Shows loss and rates of the epoch under way, on a terminal only."""

    def __init__(self, train: EpochLoader, accumulate: int) -> None:
        """`accumulate` batches of `train` make an optimizer step."""
        self._train, self._accumulate = train, accumulate
        self._bar: tqdm[Any] | None = None

    def setup(self, learner: Learner, tracker: Tracker) -> None:
        """Find the head and the stem among the groups."""
        self._head, *_, self._stem = learner.optimized_groups * 2

    def epoch_start(self, progress: Progress) -> None:
        """Start a bar for the rest of the epoch."""
        left = -(-len(self._train) // self._accumulate)
        self._bar = tqdm(
            total=min(left, progress.steps - progress.step),
            desc=f"epoch {progress.epoch + 1}/{progress.epochs}",
            unit="step",
            leave=False,
            disable=None,  # unless it is a terminal
        )

    def step_end(self, result: StepResult) -> None:
        """Move it."""
        if self._bar is not None:
            head, stem = result.rates[self._head], result.rates[self._stem]
            self._bar.set_postfix(loss=f"{result.loss:.3f}", head=f"{head:.2e}", stem=f"{stem:.2e}", refresh=False)
            self._bar.update()

    def evaluation_start(self, split: str) -> None:
        """Remove it."""
        self.close()

    def close(self) -> None:
        """Remove it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
