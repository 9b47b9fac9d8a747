"""Judging a model on a split: loss, accuracy and macro F1, and which of two results is the better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from .data import EpochLoader, call, to_device


def evaluate(
    model: nn.Module,
    loader: EpochLoader,
    loss: nn.Module,
    split: str,
    *,
    device: torch.device,
    autocast: AbstractContextManager[object],
    between: Callable[[], None],
) -> dict[str, float]:
    """Mean loss, accuracy and macro F1 over a split, as `<split>/loss`, …; `between` is called before each batch."""
    model.eval()
    losses, guesses, answers = [], [], []
    with torch.inference_mode(), autocast:
        for batch in loader:
            between()
            inputs, labels = to_device(batch, device)
            scores = call(model, inputs)
            losses.append(loss(scores, labels) * len(labels))
            guesses.append(scores.argmax(dim=1))
            answers.append(labels)
    guess, answer = torch.cat(guesses).cpu(), torch.cat(answers).cpu()
    return {
        f"{split}/loss": (torch.stack(losses).sum() / len(answer)).item(),
        f"{split}/accuracy": (guess == answer).float().mean().item(),
        f"{split}/macro_f1": macro_f1(answer, guess),
    }


def macro_f1(answer: Tensor, guess: Tensor) -> float:
    """Mean over the classes, of those that occur in `answer` or `guess`, of 2·right / (answered + guessed).

    Both are int64 [n]. https://scikit-learn.org/stable/modules/generated/sklearn.metrics.f1_score.html

    >>> macro_f1(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]))
    0.7333333333333334
    """
    classes = int(torch.cat([answer, guess]).max()) + 1
    right = torch.bincount(answer[answer == guess], minlength=classes)
    together = torch.bincount(answer, minlength=classes) + torch.bincount(guess, minlength=classes)
    occurring = together > 0
    return float((2 * right[occurring].double() / together[occurring]).mean())


def rank(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Higher is better: accuracy, then a low loss."""
    loss = metrics["val/loss"]
    return metrics["val/accuracy"], -loss if math.isfinite(loss) else -math.inf
