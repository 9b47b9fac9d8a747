"""Samples of the user's own datasets: reproducible, whatever the datasets draw at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from .augmentation import Augmentation
from .cache import CacheSettings
from .contents import Contents
from .images import CorruptImageError, PILDataset, PILStore, SampleDataset, find_channels
from .keys import SampleKey, sample_seed, seeded
from .standalone import as_mode, upright

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

KEY = "data._target_"


class OwnStore(PILStore):
    """The samples of the user's datasets, one after another."""

    def __init__(self, target: str, parts: Sequence[Any], contents: Contents, first: Any) -> None:
        """`first` is an example of their images. Reads a few to find the channels of PIL images."""
        self.ready = isinstance(first, Tensor)
        super().__init__(channels=len(first) if isinstance(first, Tensor) else 3)
        self._target, self._parts, self._contents = target, parts, contents
        self._shape = first.shape if isinstance(first, Tensor) else None
        self.seed: int | None = None  # of the sample that is read next
        if not self.ready:
            self.channels = find_channels(self.read, sum(map(len, parts)))

    def contents(self) -> Contents:
        """Checksums of the labels: what samples are made from, only their dataset knows."""
        return self._contents

    def dataset(
        self,
        positions: Tensor,
        labels: Tensor,
        preprocessing: Any,
        *,
        style: Any,
        augment: Augmentation | None,
        seed: int,
        cache: CacheSettings | None = None,
    ) -> SampleDataset:
        """The samples at `positions`; tensors as they are, PIL images preprocessed."""
        if self.ready:
            return OwnTensors(self, positions, labels, seed)
        return OwnImages(self, positions, labels, preprocessing, style=style, augment=augment, seed=seed, cache=None)

    def load(self, position: int, channels: int) -> PILImage:
        """One PIL image."""
        image = self.read(position)
        if not isinstance(image, Image.Image):
            why = TypeError(f"a {type(image).__name__}, where the first sample is a PIL image")
            raise CorruptImageError.of(KEY, self._target, f"number {position}", why)
        return as_mode(upright(image), channels)

    def tensor(self, position: int) -> Tensor:
        """One float tensor."""
        found = self.read(position)
        if not isinstance(found, Tensor) or found.shape != self._shape:
            shown = list(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
            why = TypeError(f"{shown}, where the first sample is a tensor {list(self._shape or ())}")
            raise CorruptImageError.of(KEY, self._target, f"number {position}", why)
        return found.float()

    def read(self, position: int) -> Any:
        """The image at `position`; what its dataset draws at random follows from `seed`."""
        number = position
        for part in self._parts:
            if position < len(part):
                break
            position -= len(part)
        try:
            with seeded(0 if self.seed is None else self.seed):
                return part[position][0]
        except Exception as error:  # code of the user's may raise anything
            raise CorruptImageError.of(KEY, self._target, f"number {number}", error) from error


class OwnImages(PILDataset):
    """PIL images of the user's dataset, whose random numbers depend on the seed and the sample's key alone."""

    def pixels(self, keys: Sequence[SampleKey]) -> Tensor:
        """See `PILDataset`."""
        return torch.cat([self._one(key) for key in keys])

    def _one(self, key: SampleKey) -> Tensor:
        store: Any = self._store
        store.seed = sample_seed(self._seed, *key)
        return super().pixels([key])


class OwnTensors(SampleDataset):
    """Tensors of the user's dataset, as they are."""

    slow = True
    how = "made one by one"

    def __init__(self, store: OwnStore, positions: Tensor, labels: Tensor, seed: int) -> None:
        """See `OwnStore.dataset`."""
        super().__init__(labels)
        self._store, self._seed = store, seed
        self._positions: list[int] = positions.tolist()

    def inputs(self, keys: Sequence[SampleKey]) -> Sequence[Tensor]:
        """Each float32 [channels, side, side]."""
        found = []
        for key in keys:
            self._store.seed = sample_seed(self._seed, *key)
            found.append(self._store.tensor(self._positions[key.sample]))
        return found
