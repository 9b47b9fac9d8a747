"""What a network learns (one class, several labels, numbers), the metrics of each, and which of them is the main one.

Metrics are named without their split: an evaluation on "val" logs the metric `loss` as `val/loss`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Task = Literal["classification", "multilabel", "regression"]
"""One class of several; any number of labels; one number or more."""


@dataclass(frozen=True)
class MainMetric:
    """The metric by which two evaluations of a task are compared unless the user names another."""

    name: str
    mode: Literal["min", "max"]
    words: str  # in a sentence


MAIN: Mapping[Task, MainMetric] = {
    "classification": MainMetric("accuracy", "max", "accuracy"),
    "multilabel": MainMetric("map", "max", "mean average precision"),
    "regression": MainMetric("rmse", "min", "RMSE"),
}
METRICS: Mapping[Task, tuple[str, ...]] = {
    "classification": ("loss", "accuracy", "macro_f1"),
    "multilabel": ("loss", "map", "macro_f1", "micro_f1", "exact_match"),
    "regression": ("loss", "rmse", "mae", "r2"),
}
"""What an evaluation gives, in the order in which it is shown."""

SHARES = frozenset({"accuracy", "map", "macro_f1", "micro_f1", "exact_match"})  # in [0, 1], shown in percent


def task_of(metrics: Mapping[str, object], split: str = "val") -> Task:
    """The task whose main metric is among `metrics` of `split`; classification where none is.

    >>> task_of({"val/loss": 0.1, "val/rmse": 2.0}), task_of({"test/map": 0.5}, "test"), task_of({})
    ('regression', 'multilabel', 'classification')
    """
    return next((task for task, main in MAIN.items() if f"{split}/{main.name}" in metrics), "classification")


def main_value(metrics: Mapping[str, float], split: str = "val") -> float:
    """The main metric among `metrics` of `split`, NaN if it is not there.

    >>> main_value({"val/loss": 0.1, "val/rmse": 2.0})
    2.0
    """
    return float(metrics.get(f"{split}/{MAIN[task_of(metrics, split)].name}", math.nan))
