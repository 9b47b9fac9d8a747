"""Metrics of predictions with several labels and of numbers, and those of the user's own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lwexp.errors import ConfigError, LwexpError, RunError
from lwexp.formatting import one_line
from lwexp.tasks import MAIN, METRICS, Task

Predicted = Sequence[tuple[Tensor, Tensor]]
"""Predictions and targets of each batch of a split, in order, on the CPU."""


def label_metrics(probabilities: Tensor, targets: Tensor) -> dict[str, float]:
    """Mean average precision, macro and micro F1 and the share of samples with all labels right.

    Both are [samples, labels], of probabilities and of 0 and 1; a label is predicted from 0.5 on. Labels that no sample
    has do not count for the mean average precision, nor, unless they are predicted, for the macro F1.

    >>> label_metrics(torch.tensor([[0.9, 0.2], [0.4, 0.8]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    {'map': 1.0, 'macro_f1': 0.8333333333333333, 'micro_f1': 0.8, 'exact_match': 0.5}
    """
    from torchmetrics.functional.classification import binary_average_precision

    truth, predicted = targets > 0.5, probabilities >= 0.5
    precisions = [
        float(binary_average_precision(probabilities[:, label], truth[:, label].long(), validate_args=False))
        for label in truth.any(dim=0).nonzero().flatten().tolist()
    ]
    hits, occurring = (truth & predicted).sum(dim=0), truth.sum(dim=0) + predicted.sum(dim=0)
    counts = torch.stack([hits, occurring])
    return {
        "map": math.fsum(precisions) / len(precisions) if precisions else math.nan,
        "macro_f1": mean_f1(counts),
        "micro_f1": mean_f1(counts.sum(dim=1, keepdim=True)),
        "exact_match": float((truth == predicted).all(dim=1).double().mean()),
    }


def mean_f1(counts: Tensor) -> float:
    """Mean over the classes that occur of 2 * true positives / (labeled + predicted); `counts` are both, [2, classes].

    NaN where none occurs.
    """
    correct, occurring = counts[:, counts[1] > 0]
    return float((2 * correct.double() / occurring).mean())


def number_metrics(predictions: Tensor, targets: Tensor) -> dict[str, float]:
    """Root mean squared error, mean absolute error and R², each the mean over the numbers; both [samples, numbers].

    >>> number_metrics(torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([[1.0], [2.0], [3.0]]))
    {'rmse': 1.7320508075688772, 'mae': 1.0, 'r2': -3.5}
    """
    from torchmetrics.functional import mean_absolute_error, mean_squared_error, r2_score

    predictions, targets = predictions.double(), targets.double()
    count = targets.shape[1]
    squared = mean_squared_error(predictions, targets, num_outputs=count)
    absolute = mean_absolute_error(predictions, targets, num_outputs=count)
    return {
        "rmse": float(squared.sqrt().mean()),
        "mae": float(absolute.mean()),
        "r2": float(r2_score(predictions, targets)) if len(targets) > 1 else math.nan,
    }


def task_metrics(task: Task, predicted: Predicted) -> dict[str, float]:
    """The metrics of several labels or of numbers over a split, by name."""
    predictions, targets = (torch.cat(parts) for parts in zip(*predicted, strict=True))
    return label_metrics(predictions, targets) if task == "multilabel" else number_metrics(predictions, targets)


class OwnMetrics:
    """Metrics of the user's own, by name: torchmetrics', or any objects with `update`, `compute` and `reset`.

    They receive what torchmetrics takes: probabilities [n, classes] and classes int64 [n]; probabilities [n, labels]
    and 0 or 1, int64 [n, labels]; or numbers float32 [n], of several [n, numbers], twice. Whatever they draw at random
    leaves torch's generator as it was. Where several processes evaluate, each computes them of the whole split.
    """

    def __init__(self, metrics: Mapping[str, Any], task: Task, outputs: int) -> None:
        """Try each on a few predictions of a model with `outputs`. Raises `ConfigError`."""
        self._metrics, self._task = dict(metrics), task
        generator = torch.Generator().manual_seed(0)
        scores = torch.rand(16, outputs, generator=generator)
        labels = {"classification": torch.arange(16) % outputs, "multilabel": (scores > 0.5).float()}
        for name, metric in self._metrics.items():
            missing = [event for event in ("update", "compute", "reset") if not callable(getattr(metric, event, None))]
            if missing:
                why = f"a {type(metric).__name__} has no {', '.join(missing)}; torchmetrics' classes have them"
                raise ConfigError(f"metrics.{name}", type(metric).__name__, why)
            parts: Any = metric.modules() if isinstance(metric, torch.nn.Module) else ()
            for part in parts:
                if hasattr(part, "distributed_available_fn"):  # it receives the predictions of all processes already
                    part.distributed_available_fn = _never
            try:
                found = self._value(name, [(scores, labels.get(task, scores.flip(0)))])
            except Exception as error:  # any class of the user's
                shown = one_line(error, kind=not isinstance(error, LwexpError))
                why = f"does not fit {outputs} {_OUTPUTS[task]}: {shown}"
                raise ConfigError(f"metrics.{name}", type(metric).__name__, why) from error
            for each in found:
                if each != name and each in self._metrics:
                    raise ConfigError(
                        f"metrics.{name}", each, f"it gives a metric of that name, as metrics.{each} does"
                    )
                _check_meaning(f"metrics.{name}", each, task)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._metrics)

    def compute(self, predicted: Predicted) -> dict[str, float]:
        """Their values over a split, by name. Raises `RunError`."""
        found: dict[str, float] = {}
        for name in self._metrics:
            try:
                found |= self._value(name, predicted)
            except Exception as error:  # any class of the user's
                raise RunError(f"metrics.{name}: fails: {one_line(error, kind=True)}") from error
        return found

    def _value(self, name: str, predicted: Predicted) -> dict[str, float]:
        metric = self._metrics[name]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            metric.reset()
            for predictions, targets in self._given(predicted):
                metric.update(predictions, targets)
            value = metric.compute()
            metric.reset()
        if isinstance(value, Mapping):
            return {f"{name}_{key}": _number(each) for key, each in value.items()}
        return {name: _number(value)}

    def _given(self, predicted: Predicted) -> Iterator[tuple[Tensor, Tensor]]:
        for predictions, targets in predicted:
            if self._task == "regression" and targets.shape[1] == 1:
                yield predictions.flatten(), targets.flatten()
            else:
                yield predictions, targets if self._task == "regression" else targets.long()


_OUTPUTS: Mapping[Task, str] = {
    "classification": "classes",
    "multilabel": "labels of each sample",
    "regression": "numbers to predict",
}


_TAKEN = ("top5", "ece", "epoch", "step")


def check_names(names: Iterable[str], task: Task) -> None:
    """Raise `ConfigError` for a name of a metric that means something else, or that MLflow refuses."""
    for name in names:
        _check_meaning(f"metrics.{name}", name, task)
        if not name or not all(character.isalnum() or character in "_-. " for character in name):
            raise ConfigError(f"metrics.{name}", name, "a name has letters, digits, and the characters _ - . only")


def _check_meaning(key: str, name: str, task: Task) -> None:
    if name in METRICS[task]:
        raise ConfigError(key, name, "every evaluation has a metric of that name; choose another")
    for other, main in MAIN.items():
        if name == main.name:  # by which the task of a run is known later
            raise ConfigError(key, name, f"is the main metric of another task, {other}; choose another name")
    if name in _TAKEN:
        raise ConfigError(key, name, "lwexp logs something else by that name; choose another")


def _never() -> bool:
    return False


def _number(value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"it computes {value.numel()} numbers, not one; torchmetrics' average=macro gives their mean")
    return float(value)
