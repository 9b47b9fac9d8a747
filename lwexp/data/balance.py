"""An epoch in which all classes are equally frequent."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .keys import SampleKey

_REPEAT = 2**32  # epochs apart: a sample that is drawn again in an epoch is augmented in another way


def balanced_order(labels: Tensor, epoch: int, generator: torch.Generator) -> list[SampleKey]:
    """As many samples as there are `labels`, int64 [n], of every class equally many, or one more; in random order.

    A class's samples are drawn without replacement until all were drawn, then again. Which classes have one more is
    drawn as well.

    >>> keys = balanced_order(torch.tensor([0, 0, 0, 0, 0, 1]), 0, torch.Generator().manual_seed(0))
    >>> sorted(key.sample for key in keys)[-3:]
    [5, 5, 5]
    """
    classes = sorted(set(labels.tolist()))
    each, more = divmod(len(labels), len(classes))
    lucky = set(torch.randperm(len(classes), generator=generator)[:more].tolist())
    keys = [
        key
        for number, label in enumerate(classes)
        for key in _draw((labels == label).nonzero().flatten(), each + (number in lucky), epoch, generator)
    ]
    return [keys[place] for place in torch.randperm(len(keys), generator=generator).tolist()]


def _draw(positions: Tensor, count: int, epoch: int, generator: torch.Generator) -> Iterator[SampleKey]:
    for start in range(0, count, len(positions)):
        order = positions[torch.randperm(len(positions), generator=generator)][: count - start]
        repeat = start // len(positions)
        yield from (SampleKey(epoch + repeat * _REPEAT, sample) for sample in order.tolist())
