"""Losses: any of `torch.nn` that compares class scores with labels, scores of labels with 0 and 1, or numbers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lwexp.data import TargetScale
from lwexp.errors import ConfigError, UnknownNameError, UnknownOptionError
from lwexp.formatting import one_line
from lwexp.tasks import Task

# What the loss compares with the labels: raw scores, log-probabilities, and labels as they are or one-hot.
_LABELS = {"CrossEntropyLoss", "MultiMarginLoss", "NLLLoss"}
_ONE_HOT = {
    "BCEWithLogitsLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss", "MultiLabelSoftMarginLoss", "SmoothL1Loss",
}  # fmt: skip
_LOG_PROBABILITIES = {"KLDivLoss", "NLLLoss"}
_FITTING: Mapping[Task, set[str]] = {
    "classification": _LABELS | _ONE_HOT,
    "multilabel": {"BCEWithLogitsLoss", "MultiLabelSoftMarginLoss"},
    "regression": {"HuberLoss", "L1Loss", "MSELoss", "SmoothL1Loss"},
}
_DEFAULT: Mapping[Task, str] = {
    "classification": "CrossEntropyLoss", "multilabel": "BCEWithLogitsLoss", "regression": "MSELoss",
}  # fmt: skip
_COMPARES: Mapping[Task, str] = {
    "classification": "does not compare class scores with labels",
    "multilabel": "does not fit data with several labels each",
    "regression": "does not fit data with numbers to predict",
}


def loss_name(name: str, task: Task) -> str:
    """The class in torch.nn that `loss.name` means; "auto" is the usual one of `task`.

    >>> loss_name("auto", "multilabel"), loss_name("L1Loss", "regression")
    ('BCEWithLogitsLoss', 'L1Loss')
    """
    return _DEFAULT[task] if name == "auto" else name


class TaskLoss(nn.Module):
    """A `torch.nn` loss on the outputs of a model, [N, classes], and the targets of its task.

    Classification: labels int64 [N], or mixed ones, float32 [N, classes]. Several labels: 0 or 1 for each, float32
    [N, classes]. Regression: numbers in their own unit, float32 [N, classes], which `scale` standardizes as
    `TargetScale` says.
    """

    scale: torch.Tensor | None

    def __init__(
        self,
        name: str,
        classes: int,
        options: Mapping[str, Any],
        task: Task = "classification",
        scale: TargetScale | None = None,
    ) -> None:
        """Build `torch.nn.<name>(**options)`; raises `ConfigError` for what the class refuses."""
        super().__init__()
        if name not in _FITTING[task]:
            exists = hasattr(nn, name) and name.endswith("Loss")
            what = _COMPARES[task] if exists else "no such loss in torch.nn"
            raise UnknownNameError("loss.name", name, {*_FITTING[task], "auto"}, what)
        self.name, self.classes, self.task, self.target_scale = name, classes, task, scale
        given = None if scale is None else torch.tensor([scale.mean, scale.std], dtype=torch.float32)
        self.register_buffer("scale", given, persistent=False)
        factory = getattr(nn, name)
        known = set(inspect.signature(factory).parameters) - {"size_average", "reduce", "reduction"}
        for option in options:
            if option not in known:
                raise UnknownOptionError(f"loss.options.{option}", options[option], known, f"{name} has no such option")
        try:
            # torch warns that the mean of KLDivLoss will become the mean over the batch
            self.loss = factory(**options, **({"reduction": "batchmean"} if name == "KLDivLoss" else {}))
            labels = torch.tensor([0, classes - 1]) if task == "classification" else torch.zeros(2, classes)
            self(torch.zeros(2, classes), labels)  # some classes validate only in forward
        except Exception as error:
            raise ConfigError("loss.options", dict(options), one_line(error)) from error

    def forward(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean loss, a scalar, in float32."""
        scores = scores.float()
        if self.name in _LOG_PROBABILITIES:
            scores = functional.log_softmax(scores, dim=1)
        targets = labels
        if self.task == "classification" and self.name in _ONE_HOT and not labels.is_floating_point():
            targets = functional.one_hot(labels, self.classes).float()
        elif self.scale is not None:
            targets = (labels - self.scale[0]) / self.scale[1]
        value: torch.Tensor = self.loss(scores, targets)
        return value


def takes_soft_labels(loss: TaskLoss) -> bool:
    """Whether `loss` compares scores with a probability for each class, as of mixed images."""
    example = torch.full((2, loss.classes), 1 / loss.classes)
    try:
        loss(torch.zeros(2, loss.classes), example)
    except Exception:  # of the loss's own kind
        return False
    return True


class BatchWeight:
    """What a mean loss divides by: the number of samples in a batch, or the sum of their class weights.

    The loss of a batch is the mean of its parts' losses, weighted by this.
    """

    def __init__(self, loss: nn.Module) -> None:
        """`loss` is a `TaskLoss` or one of torch's own."""
        inner: Any = getattr(loss, "loss", loss)
        self._is_weighted = isinstance(inner, (nn.CrossEntropyLoss, nn.NLLLoss))
        self._ignored: int | None = inner.ignore_index if self._is_weighted else None
        weights: torch.Tensor | None = inner.weight if self._is_weighted else None
        self._weights = None if weights is None else weights.detach().double().cpu()

    def __call__(self, labels: torch.Tensor) -> float:
        """The weight of a batch with `labels`, int64 [N], or float32 [N, classes], on the CPU."""
        if not self._is_weighted or labels.is_floating_point():  # of mixed labels, torch's mean is over the samples
            return float(len(labels))
        counted = labels[labels != self._ignored]
        return float(len(counted) if self._weights is None else self._weights[counted].sum())


def part_of_mean(
    loss: nn.Module, scores: torch.Tensor, labels: torch.Tensor, weight: float, total: float
) -> torch.Tensor:
    """What a part of a batch adds to the mean loss of the whole: mean * `weight` / `total`, a scalar.

    `weight` and `total` are the `BatchWeight` of the part and of the whole.
    """
    if weight == 0:
        return summed(loss, scores, labels, weight) / total
    mean: torch.Tensor = loss(scores, labels)
    return mean / (total / weight)  # exactly 1 for a whole batch


def summed(loss: nn.Module, scores: torch.Tensor, labels: torch.Tensor, weight: float) -> torch.Tensor:
    """The sum of the losses that the mean `loss` divides by `weight`, a scalar.

    Samples without weight have no mean; with label smoothing they still have a loss.
    """
    if weight > 0:
        mean: torch.Tensor = loss(scores, labels)
        return mean * weight
    inner: Any = getattr(loss, "loss", loss)
    inner.reduction = "sum"
    try:
        total: torch.Tensor = loss(scores, labels)
    finally:
        inner.reduction = "mean"
    return total


def make_loss(
    name: str,
    classes: int,
    *,
    label_smoothing: float = 0.0,
    class_weights: str | Sequence[float] | None = None,
    labels: torch.Tensor | None = None,
    options: Mapping[str, Any] | None = None,
    task: Task = "classification",
    scale: TargetScale | None = None,
) -> TaskLoss:
    """The loss `torch.nn.<name>`, or with "auto" that of `task`.

    `class_weights="balanced"` weighs by images / (classes * images of the class); where each has several labels, it is
    BCEWithLogitsLoss's `pos_weight`, images without the label / images with it. `labels` are those of the training set,
    int64 [images] or float32 [images, classes].
    """
    name = loss_name(name, task)
    given = dict(options or {})
    if label_smoothing:
        if name != "CrossEntropyLoss":
            raise ConfigError("loss.label_smoothing", label_smoothing, f"{name} has none, CrossEntropyLoss does")
        _given_once(given, "label_smoothing")
        given["label_smoothing"] = label_smoothing
    if class_weights is not None:
        known = inspect.signature(getattr(nn, name)).parameters if hasattr(nn, name) else {}
        if "weight" not in known:
            raise ConfigError("loss.class_weights", class_weights, f"{name} takes no weights of classes")
        if task == "multilabel" and isinstance(class_weights, str):
            if "pos_weight" not in known:
                raise ConfigError(
                    "loss.class_weights", class_weights, f"{name} has no pos_weight, BCEWithLogitsLoss does"
                )
            _given_once(given, "pos_weight", "class_weights")
            given["pos_weight"] = _pos_weight(labels)
        else:
            _given_once(given, "weight", "class_weights")
            given["weight"] = _weights(class_weights, classes, labels if task == "classification" else None)
    return TaskLoss(name, classes, given, task, scale)


def _given_once(options: Mapping[str, Any], option: str, key: str | None = None) -> None:
    if option in options:
        why = f"loss.{key or option} says it too; drop one"
        raise ConfigError(f"loss.options.{option}", options[option], why)


def _pos_weight(labels: torch.Tensor | None) -> torch.Tensor:
    assert labels is not None
    positive = labels.sum(dim=0).clamp(min=1)  # a label that no image has stays finite
    return (len(labels) - positive).clamp(min=1) / positive


def _weights(class_weights: str | Sequence[float], classes: int, labels: torch.Tensor | None) -> torch.Tensor:
    if isinstance(class_weights, str):
        assert labels is not None
        counts = torch.bincount(labels, minlength=classes)
        return len(labels) / (classes * counts.clamp(min=1).float())
    if len(class_weights) != classes:
        why = f"{len(class_weights)} weights for {classes} classes"
        raise ConfigError("loss.class_weights", list(class_weights), why)
    if not any(class_weights):
        raise ConfigError("loss.class_weights", list(class_weights), "at least one must be above 0")
    if labels is not None and not any(class_weights[label] for label in set(labels.tolist())):
        why = "the classes of all training samples have the weight 0"
        raise ConfigError("loss.class_weights", list(class_weights), why)
    return torch.tensor(class_weights, dtype=torch.float32)
