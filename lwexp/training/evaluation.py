"""Evaluation of a model on a split: its loss and the metrics of its task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from lwexp.data import Batch, EpochSampler, Inputs, call, predictions_of, to_device
from lwexp.distributed.world import SINGLE, World
from lwexp.tasks import Task

from .loss import BatchWeight, summed
from .measures import OwnMetrics, mean_f1, task_metrics

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
    own: OwnMetrics | None = None,
) -> dict[str, float]:
    """Mean loss and the metrics of the task over a split, as `<split>/loss`, …: accuracy and macro F1 of classes.

    The mean does not depend on how the split is cut into batches: it divides by the class weights of all its samples.
    `batches` come in the order of `sampler`; where several processes evaluate, each has its shard of every batch.
    Forward passes, `scores_of(model, inputs)`, run in `context`. `each` gets this process's part of every
    batch, on the device. The task is that of `loss`; `own` are metrics of the user's own.
    """
    task: Task = getattr(loss, "task", "classification")
    kept: list[tuple[Tensor, Tensor]] = []  # predictions and targets, where they are needed at the end
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
            targets.append(labels[: last - first])
            if task == "classification":
                predictions.append(scores.argmax(dim=1)[: last - first])
            if task != "classification" or own:
                found = predictions_of(scores[: last - first], task, getattr(loss, "target_scale", None))
                kept.append((found.cpu(), targets[-1].cpu()))
            if each is not None and last > first:
                each(scores[: last - first], targets[-1], done + first)
            done += size
    total, (weight,) = world.sum(torch.stack(losses).sum()), world.sum_numbers([sum(weights)])
    metrics = {"loss": (total / weight).item() if weight else math.nan}
    if task == "classification":
        counts = world.sum(class_counts(torch.cat(targets).cpu(), torch.cat(predictions).cpu(), scores.shape[1]))
        metrics |= {"accuracy": (counts[0].sum().float() / sum(sizes)).item(), "macro_f1": mean_f1(counts)}
    if task != "classification" or own:
        whole = _gathered(kept, world)
        metrics |= task_metrics(task, whole) if task != "classification" else {}
        metrics |= own.compute(whole) if own else {}
    return {f"{split}/{name}": value for name, value in metrics.items()}


def _gathered(kept: list[tuple[Tensor, Tensor]], world: World) -> list[tuple[Tensor, Tensor]]:
    """The batches of the split as they are without several processes, each of which has `kept` its shards."""
    if world.size == 1:
        return [(predictions.clone(), targets.clone()) for predictions, targets in kept]  # out of inference mode
    shards = zip(*world.all_gather(kept), strict=True)
    return [(torch.cat([part[0] for part in batch]), torch.cat([part[1] for part in batch])) for batch in shards]


def class_counts(target: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Per class, the true positives, and the samples labeled plus those predicted as it: int64 [2, classes].

    `target` and `predicted` are int64 [samples] on the CPU.
    """
    correct = torch.bincount(target[target == predicted], minlength=classes)
    occurring = torch.bincount(target, minlength=classes) + torch.bincount(predicted, minlength=classes)
    return torch.stack([correct, occurring])
