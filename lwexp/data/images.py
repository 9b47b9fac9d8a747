"""Reading single images (color modes, orientation, unreadable files), and the dataset of decoded images."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from lwexp.config.augment_options import Style, WarpOptions
from lwexp.errors import ConfigError

from .augmentation import Augmentation
from .cache import CacheSettings, Pixels, open_cache
from .contents import Contents
from .keys import SampleKey, seeding
from .standalone import as_mode, upright
from .transforms import Preprocessing, decoded_channels, image_transform

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

_UNREADABLE = ": cannot read the image "


class CorruptImageError(ConfigError):
    """An image that cannot be read; the message names it.

    Constructed from one string, because torch's DataLoader re-raises a worker's exception as `type(text)`, where `text`
    is the worker's traceback; only its last line, the message, is kept.
    """

    def __init__(self, text: str) -> None:
        """`text` is the message, or a traceback that ends with it."""
        found = re.findall(rf"^[\w.]*{type(self).__name__}: (.*)$", text, re.MULTILINE)
        key, _, rest = (found[-1] if found else text).partition("=")
        value, separator, why = rest.partition(_UNREADABLE)
        super().__init__(key, value, f"{separator[2:]}{why}")

    @classmethod
    def of(cls, key: str, value: str, image: str, error: Exception) -> CorruptImageError:
        """`image`: the file, or the position in the set; `key` and `value`: the option that led to it."""
        return cls(" ".join(f"{key}={value}{_UNREADABLE}{image}: {_reason(error)}".split()))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or a format that Pillow cannot read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def read_image(path: Path, channels: int) -> PILImage:
    """The image file `path`, upright, as RGB (`channels` = 3) or gray (1); the first frame of an animation."""
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    with Image.open(path) as image:
        image.load()
        return as_mode(upright(image), channels)


def is_gray(image: PILImage) -> bool:
    """Whether `image` has one channel."""
    return image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")


def find_channels(read: Callable[[int], PILImage], count: int) -> int:
    """1 if all of 16 images, spread over the `count` that `read` gives, are gray, else 3."""
    for position in sorted({k * (count - 1) // 15 for k in range(16)}):
        try:
            gray = is_gray(read(position))
        except Exception:  # any type; reported when a batch needs it
            continue
        if not gray:
            return 3
    return 1


Inputs = Tensor | dict[str, Tensor]
"""Input of a model: images, float32 [B, C, H, W], or keyword arguments, for texts int64 [B, tokens]."""
Batch = tuple[Inputs, Tensor]
"""Inputs, and labels: int64 [B] of classes, float32 [B, outputs] of several labels or of numbers."""


class SampleStore(Protocol):
    """Random access to samples by position; a split is a list of positions."""

    def dataset(
        self,
        positions: Tensor,
        labels: Tensor,
        preprocessing: Any,
        *,
        style: Any,
        augment: Augmentation | None,
        seed: int,
        cache: CacheSettings | None,
    ) -> SampleDataset:
        """The samples at `positions` with `labels`, preprocessed; `cache` applies to images that are decoded."""

    def contents(self) -> Contents:
        """All that it holds, to notice changes."""


class SampleDataset(Dataset[tuple[Tensor, Any]]):
    """Maps a `SampleKey` (or an index, in epoch 0) to (input, label), a pure function of (seed, key).

    An image is float32 [C, H, W], a text int64 [tokens]; a label an int, or float32 [outputs].
    """

    slow = False  # whether workers are useful
    how = "in memory"  # how samples are made, for messages
    named_by = "sample"  # what `name` gives: "file", "text", or "sample", its number

    def __init__(self, labels: Tensor) -> None:
        """`labels`: int64 [n], or float32 [n, outputs]."""
        self._labels: list[Any] = list(labels) if labels.is_floating_point() else labels.tolist()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._labels)

    def name(self, index: int) -> str:
        """What a user finds sample `index` by: its file, a text itself, else its number in the split."""
        return str(index)

    def __getitem__(self, key: int | SampleKey) -> tuple[Tensor, Any]:
        """One sample and its label."""
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | SampleKey]) -> list[tuple[Tensor, Any]]:
        """Several at once; each equals that of `__getitem__` bit for bit."""
        full = [key if isinstance(key, SampleKey) else SampleKey(0, range(len(self))[key]) for key in keys]
        return [(sample, self._labels[key.sample]) for key, sample in zip(full, self.inputs(full), strict=True)]

    def batch(self, keys: Sequence[SampleKey]) -> Batch:
        """The samples of `keys` as one batch."""
        inputs, labels = self.prepare(keys)
        return self.finish(inputs), labels

    def prepare(self, keys: Sequence[SampleKey]) -> Batch:
        """The part of `batch` that a worker does: what `finish` still has to complete, and labels."""
        return self.collate(self.inputs(keys)), self.labels(keys)

    def labels(self, keys: Sequence[SampleKey]) -> Tensor:
        """The labels of `keys`, int64 [keys] or float32 [keys, outputs]."""
        found = [self._labels[key.sample] for key in keys]
        return torch.stack(found) if found and isinstance(found[0], Tensor) else torch.tensor(found)

    def inputs(self, keys: Sequence[SampleKey]) -> Tensor | Sequence[Tensor]:
        """The inputs of `keys`: a list, or one tensor if all have the same shape."""
        raise TypeError(f"{type(self).__name__} does not say how its inputs are made")

    def finish(self, inputs: Inputs) -> Inputs:
        """The inputs that `prepare` began, on the same device."""
        return inputs

    def collate(self, inputs: Tensor | Sequence[Tensor]) -> Inputs:
        """The result of `inputs` as a model's input."""
        return inputs if isinstance(inputs, Tensor) else torch.stack(list(inputs))


class PILStore:
    """Images that are decoded one by one, by a subclass's `load`."""

    threads = 1  # that may call `load` concurrently
    warp: WarpOptions | None = None  # how far characters are moved; None: the usual
    named_by = "sample"  # as of `SampleDataset`

    def __init__(self, channels: int) -> None:
        """`channels`: 3 for color, 1 for gray."""
        self.channels = channels

    def load(self, position: int, channels: int) -> PILImage:
        """The image at `position` as RGB (`channels` = 3) or gray (1). Raises `CorruptImageError`."""
        raise TypeError(f"{type(self).__name__} does not say how its images are read")

    def identity(self, positions: Sequence[int]) -> str:
        """A text that changes when one of the images at `positions` does. Raises `OSError` for a missing file."""
        raise TypeError(f"{type(self).__name__} does not say what its images depend on")

    def name(self, position: int) -> str:
        """What a user finds the image by."""
        return str(position)

    def contents(self) -> Contents:
        """What the images are read from."""
        raise TypeError(f"{type(self).__name__} does not say what its images are read from")

    def dataset(
        self,
        positions: Tensor,
        labels: Tensor,
        preprocessing: Preprocessing,
        *,
        style: Style,
        augment: Augmentation | None,
        seed: int,
        cache: CacheSettings | None = None,
    ) -> SampleDataset:
        """The images at `positions` with `labels`, decoded on access or, with `cache`, once for all runs."""
        return PILDataset(self, positions, labels, preprocessing, style=style, augment=augment, seed=seed, cache=cache)


class PILDataset(SampleDataset):
    """Images of a `PILStore` through torchvision's transforms."""

    def __init__(
        self,
        store: PILStore,
        positions: Tensor,
        labels: Tensor,
        preprocessing: Preprocessing,
        *,
        style: Style,
        augment: Augmentation | None,
        seed: int,
        cache: CacheSettings | None,
    ) -> None:
        """See `PILStore.dataset`."""
        super().__init__(labels)
        self._store, self._seed = store, seed
        self._positions: list[int] = positions.tolist()
        self._channels = decoded_channels(store.channels, preprocessing.channels)
        self._transform = image_transform(preprocessing, style, augment, channels=self._channels, warp=store.warp)
        self._cache = (
            None
            if cache is None
            else open_cache(
                self._decode,
                len(self),
                self._channels,
                identity=lambda: f"{self._transform.identity} {store.identity(self._positions)}",
                threads=store.threads,
                settings=cache,
            )
        )
        self.slow = self._cache is None or self._transform.random is not None
        kept = "decoded one by one" if self._cache is None else f"decoded in {self._cache.path.name}"
        self.how = f"{kept}, augmented one by one" if self._cache and self._transform.random else kept

        self.named_by = store.named_by

    def name(self, index: int) -> str:
        """The file, or the number in the whole set."""
        return self._store.name(self._positions[index])

    def inputs(self, keys: Sequence[SampleKey]) -> Tensor:
        """Decoded, augmented, normalized: [keys, channels, size, size]."""
        return self._transform.finish(self.pixels(keys))

    def prepare(self, keys: Sequence[SampleKey]) -> Batch:
        """Pixels, uint8 [keys, size, size, channels of the images], and labels."""
        return self.pixels(keys), self.labels(keys)

    def finish(self, inputs: Inputs) -> Inputs:
        """Normalized."""
        assert isinstance(inputs, Tensor)
        return self._transform.finish(inputs)

    def pixels(self, keys: Sequence[SampleKey]) -> Tensor:
        """Decoded and augmented. Restores the global generators."""
        read = self._decode if self._cache is None else self._cache.__getitem__
        images = [read(key.sample) for key in keys]
        if self._transform.random is not None:
            with seeding(self._seed, others=self._transform.seeds_all) as seed:
                for i, key in enumerate(keys):
                    seed(key)
                    image = Image.fromarray(images[i] if self._channels == 3 else images[i][:, :, 0])
                    images[i] = _pixels(self._transform.random(image))
        return torch.from_numpy(np.stack(images))

    def _decode(self, index: int) -> Pixels:
        """The image after the deterministic part of preprocessing."""
        image = self._store.load(self._positions[index], self._channels)
        return _pixels(image if self._transform.fixed is None else self._transform.fixed(image))


def _pixels(image: PILImage) -> Pixels:
    pixels = np.array(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]
