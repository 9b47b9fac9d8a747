"""What a model needs to know about the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .tokens import Tokens


@dataclass(frozen=True)
class DataInfo:
    """What a model needs to know about the data.

    `channels`: 1 (gray) or 3 (RGB), 0 for texts; `classes`: names by label; `sizes`: samples in "train", "val" and, if
    it exists, "test"; `image_size`: side in pixels, None for the model's own; `mean`, `std`: of the training images'
    values in [0, 1], one per channel, None if not measured; `tokens`: the tokenizer, None for images.
    """

    channels: int
    classes: tuple[str, ...]
    sizes: Mapping[str, int]
    image_size: int | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    tokens: Tokens | None = None

    @property
    def kind(self) -> Literal["image", "text"]:
        """Kind of the inputs."""
        return "image" if self.tokens is None else "text"
