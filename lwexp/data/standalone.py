"""How an evaluation prepares an image. Imports nothing of lwexp: a copy of this file goes with every exported model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

# what `ImageOps.exif_transpose` would write again without the orientation, which fails for broken EXIF
_EXIF = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


def upright(image: PILImage) -> PILImage:
    """`image`, turned in place by its EXIF orientation, also where the rest of its EXIF is broken."""
    image.getexif()  # kept by `image`
    for name in _EXIF:
        image.info.pop(name, None)
    ImageOps.exif_transpose(image, in_place=True)
    return image


def as_mode(image: PILImage, channels: int) -> PILImage:
    """Convert `image` to 8-bit RGB (`channels` = 3) or gray (1).

    Transparent parts become white. 16-bit gray is scaled from [0, 65535]; 32-bit integers and floats from the smallest
    of [0, 1] (floats), [0, 255], [0, 65535] that holds all values (Pillow alone would clip them at 255).
    """
    target = "RGB" if channels == 3 else "L"
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == target else image.convert(target)


def _eight_bits(image: PILImage) -> PILImage:
    values = np.asarray(image).astype(np.float64)
    top = float(values.max(initial=0.0))
    if image.mode.startswith("I;16"):
        full = 65535.0
    elif image.mode == "F" and top <= 1:
        full = 1.0
    else:
        full = 255.0 if top <= 255 else 65535.0
    return Image.fromarray((values * (255.0 / full)).round().clip(0, 255).astype(np.uint8))


def evaluation_steps(style: str | None, size: int, interpolation: str, crop_pct: float) -> Any:
    """From a PIL image to one of `size` × `size` pixels: what `torchvision.transforms.v2` does in an evaluation.

    A "photograph" keeps its proportions: its shorter side is resized to `size / crop_pct`, then the center is cut out.
    Others (characters) are resized to the square.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import v2 as exported

    v2: Any = exported  # untyped exports
    mode = InterpolationMode(interpolation)
    if style == "photograph":
        shorter_side = math.floor(size / crop_pct)
        return v2.Compose([v2.Resize(shorter_side, interpolation=mode, antialias=True), v2.CenterCrop(size)])
    return v2.Resize((size, size), interpolation=mode, antialias=True)


def normalized(images: Tensor, channels: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels, uint8 [n, H, W, C], as (x - mean) / std of x in [0, 1]: float32 [n, `channels`, H, W], gray repeated."""
    values = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)
    means, stds = (torch.tensor(list(numbers), device=values.device).view(-1, 1, 1) for numbers in (mean, std))
    if values.shape[1] == channels:
        return values.sub_(means).div_(stds)  # in place: new memory costs more than the arithmetic
    return values.expand(-1, channels, -1, -1).sub(means).div_(stds)
