"""From an image or a text to one input of the network: callables for a DataLoader, in any process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lwexp.data import Inputs, Preprocessing, Tokens
from lwexp.data.images import read_image
from lwexp.data.standalone import as_mode, upright
from lwexp.data.transforms import ImageTransform, decoded_channels, image_transform

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@dataclass(frozen=True)
class ImageInput:
    """A PIL image, or the path of a file -> float32 [channels, size, size], as in an evaluation of the training.

    `channels`: of the images of the training, 1 or 3. The mode, a transparency and an EXIF orientation of the image are
    handled as in the training.
    """

    preprocessing: Preprocessing
    style: Any
    channels: int

    def __call__(self, image: PILImage | str | Path) -> Tensor:
        """Raise `OSError` or another error of Pillow for a file that is no image."""
        channels = decoded_channels(self.channels, self.preprocessing.channels)
        if isinstance(image, (str, Path)):
            image = read_image(Path(image), channels)
        else:
            image = as_mode(upright(image.copy()), channels)
        if self._steps.fixed is not None:
            image = self._steps.fixed(image)
        pixels = np.array(image)
        pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
        return self._steps.finish(torch.from_numpy(pixels)[None])[0]

    @cached_property
    def _steps(self) -> ImageTransform:
        return image_transform(self.preprocessing, self.style, augment=None)

    def collate(self, inputs: Sequence[Tensor]) -> Inputs:
        """Several inputs as one batch, [N, channels, size, size]."""
        return torch.stack(list(inputs))


@dataclass(frozen=True)
class TextInput:
    """A text -> its token ids, int64 [tokens]."""

    tokens: Tokens

    def __call__(self, text: str) -> Tensor:
        """At most `tokens.max_length` of them."""
        return self.tokens.encode([text])[0]

    def collate(self, inputs: Sequence[Tensor]) -> Inputs:
        """Several inputs as one batch: `input_ids` and `attention_mask`, int64 [N, tokens of the longest]."""
        return self.tokens.batch(list(inputs))


@dataclass(frozen=True)
class TensorInput:
    """A tensor as it is: the samples of the user's own dataset were trained on without preprocessing."""

    def __call__(self, sample: Tensor) -> Tensor:
        """Raise `TypeError` for anything but a tensor."""
        if not isinstance(sample, Tensor):
            raise TypeError("the network was trained on tensors of the user's own dataset, and takes such tensors only")
        return sample

    def collate(self, inputs: Sequence[Tensor]) -> Inputs:
        """Several inputs as one batch."""
        return torch.stack(list(inputs))


Transform = ImageInput | TextInput | TensorInput
