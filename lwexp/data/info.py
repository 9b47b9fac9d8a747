"""What a model needs to know about the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lwexp.tasks import Task

from .tokens import Tokens


@dataclass(frozen=True)
class TargetScale:
    """Mean and standard deviation of the training targets, one of each for every number to predict.

    A model learns (target - mean) / std, so that the same learning rates suit grams and kilometers; its outputs times
    `std` plus `mean` are in the unit of the data.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, targets: Tensor) -> TargetScale:
        """That of the training targets, float32 [n, numbers]; of a number that never varies, the deviation is 1.

        >>> TargetScale.of(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        TargetScale(mean=(2.0, 5.0), std=(1.0, 1.0))
        """
        std = targets.double().std(dim=0, correction=0)
        return cls(tuple(targets.double().mean(dim=0).tolist()), tuple(torch.where(std > 0, std, 1.0).tolist()))


@dataclass(frozen=True)
class DataInfo:
    """What a model needs to know about the data.

    `channels`: 1 (gray) or 3 (RGB), 0 for texts; `classes`: names of the model's outputs, which `task` makes classes,
    labels, or numbers to predict; `sizes`: samples in "train", "val" and, if
    it exists, "test"; `image_size`: side in pixels, None for the model's own; `mean`, `std`: of the training images'
    values in [0, 1], one per channel, None if not measured; `tokens`: the tokenizer, None for images; `scale`: of a
    regression, from the model's output to the numbers in their own unit, else None; `ready`: samples are tensors that
    are used as they are, without preprocessing.
    """

    channels: int
    classes: tuple[str, ...]
    sizes: Mapping[str, int]
    image_size: int | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    tokens: Tokens | None = None
    task: Task = "classification"
    scale: TargetScale | None = None
    ready: bool = False

    def predictions(self, scores: Tensor) -> Tensor:
        """See `predictions_of`."""
        return predictions_of(scores, self.task, self.scale)

    @property
    def kind(self) -> Literal["image", "text"]:
        """Kind of the inputs."""
        return "image" if self.tokens is None else "text"


def predictions_of(scores: Tensor, task: Task, scale: TargetScale | None = None) -> Tensor:
    """A model's outputs [n, outputs] as predictions, float32: probabilities of classes or labels, or the numbers.

    >>> predictions_of(torch.tensor([[0.0], [2.0]]), "regression", TargetScale((10.0,), (3.0,))).tolist()
    [[10.0], [16.0]]
    """
    scores = scores.float()
    if task == "classification":
        return scores.softmax(dim=1)
    if task == "multilabel":
        return scores.sigmoid()
    return scores if scale is None else scores * scores.new_tensor(scale.std) + scores.new_tensor(scale.mean)
