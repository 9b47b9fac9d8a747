"""Judging a model on a split: loss, accuracy and macro F1, and which of two results is the better."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import nn

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
    drawn = random.getstate()
    from sklearn.metrics import f1_score  # scikit-learn draws random numbers when it is imported

    random.setstate(drawn)
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
        f"{split}/macro_f1": float(f1_score(answer.numpy(), guess.numpy(), average="macro", zero_division=0)),
    }


def rank(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Higher is better: accuracy, then a low loss."""
    loss = metrics["val/loss"]
    return metrics["val/accuracy"], -loss if math.isfinite(loss) else -math.inf
