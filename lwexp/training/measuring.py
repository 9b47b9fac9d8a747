"""Measured decays in a training: a look at its next batches, as it would compute them, before a step that is due."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter

from lwexp.core.present_rates import scale_metric
from lwexp.host.console import console
from lwexp.tracking import Tracker

from .callbacks import Callback
from .probing import Probing
from .seeding import random_state, set_random_state
from .state import Learner, Progress

log = logging.getLogger(__name__)
_SHOWN = 8  # groups in a line


class Measuring(Callback):
    """Measures the scales of a training whose decay is a measured one, and records them.

    `scale/<label>` of each group whose scale is measured is logged at the step that it holds from.
    """

    def __init__(self, learner: Learner, progress: Progress, probing: Probing, tracker: Tracker) -> None:
        """`probing` makes the looks at the training."""
        assert learner.scheduler.measurement is not None
        self._learner, self._progress, self._probing, self._tracker = learner, progress, probing, tracker
        self.measurement = learner.scheduler.measurement
        self.seconds, self.times = 0.0, 0
        self._shown: int | None = None  # epoch whose scales were printed

    def before_step(self, prepare: Callable[[], None]) -> None:
        """Measure if it is due, after `prepare`; the model is in training mode."""
        progress = self._progress
        if not self.measurement.due(progress.step):
            return
        prepare()
        started, random = perf_counter(), random_state()
        with console.doing("measuring the scales of the groups"):
            try:
                self._learner.scheduler.measure_with(self._probing.probe())
            finally:
                set_random_state(random)
        seconds = perf_counter() - started
        self.seconds, self.times = self.seconds + seconds, self.times + 1
        scales = self.measurement.measured_scales()
        self._tracker.log({scale_metric(label): scale for label, scale in scales.items()}, progress.step)
        level = logging.INFO if self._shown != progress.epoch else logging.DEBUG
        self._shown = progress.epoch  # once an epoch is enough, the rest is in the record
        log.log(level, "scales from step %d on, measured in %.2g s: %s", progress.step, seconds, shown(scales))

    def fit_start(self, progress: Progress) -> None:
        """Start the clock."""
        self._started = perf_counter()

    def fit_end(self, progress: Progress) -> None:
        """Log what measuring has cost."""
        if self.times:
            many = "a measurement" if self.times == 1 else f"{self.times} measurements"
            share = 100 * self.seconds / (perf_counter() - self._started)
            log.info("%s of the scales took %.2g s, %.1f %% of the training", many, self.seconds, share)


class Observing(Callback):
    """Shows a measured decay that observes steps the gradients of each."""

    def __init__(self, learner: Learner, measuring: Measuring) -> None:
        """`learner` is parallelized already; the time counts as that of `measuring`, on a GPU that of the launch."""
        self._learner, self._parameters = learner, dict(learner.model.named_parameters())
        self._measuring = measuring

    def gradients_ready(self, progress: Progress) -> None:
        """Between the backward pass and the step."""
        learner, started = self._learner, perf_counter()
        self._measuring.measurement.rule.observe(learner.plan, self._parameters, learner.parallel.total)
        self._measuring.seconds += perf_counter() - started


def shown(scales: dict[str, float]) -> str:
    """Scales in one line; of many groups the first and the last.

    >>> shown({"00_fc": 1.0, "01_body": 0.12345})
    '00_fc 1, 01_body 0.123'
    """
    parts = [f"{label} {scale:.3g}" for label, scale in scales.items()]
    if len(parts) > _SHOWN:
        half = _SHOWN // 2
        parts = [*parts[:half], f"… {len(parts) - 2 * half} more …", *parts[-half:]]
    return ", ".join(parts)
