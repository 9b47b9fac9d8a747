"""Evaluation of a model on a split: loss, accuracy and macro F1, and which of two results is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from lwexp.data import Batch, EpochSampler, call, to_device
from lwexp.distributed.world import SINGLE, World

from .loss import BatchWeight

METRICS = ("val/loss", "val/accuracy", "val/macro_f1")  # of an evaluation on the validation split


def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    sampler: EpochSampler,
    loss: nn.Module,
    split: str,
    *,
    device: torch.device,
    context: AbstractContextManager[object],
    world: World = SINGLE,
) -> dict[str, float]:
    """Mean loss, accuracy and macro F1 over a split, as `<split>/loss`, …

    `batches` come in the order of `sampler`; where several processes evaluate, each has its shard of every batch.
    Forward passes run in `context`.
    """
    model.eval()
    weigh, sizes = BatchWeight(loss), sampler.batch_sizes()
    losses, weights, guesses, answers = [], [], [], []
    with context:
        for batch, size in zip(batches, sizes, strict=True):
            inputs, labels = to_device(batch, device)
            scores = call(model, inputs)
            losses.append(loss(scores, labels))
            first, last = sampler.shard.bounds(size)  # nothing between them: a sample is there, and does not count
            weights.append(weigh(batch[1][: last - first]) if world.size > 1 else 1.0)
            guesses.append(scores.argmax(dim=1)[: last - first])
            answers.append(labels[: last - first])
    guess, answer = torch.cat(guesses).cpu(), torch.cat(answers).cpu()
    means = torch.stack(losses)
    if world.size > 1:
        means = _whole_means(means, torch.tensor(weights, dtype=torch.float64), world)
    counts = world.sum(_class_counts(answer, guess, scores.shape[1]))
    samples = sum(sizes)
    return {
        f"{split}/loss": ((means * torch.tensor(sizes, device=means.device)).sum() / samples).item(),
        f"{split}/accuracy": (counts[0].sum().float() / samples).item(),
        f"{split}/macro_f1": _macro_f1(counts),
    }


def _whole_means(means: Tensor, weights: Tensor, world: World) -> Tensor:
    """The mean loss of each whole batch, [batches], from those of this process's shards and the shards' weights."""
    sums = torch.where(weights > 0, means.double().cpu() * weights, 0.0)
    loss, weight = world.sum(torch.stack([sums, weights]))
    whole: Tensor = loss / weight
    return whole.to(means.dtype)


def _class_counts(answer: Tensor, guess: Tensor, classes: int) -> Tensor:
    """For each class how often it was guessed rightly, and how often it was answered or guessed: int64 [2, classes].

    `answer` and `guess` are int64 [n] on the CPU.
    """
    right = torch.bincount(answer[answer == guess], minlength=classes)
    return torch.stack([right, torch.bincount(answer, minlength=classes) + torch.bincount(guess, minlength=classes)])


def macro_f1(answer: Tensor, guess: Tensor) -> float:
    """Mean over the classes, of those that occur in `answer` or `guess`, of 2·right / (answered + guessed).

    Both are int64 [n]. https://scikit-learn.org/stable/modules/generated/sklearn.metrics.f1_score.html

    >>> macro_f1(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]))
    0.7333333333333334
    """
    return _macro_f1(_class_counts(answer, guess, int(torch.cat([answer, guess]).max()) + 1))


def _macro_f1(counts: Tensor) -> float:
    right, together = counts[:, counts[1] > 0]
    return float((2 * right.double() / together).mean())


def rank(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Higher is better: accuracy, then a low loss."""
    loss = metrics["val/loss"]
    return metrics["val/accuracy"], -loss if math.isfinite(loss) else -math.inf
