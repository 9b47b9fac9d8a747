"""What a model predicts for the samples of a split, kept while an evaluation runs: no second pass is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwexp.data import TargetScale, predictions_of
from lwexp.distributed.world import SINGLE, World
from lwexp.tasks import Task

TOP = 5  # so many most probable classes are kept of each sample: memory does not grow with the classes

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ClassPredictions:
    """Of a classification, in the order of the samples; k is `TOP`, or all classes if they are fewer."""

    true: Labels  # [n]
    ranked: Labels  # [n, k], the most probable class first
    probabilities: Floats  # [n, k], of those classes
    of_true: Floats  # [n], the probability of the true class

    @property
    def predicted(self) -> Labels:
        """The most probable class of each sample, int64 [n]."""
        return self.ranked[:, 0]

    @property
    def confidence(self) -> Floats:
        """Its probability, float32 [n]."""
        return self.probabilities[:, 0]


@dataclass(frozen=True)
class OutputPredictions:
    """Of several labels (0 or 1, and probabilities) or of numbers, in the order of the samples: both [n, outputs]."""

    true: Floats
    predicted: Floats


Predictions = ClassPredictions | OutputPredictions


class PredictionKeeper:
    """Keeps the predictions of an evaluation; it is the `each` of `lwexp.training.evaluation.evaluate`.

    Probabilities are the softmax of the scores, of several labels the sigmoid.
    """

    def __init__(self, task: Task = "classification", scale: TargetScale | None = None) -> None:
        """`scale`: of a regression, from the model's outputs to the unit of the labels."""
        self._task, self._scale = task, scale
        self._parts: list[tuple[Tensor, ...]] = []  # of each batch, on its device; the first has the samples' numbers

    def __call__(self, scores: Tensor, labels: Tensor, first: int) -> None:
        """Keep a batch: `scores` [B, outputs] for `labels`, whose first sample is number `first` of the split."""
        numbers = torch.arange(first, first + len(scores))
        self._parts.append((numbers, *self._kept(scores.detach().float(), labels)))

    def gather(self, world: World = SINGLE) -> Predictions:
        """The predictions of all ranks, in the order of the samples; every rank must call this."""
        own: Any = None
        if self._parts:
            own = tuple(torch.cat([part.cpu() for part in parts]).numpy() for parts in zip(*self._parts, strict=True))
        parts = [part for part in world.all_gather(own) if part is not None]
        numbers, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(numbers, kind="stable")
        sort = [column[order] for column in columns]
        return ClassPredictions(*sort) if self._task == "classification" else OutputPredictions(*sort)

    def _kept(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        if self._task != "classification":
            values = predictions_of(scores, self._task, self._scale)
            return labels.float().reshape(len(labels), -1), values.reshape(len(scores), -1)
        best = scores.argmax(dim=1, keepdim=True)  # first also among equals: it is what the accuracy counts
        ranked = scores.topk(min(TOP, scores.shape[1]), dim=1).indices
        ranked = ranked.gather(1, (ranked == best).int().argsort(dim=1, descending=True, stable=True))
        ranked[:, :1] = best
        chosen = torch.cat([ranked, labels[:, None]], dim=1)
        probabilities = (scores.gather(1, chosen) - scores.logsumexp(dim=1, keepdim=True)).exp()
        return labels, ranked, probabilities[:, :-1], probabilities[:, -1]
