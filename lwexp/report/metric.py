"""The metric of a report: which values are good and possible, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from lwexp.config.monitored import direction
from lwexp.tasks import SHARES

from .statistics import Summary

# Words of a metric's name
_SHARES = {
    "accuracy", "acc", "acc1", "acc5", "top1", "top5", "f1", "precision", "recall", "sensitivity", "specificity",
    "auroc", "auc", "roc", "map", "map50", "ap", "iou", "miou", "dice", "jaccard", "ece", "hamming",
}  # fmt: skip
_SIGNED = {"mcc", "matthews", "kappa", "pearson", "spearman", "kendall", "correlation", "corr"}
_AT_MOST_ONE = {"r2", "r2score", "nse"}


@dataclass(frozen=True)
class Metric:
    """A metric; shares are written in percent with two decimals, others with four digits.

    `low`, `high`: its least and greatest possible value, as logged; infinite if not known. `factor`: logged values
    times it are written.
    """

    name: str  # without the split
    lower_is_better: bool = False
    low: float = -math.inf
    high: float = math.inf
    percent: bool = False
    factor: float = 1.0

    @property
    def unit(self) -> str:
        """After a value."""
        return " %" if self.percent else ""

    @property
    def in_unit(self) -> str:
        """After the metric's name, in a title."""
        return ", %" if self.percent else ""

    def value(self, value: float) -> str:
        """Without a unit.

        >>> metric_of("accuracy", [0.97125]).value(0.97125), metric_of("loss", [0.1]).value(0.123456)
        ('97.12', '0.1235')
        """
        if math.isnan(value):
            return "-"
        return f"{self.factor * value:.2f}" if self.percent else f"{value:.4g}"

    def difference(self, value: float) -> str:
        """With its sign.

        >>> metric_of("accuracy", [0.97]).difference(-0.0125)
        '-1.25'
        """
        return "-" if math.isnan(value) else f"{self.factor * value:+.2f}" if self.percent else f"{value:+.4g}"

    def spread(self, found: Summary) -> str:
        """Mean, and standard deviation where there is one."""
        return self.value(found.mean) + ("" if math.isnan(found.sd) else f" ({self.value(found.sd)})")

    def interval(self, found: Summary) -> str:
        """`low to high`, empty where there is none."""
        return "" if math.isnan(found.low) else f"{self.value(found.low)} to {self.value(found.high)}"

    def change(self, low: float, high: float) -> str:
        """The interval of a difference."""
        return "" if math.isnan(low) else f"{self.difference(low)} to {self.difference(high)}"

    def amount(self, value: float, where: str) -> str:
        """A difference in words, without its sign; `where`: the split.

        >>> metric_of("accuracy", [0.9]).amount(-0.02, "test"), metric_of("loss", [0.9]).amount(0.1, "validation")
        ('2.00 points in test accuracy', '0.1 in validation loss')
        """
        points = " points" if self.percent else ""
        return f"{self.value(abs(value))}{points} in {where} {self.name}"


def metric_of(name: str, values: Iterable[float], mode: str | None = None) -> Metric:
    """The metric `name`, of which runs have logged `values`; `mode` says whether "min" or "max" is good, else its name.

    A range that the values do not keep is not the metric's: a share may have been logged in percent.
    """
    lower = (mode if mode in ("min", "max") else direction(name)) == "min"
    seen = [value for value in values if math.isfinite(value)]
    low, high = value_range(name)
    share = is_share(name)
    if share and any(value > 1 for value in seen):
        high = 100.0
    if any(not low <= value <= high for value in seen):
        return Metric(name, lower)
    return Metric(name, lower, low, high, share, 100.0 if share and high == 1 else 1.0)


def is_share(metric: str) -> bool:
    """Whether `metric` is a share of something, which reads best in percent.

    >>> [is_share(name) for name in ("accuracy", "val_acc", "macro_f1", "loss", "top5_error", "r2")]
    [True, True, True, False, True, False]
    """
    return metric in SHARES or bool(_words(metric) & _SHARES)


def value_range(metric: str) -> tuple[float, float]:
    """Between which values `metric` lies, by the words of its name; infinite where the name does not say.

    >>> [value_range(name) for name in ("val/accuracy", "loss", "cohen_kappa", "r2", "score")]
    [(0.0, 1.0), (0.0, inf), (-1.0, 1.0), (-inf, 1.0), (-inf, inf)]
    """
    words = _words(metric)
    if is_share(metric):
        return 0.0, 1.0
    if direction(metric) == "min":
        return 0.0, math.inf
    if words & _SIGNED:
        return -1.0, 1.0
    return -math.inf, 1.0 if words & _AT_MOST_ONE else math.inf


def _words(metric: str) -> set[str]:
    parts = re.split(r"[^A-Za-z0-9]+", metric)
    return {word for part in parts for word in (part.lower(), *re.findall(r"[a-z0-9]+", _snake(part)))}


def _snake(name: str) -> str:
    """`meanAccuracy` as `mean_accuracy`; capitals in a row stay together."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
