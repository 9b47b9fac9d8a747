"""What the name of a metric says of it: whether a low value is good, and between which values it lies."""

from __future__ import annotations

import math
import re

_LOWER = {
    "loss", "error", "errors", "err", "mse", "rmse", "mae", "mape", "msle", "rmsle", "nll", "bce", "ce", "entropy",
    "crossentropy", "perplexity", "ppl", "ece", "mce", "brier", "wer", "cer", "fid", "bpb", "bpc", "hamming",
    "distance",
}  # fmt: skip
_SHARES = {
    "accuracy", "acc", "acc1", "acc5", "top1", "top5", "f1", "precision", "recall", "sensitivity", "specificity",
    "auroc", "auc", "roc", "map", "map50", "ap", "iou", "miou", "dice", "jaccard", "ece", "hamming",
}  # fmt: skip
_SIGNED = {"mcc", "matthews", "kappa", "pearson", "spearman", "kendall", "correlation", "corr"}
_AT_MOST_ONE = {"r2", "r2score", "nse"}


def lower_is_better(metric: str) -> bool:
    """Whether a low value of `metric` is a good one, by the words of its name.

    >>> [lower_is_better(name) for name in ("val/loss", "rmse", "top5_error", "accuracy", "mAP")]
    [True, True, True, False, False]
    """
    return bool(_words(metric) & _LOWER)


def is_share(metric: str) -> bool:
    """Whether `metric` is a share of something, which reads best in percent.

    >>> [is_share(name) for name in ("accuracy", "val_acc", "macro_f1", "loss", "top5_error", "r2")]
    [True, True, True, False, True, False]
    """
    return bool(_words(metric) & _SHARES)


def value_range(metric: str) -> tuple[float, float]:
    """Between which values `metric` lies, by the words of its name; infinite where the name does not say.

    >>> [value_range(name) for name in ("val/accuracy", "loss", "cohen_kappa", "r2", "score")]
    [(0.0, 1.0), (0.0, inf), (-1.0, 1.0), (-inf, 1.0), (-inf, inf)]
    """
    words = _words(metric)
    if words & _SHARES:
        return 0.0, 1.0
    if words & _LOWER:
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
