"""Which of two evaluations is better: by the metric that is monitored, then by a low loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lwexp.errors import UnknownNameError
from lwexp.tasks import MAIN, SHARES, Task

Mode = Literal["min", "max"]
LOSS = "val/loss"
_SPLITS = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class Monitor:
    """The metric by which evaluations are compared, and whether a low or a high value of it is good.

    >>> Monitor("val/loss", "min").is_better({"val/loss": 0.5}, {"val/loss": 0.6})
    True
    """

    metric: str  # of an evaluation, such as "val/accuracy"
    mode: Mode

    @classmethod
    def of(cls, task: Task) -> Monitor:
        """The main metric of `task`.

        >>> Monitor.of("classification")
        Monitor(metric='val/accuracy', mode='max')
        """
        return cls(f"val/{MAIN[task].name}", MAIN[task].mode)

    def score(self, value: float) -> float:
        """`value` of the metric with the sign that makes higher better; one that is not finite is the worst."""
        return (value if self.mode == "max" else -value) if math.isfinite(value) else -math.inf

    def rank(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        """Sort key of an evaluation, higher is better: the metric, then a low loss.

        Raises `UnknownNameError` where `metrics` lack the metric.
        """
        loss = metrics.get(LOSS, math.nan)
        return self.score(self.value(metrics)), -loss if math.isfinite(loss) else -math.inf

    def value(self, metrics: Mapping[str, float]) -> float:
        """The metric. Raises `UnknownNameError` where `metrics` lack it."""
        if self.metric not in metrics:
            raise UnknownNameError("monitor", self.metric, metrics, "no such metric")
        return metrics[self.metric]

    def is_better(self, metrics: Mapping[str, float], than: Mapping[str, float]) -> bool:
        """Whether the evaluation `metrics` is better than the evaluation `than`."""
        return self.rank(metrics) > self.rank(than)

    @property
    def words(self) -> str:
        """The metric in a sentence.

        >>> Monitor("val/accuracy", "max").words, Monitor("val/ece", "min").words
        ('validation accuracy', 'val/ece')
        """
        split, _, name = self.metric.partition("/")
        known = {main.name: main.words for main in MAIN.values()}
        return f"{_SPLITS[split]} {known[name]}" if split in _SPLITS and name in known else self.metric

    def shown(self, value: float) -> str:
        """`value` of the metric as it is printed: shares in percent, others with four digits.

        >>> Monitor("val/accuracy", "max").shown(0.97125), Monitor("val/loss", "min").shown(0.123456)
        ('97.12%', '0.1235')
        """
        return f"{value:.2%}" if self.metric.partition("/")[2] in SHARES else f"{value:.4g}"


ACCURACY = Monitor.of("classification")
