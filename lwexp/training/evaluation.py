"""Evaluation of a model on a split: loss, accuracy and macro F1."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from lwexp.data import Batch, EpochSampler, Inputs, call, to_device
from lwexp.distributed.world import SINGLE, World

from .loss import BatchWeight, summed

EachBatch = Callable[[Tensor, Tensor, int], None]
"""Receives what an evaluation computes: a batch's scores and labels, and the number of its first sample."""


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
    each: EachBatch | None = None,
    scores_of: Callable[[nn.Module, Inputs], Tensor] = call,
) -> dict[str, float]:
    """Mean loss, accuracy and macro F1 over a split, as `<split>/loss`, …

    The mean does not depend on how the split is cut into batches: it divides by the class weights of all its samples.
    `batches` come in the order of `sampler`; where several processes evaluate, each has its shard of every batch.
    Forward passes, `scores_of(model, inputs)`, run in `context`. `each` gets this process's part of every
    batch, on the device.
    """
    model.eval()
    weigh, sizes = BatchWeight(loss), sampler.batch_sizes()
    losses, weights, predictions, targets, done = [], [], [], [], 0
    with context:
        for batch, size in zip(batches, sizes, strict=True):
            inputs, labels = to_device(batch, device)
            scores = scores_of(model, inputs)
            first, last = sampler.shard.bounds(size)  # an empty shard still gets one sample, which does not count
            weights.append(weigh(batch[1][: last - first]))
            losses.append(summed(loss, scores, labels, weights[-1]) if last > first else scores.new_zeros(()))
            predictions.append(scores.argmax(dim=1)[: last - first])
            targets.append(labels[: last - first])
            if each is not None and last > first:
                each(scores[: last - first], targets[-1], done + first)
            done += size
    predicted, target = torch.cat(predictions).cpu(), torch.cat(targets).cpu()
    total, (weight,) = world.sum(torch.stack(losses).sum()), world.sum_numbers([sum(weights)])
    counts = world.sum(_class_counts(target, predicted, scores.shape[1]))
    samples = sum(sizes)
    return {
        f"{split}/loss": (total / weight).item() if weight else math.nan,
        f"{split}/accuracy": (counts[0].sum().float() / samples).item(),
        f"{split}/macro_f1": _macro_f1(counts),
    }


def _class_counts(target: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Per class, the true positives, and the samples labeled plus those predicted as it: int64 [2, classes].

    `target` and `predicted` are int64 [samples] on the CPU.
    """
    correct = torch.bincount(target[target == predicted], minlength=classes)
    occurring = torch.bincount(target, minlength=classes) + torch.bincount(predicted, minlength=classes)
    return torch.stack([correct, occurring])


def macro_f1(target: Tensor, predicted: Tensor) -> float:
    """Mean over the classes that occur in `target` or `predicted` of 2 * true positives / (labeled + predicted).

    Both are int64 [samples]. https://scikit-learn.org/stable/modules/generated/sklearn.metrics.f1_score.html

    >>> macro_f1(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]))
    0.7333333333333334
    """
    return _macro_f1(_class_counts(target, predicted, int(torch.cat([target, predicted]).max()) + 1))


def _macro_f1(counts: Tensor) -> float:
    correct, occurring = counts[:, counts[1] > 0]
    return float((2 * correct.double() / occurring).mean())
