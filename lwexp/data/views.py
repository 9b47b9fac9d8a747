"""Test-time augmentation: the scores of several views of an image, averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .images import Inputs
from .loading import call

TTA = Literal["none", "flip", "five_crop", "ten_crop"]


@dataclass(frozen=True)
class Views:
    """`flip`: the image and its mirror image. `five_crop`: corners and center, of `size` pixels; `ten_crop`: those
    and their mirror images.

    The scores (logits, or the numbers of a regression) are averaged.
    """

    tta: TTA
    size: int

    def __call__(self, model: Callable[..., Any], inputs: Inputs) -> Tensor:
        """Scores [B, classes] of `model` for images [B, C, H, W]."""
        found = [call(model, view) for view in self.of(inputs)] if isinstance(inputs, Tensor) else [call(model, inputs)]
        scores: Tensor = found[0] if len(found) == 1 else torch.stack(found).mean(dim=0)
        return scores

    def of(self, images: Tensor) -> list[Tensor]:
        """The views of `images` [B, C, H, W], each [B, C, size, size]."""
        from torchvision.transforms.v2 import functional as exported

        functional: Any = exported  # untyped exports
        if self.tta == "flip":
            return [images, images.flip(-1)]
        if self.tta == "none":
            return [images]
        crop = functional.five_crop if self.tta == "five_crop" else functional.ten_crop
        return list(crop(images, [self.size, self.size]))
