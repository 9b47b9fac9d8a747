"""Early stopping: a training ends when what it monitors has not improved for a while."""

from __future__ import annotations

from collections.abc import Mapping

from .callbacks import Callback
from .state import Progress


class EarlyStopping(Callback):
    """Ends a training after `patience` evaluations in a row without an improvement by more than `min_delta`.

    All that it knows is in `Progress`, which is saved with every checkpoint.
    """

    def __init__(self, patience: int, min_delta: float) -> None:
        """`min_delta` is in the unit of the monitored metric."""
        self._patience, self._min_delta = patience, min_delta

    def evaluation_end(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Count the evaluation."""
        monitor = progress.monitor
        score = monitor.score(monitor.value(metrics))
        if progress.reached is None or score > progress.reached + self._min_delta:
            progress.reached, progress.waited = score, 0
            return
        progress.waited += 1
        if progress.waited >= self._patience:
            more = f" by more than {self._min_delta:g}" if self._min_delta else ""
            count = f"{progress.waited} evaluation{'s' if progress.waited > 1 else ''}"
            best = monitor.shown(monitor.value(progress.best))
            progress.stopped = (
                f"{monitor.metric} has not improved{more} for {count}, at step {progress.step} of {progress.steps}; "
                f"the best is {best}, of epoch {progress.best.get('best/epoch', progress.epoch + 1):g}"
            )
