"""Mixup and CutMix: each image of a training batch mixed with its neighbor, and so its label.

The batches of torchvision: https://docs.pytorch.org/vision/stable/auto_examples/transforms/plot_cutmix_mixup.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .keys import SampleKey, sample_seed

_MIXING = 2**63  # apart from the seeds of the samples, whose run seed is below 2**32


@dataclass(frozen=True)
class MixedKeys:
    """Keys of samples to mix, each with the one before it; of a whole batch, the first with the last.

    Of a process's part of a batch, the first key is that before the part, for its image alone. `first` is the first key
    of the whole batch, which says how it is mixed.
    """

    keys: list[SampleKey]
    first: SampleKey
    is_part: bool


def mixed_keys(batch: list[SampleKey], start: int, stop: int) -> MixedKeys:
    """Those for the samples `start` to `stop` of `batch`."""
    if stop - start == len(batch):
        return MixedKeys(batch, batch[0], is_part=False)
    return MixedKeys([batch[start - 1], *batch[start:stop]], batch[0], is_part=True)


@dataclass(frozen=True)
class Mixing:
    """`mixup`, `cutmix`: the alpha of each one's beta distribution, 0: off; with both, every batch takes one of them.

    `classes` is their number where labels are int64 [B]; None where they are float32 [B, outputs] already.
    """

    mixup: float
    cutmix: float
    classes: int | None
    seed: int

    def __call__(self, images: Tensor, labels: Tensor, of: MixedKeys) -> tuple[Tensor, Tensor]:
        """Mixed images, and labels as float32 [B, outputs]: a pure function of the seed and the keys.

        `images`, float32 [keys, C, H, W], are those of the keys `of`. Several processes mix a batch as one would.
        """
        from torchvision.transforms import v2 as exported

        v2: Any = exported  # untyped exports
        kinds = [kind(alpha=alpha, num_classes=self.classes)
                 for kind, alpha in ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix)) if alpha]  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(sample_seed(self.seed ^ _MIXING, *of.first))
            kind = kinds[int(torch.randint(len(kinds), ())) if len(kinds) > 1 else 0]
            mixed, targets = kind(images, labels)
        return (mixed[1:], targets[1:]) if of.is_part else (mixed, targets)
