"""What a model needs to know about the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .tokens import Tokens


@dataclass(frozen=True)
class DataInfo:
    """What a model needs to know about the data.

    `channels`: 1 (grey) or 3 (RGB); `classes`: their names, by label; `sizes`: samples in "train", "val" and, where
    there is one, "test"; `image_size`: pixels, None where the model should decide; `mean`, `std`: of the training
    images' values in [0, 1], one per channel, None where nobody measured them. `tokens`: how texts become token ids,
    None where the inputs are images; of texts, `channels` is 0.
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
        """What the inputs are."""
        return "image" if self.tokens is None else "text"
