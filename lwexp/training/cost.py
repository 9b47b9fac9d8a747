"""What a training has cost: seconds spent in its steps, and the most memory that its process has needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from lwexp.host.resources import peak_memory, reset_peak_memory
from lwexp.tracking import Tracker

from .callbacks import Callback
from .state import Learner, Progress, StepResult

_MB = 1e6


class CostMeter(Callback):
    """Keeps `progress.cost`.

    Seconds are those of the steps with the loading of their batches and what a measured decay measures, also of epochs
    that were undone; evaluations do not count. Memory is counted from the start of the training to its last
    evaluation.
    """

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` gives seconds."""
        self._cost, self._clock = progress.cost, clock

    def setup(self, learner: Learner, tracker: Tracker) -> None:
        """Keep the device."""
        self._device = learner.device

    def fit_start(self, progress: Progress) -> None:
        """Forget what was needed to get here."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            reset_peak_memory()

    def epoch_start(self, progress: Progress) -> None:
        """Count from here."""
        self._since = self._clock()

    def step_end(self, result: StepResult) -> None:
        """Count up to here."""
        now = self._clock()
        self._cost.train_seconds += now - self._since
        self._since = now

    def evaluation_start(self, split: str) -> None:
        """Read the memory that the training has needed so far."""
        if split == "val":
            self._cost.peak_memory_mb = max(self._cost.peak_memory_mb, self._peak() / _MB)

    def evaluation_end(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Count from here, where the evaluation was within an epoch."""
        self._since = self._clock()

    def _peak(self) -> int:
        """Bytes."""
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else peak_memory()
