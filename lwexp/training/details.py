"""What predictions say class by class: precision, recall, F1, confusion, calibration, and the most confident mistakes.

Classes are counted here with NumPy: the import of torchmetrics takes 2 to 3 seconds, more than a short training. Tests
compare each number with those of torchmetrics and scikit-learn. The headline numbers of several labels and of numbers
are those that `measures` logs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from lwexp.tasks import Task

from .measures import label_metrics, number_metrics
from .predictions import ClassPredictions, Labels, OutputPredictions, Predictions

Numbers = NDArray[np.float64]
BINS = 15  # of equal width, of the calibration error


@dataclass(frozen=True)
class ClassDetails:
    """A classification's predictions, counted; the arrays are [classes] and follow the names in `classes`.

    A class that has no samples and is never predicted has NaN as precision, recall and F1; of one that has only one of
    the two, the undefined number is 0, as in scikit-learn and torchmetrics.
    """

    classes: tuple[str, ...]
    predictions: ClassPredictions

    @cached_property
    def confusion(self) -> Labels:
        """How many samples of each class were predicted as which, int64 [classes, classes]: rows are true classes."""
        count = len(self.classes)
        return np.bincount(self._pairs, minlength=count * count).reshape(count, count)

    @property
    def _pairs(self) -> Labels:
        return self.predictions.true * len(self.classes) + self.predictions.predicted

    @cached_property
    def correct(self) -> Labels:
        """Samples of each class that were predicted as it."""
        true, predicted = self.predictions.true, self.predictions.predicted
        return np.bincount(true[true == predicted], minlength=len(self.classes))

    @cached_property
    def support(self) -> Labels:
        """Samples of each class."""
        return np.bincount(self.predictions.true, minlength=len(self.classes))

    @cached_property
    def claimed(self) -> Labels:
        """Samples that were predicted as each class."""
        return np.bincount(self.predictions.predicted, minlength=len(self.classes))

    @property
    def precision(self) -> Numbers:
        """Correct ones among the samples predicted as each class."""
        return self._share(self.correct, self.claimed)

    @property
    def recall(self) -> Numbers:
        """Correct ones among the samples of each class."""
        return self._share(self.correct, self.support)

    @property
    def f1(self) -> Numbers:
        """Harmonic mean of the two: 2 * correct / (samples + predictions)."""
        return self._share(2 * self.correct, self.support + self.claimed)

    def _share(self, part: Labels, whole: Labels) -> Numbers:
        occurs = self.support + self.claimed > 0
        return np.where(occurs, part / np.maximum(whole, 1), np.nan)

    @property
    def accuracy(self) -> float:
        """Share of correct predictions."""
        return float(np.mean(self.predictions.true == self.predictions.predicted))

    @property
    def top5(self) -> float | None:
        """Share of samples whose class is among the five most probable; None for up to five classes."""
        if len(self.classes) <= self.predictions.ranked.shape[1]:
            return None
        return float(np.mean((self.predictions.ranked == self.predictions.true[:, None]).any(axis=1)))

    @property
    def ece(self) -> float:
        """Expected calibration error, 0 to 1: see `calibration_error`."""
        return calibration_error(self.predictions.confidence, self.predictions.true == self.predictions.predicted)

    def mean(self, values: Numbers, *, weighted: bool = False) -> float:
        """Mean of `values` [classes] over the classes that occur, `weighted` by their samples or not (macro)."""
        known = ~np.isnan(values)
        return float(np.average(values[known], weights=self.support[known] if weighted else None))

    def metrics(self) -> dict[str, float]:
        """The headline numbers by name."""
        found = {
            "accuracy": self.accuracy, "top5": self.top5, "macro_precision": self.mean(self.precision),
            "macro_recall": self.mean(self.recall), "macro_f1": self.mean(self.f1), "ece": self.ece,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}

    def mistakes(self) -> Labels:
        """Numbers of the wrongly predicted samples, the most confident first, int64 [mistakes]."""
        wrong = np.flatnonzero(self.predictions.true != self.predictions.predicted)
        return wrong[np.argsort(-self.predictions.confidence[wrong], kind="stable")]

    def confusions(self, at_most: int | None = None) -> list[tuple[int, int, int]]:
        """(true class, predicted class, samples) of the mistakes that occur, the most frequent first."""
        wrong = self.predictions.true != self.predictions.predicted
        pairs, counts = np.unique(self._pairs[wrong], return_counts=True)
        order = np.argsort(-counts, kind="stable")[:at_most]
        count = len(self.classes)
        return [(int(pairs[i] // count), int(pairs[i] % count), int(counts[i])) for i in order]


def calibration_error(confidence: NDArray[np.float32], correct: NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error: sum over bins of (samples / all) * |accuracy - mean confidence|, in [0, 1].

    `confidence` [n] is the probability of the predicted class, in [0, 1]; the bins have equal width, and confidence 1
    has one of its own, as in torchmetrics. Naeini et al. 2015, https://arxiv.org/abs/1706.04599 (equation 3).

    >>> calibration_error(np.array([0.9, 0.9], dtype=np.float32), np.array([True, False])).__round__(6)
    0.4
    """
    edges = np.linspace(0, 1, bins + 1, dtype=np.float32)
    bin_ = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins)
    gap = np.bincount(bin_, weights=correct.astype(np.float64) - confidence.astype(np.float64), minlength=bins + 1)
    return float(np.abs(gap).sum() / len(confidence))


@dataclass(frozen=True)
class LabelDetails:
    """Predictions of several labels, counted at a probability of 0.5; the arrays are [labels]."""

    classes: tuple[str, ...]
    predictions: OutputPredictions

    @cached_property
    def counts(self) -> dict[str, Labels]:
        """Of each label: "tp", "fp" (predicted, not there), "fn" (there, not predicted) and "tn"."""
        there, said = self.predictions.true > 0.5, self.predictions.predicted >= 0.5
        pairs = {"tp": there & said, "fp": ~there & said, "fn": there & ~said, "tn": ~there & ~said}
        return {name: found.sum(axis=0) for name, found in pairs.items()}

    @property
    def support(self) -> Labels:
        """Samples that have each label."""
        return self.counts["tp"] + self.counts["fn"]

    @property
    def precision(self) -> Numbers:
        """Correct ones among the samples predicted to have each label; 0 where there are none."""
        return _ratio(self.counts["tp"], self.counts["tp"] + self.counts["fp"])

    @property
    def recall(self) -> Numbers:
        """Correct ones among the samples that have each label; 0 where there are none."""
        return _ratio(self.counts["tp"], self.support)

    @property
    def f1(self) -> Numbers:
        """Harmonic mean of the two."""
        return _ratio(2 * self.counts["tp"], 2 * self.counts["tp"] + self.counts["fp"] + self.counts["fn"])

    def mean(self, values: Numbers) -> float:
        """Mean of `values` [labels] over the labels that some sample has or is predicted to have; NaN without any."""
        occurs = self.counts["tp"] + self.counts["fp"] + self.counts["fn"] > 0
        return float(values[occurs].mean()) if occurs.any() else float("nan")

    def metrics(self) -> dict[str, float]:
        """The headline numbers by name; those of `label_metrics` are the logged ones."""
        logged = label_metrics(torch.from_numpy(self.predictions.predicted), torch.from_numpy(self.predictions.true))
        return {"macro_precision": self.mean(self.precision), "macro_recall": self.mean(self.recall), **logged}

    def mistakes(self) -> NDArray[np.int64]:
        """(sample, label) of the wrong answers, the most confident first, int64 [mistakes, 2]."""
        off = np.abs(self.predictions.predicted - self.predictions.true)
        found = np.argwhere((self.predictions.true > 0.5) != (self.predictions.predicted >= 0.5))
        return found[np.argsort(-off[found[:, 0], found[:, 1]], kind="stable")]


@dataclass(frozen=True)
class NumberDetails:
    """Predictions of numbers, in their unit; the arrays are [outputs]."""

    classes: tuple[str, ...]  # names of the outputs
    predictions: OutputPredictions

    @property
    def errors(self) -> Numbers:
        """Predicted minus true, [n, outputs]."""
        return self.predictions.predicted.astype(np.float64) - self.predictions.true

    @property
    def rmse(self) -> Numbers:
        """Root of the mean squared error."""
        return np.asarray(np.sqrt(np.mean(self.errors**2, axis=0)))

    @property
    def mae(self) -> Numbers:
        """Mean absolute error."""
        return np.asarray(np.mean(np.abs(self.errors), axis=0))

    @property
    def r2(self) -> Numbers:
        """1 - squared error / variance of the true numbers; NaN where these do not vary."""
        spread = self.predictions.true.astype(np.float64).var(axis=0)
        return np.where(spread > 0, 1 - self.rmse**2 / np.where(spread > 0, spread, 1), np.nan)

    def metrics(self) -> dict[str, float]:
        """The headline numbers by name, means over the outputs: the logged ones."""
        return number_metrics(torch.from_numpy(self.predictions.predicted), torch.from_numpy(self.predictions.true))

    def mistakes(self) -> NDArray[np.int64]:
        """Numbers of the samples, the largest error first; of several outputs each counts in units of its RMSE."""
        scaled = np.abs(self.errors) / np.where(self.rmse > 0, self.rmse, 1)
        return np.argsort(-scaled.max(axis=1), kind="stable")


Details = ClassDetails | LabelDetails | NumberDetails


def details_of(task: Task, classes: tuple[str, ...], predictions: Predictions) -> Details:
    """What `predictions` of a `task` say; `classes` are the names of the outputs."""
    if isinstance(predictions, ClassPredictions):
        return ClassDetails(classes, predictions)
    return LabelDetails(classes, predictions) if task == "multilabel" else NumberDetails(classes, predictions)


def _ratio(part: Labels, whole: Labels) -> Numbers:
    return np.asarray(part / np.maximum(whole, 1), dtype=np.float64)
