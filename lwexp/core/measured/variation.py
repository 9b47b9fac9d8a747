"""The numbers of `auto_lr`: how far the weights of layers moved, whether in the right order, and rates for that.

All lists go from the stem to the head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def variation(changes: Iterable[Tensor], *, root_mean_square: bool = False) -> float:
    """By how much the weights of a layer have changed: the norm of all `changes` ÷ the count of weights.

    With `root_mean_square` ÷ the root of the count: then layers of any size count alike.

    >>> variation([torch.full((2, 2), 3.0)]), variation([torch.full((2, 2), 3.0)], root_mean_square=True)
    (1.5, 3.0)
    """
    squares, count = 0.0, 0
    for change in changes:
        squares += torch.linalg.vector_norm(change.float()).item() ** 2
        count += change.numel()
    return math.sqrt(squares / count) if root_mean_square else math.sqrt(squares) / count


def sorting_quality(variations: Sequence[float]) -> float:
    """How well `variations` rise: 1 if each is above the one before, about 0 if all fall.

    1 - 2 / K**2 * sum of |i - o[i]|, with K layers, and o[i] the place of the layer with the i-th smallest one.

    >>> sorting_quality([1.0, 2.0, 3.0, 4.0]), sorting_quality([4.0, 3.0, 2.0, 1.0])
    (1.0, 0.0)
    """
    order = sorted(range(len(variations)), key=lambda i: variations[i])
    return 1.0 - 2.0 * sum(abs(i - o) for i, o in enumerate(order)) / len(variations) ** 2


def even_targets(variations: Sequence[float], *, bottom: float, top: float) -> list[float]:
    """Variations in equal steps, from `bottom` times the smallest of `variations` to `top` times the largest.

    Where that would fall, since all are alike, from the smallest to the largest.

    >>> even_targets([1.0, 10.0, 5.0], bottom=2, top=0.4)
    [2.0, 3.0, 4.0]
    """
    low, high = min(variations) * bottom, max(variations) * top
    if low >= high:
        low, high = min(variations), max(variations)
    step = (high - low) / (len(variations) - 1)
    return [low + i * step for i in range(len(variations))]


def mended_targets(variations: Sequence[float]) -> list[float]:
    """`variations` where they rise; from the middle outwards, one out of order is put a step beside its neighbor.

    A step is their range ÷ (count - 1). Where it would lead to zero or below, which is no change that a rate can reach,
    half the neighbor's is taken.

    >>> mended_targets([4.0, 5.0, 3.0, 2.0, 9.0])
    [0.625, 1.25, 3.0, 4.75, 9.0]
    """
    targets = list(variations)
    step, middle = (max(targets) - min(targets)) / (len(targets) - 1), len(targets) // 2
    for i in range(middle, 0, -1):
        if targets[i] < targets[i - 1]:
            below = targets[i] - step
            targets[i - 1] = below if below > 0 else targets[i] / 2
    for i in range(middle, len(targets) - 1):
        if targets[i] > targets[i + 1]:
            targets[i + 1] = targets[i] + step
    return targets


def new_rates(rates: Sequence[float], variations: Sequence[float], targets: Sequence[float]) -> list[float]:
    """The rates at which layers would change by `targets`, as the change is about proportional to the rate.

    >>> new_rates([0.1, 0.1], [2.0, 1.0], [1.0, 3.0])
    [0.05, 0.30000000000000004]
    """
    return [rate * target / own for rate, own, target in zip(rates, variations, targets, strict=True)]
