"""scikit-learn's digits: 1,797 gray images of handwritten digits, 8×8, part of its package: nothing is downloaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lwexp.config.augment_options import Style, WarpOptions

from .augmentation import Augmentation
from .cache import CacheSettings
from .contents import Contents
from .images import PILDataset, PILStore, SampleDataset
from .keys import SampleKey, uniforms
from .source import DataSource, Split
from .splits import stratified_cut
from .transforms import Preprocessing, decoded_channels

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from lwexp.config.data_schema import DigitsConfig

FILE = "sklearn/datasets/data/digits.csv.gz"  # where scikit-learn keeps the images
IMAGE_SIZE = 32  # smallest side for the usual networks, which halve it five times

# Augmentation: largest rotation in degrees, shift as a fraction of the side (one pixel of 32), and change of scale.
# More costs accuracy in the few steps of a short run: these images are centered already.
WARP = WarpOptions(degrees=3.0, shift=1 / 32, zoom=0.03)


def open_digits(config: DigitsConfig) -> DataSource:
    """Train, validation and test: 70, 15 and 15 %, stratified, by `data.split_seed`."""
    table = _table()
    images = torch.from_numpy(table[:, :64].reshape(-1, 1, 8, 8) * (255 / 16)).round().to(torch.uint8)
    labels = torch.from_numpy(table[:, 64]).to(torch.int64)
    train, rest = stratified_cut(labels, 0.3, config.split_seed)
    val, test = (rest[part] for part in stratified_cut(labels[rest], 0.5, config.split_seed))
    store = TensorStore(images)
    std, mean = (value.item() for value in torch.std_mean(images[train] / 255))
    return DataSource(
        {
            "train": Split(store, train, labels[train]),
            "val": Split(store, val, labels[val]),
            "test": Split(store, test, labels[test]),
        },
        classes=tuple(str(digit) for digit in range(10)),
        channels=1,
        image_size=config.image_size or IMAGE_SIZE,
        style="character",
        mean=(mean,),
        std=(std,),
    )


def _table() -> NDArray[np.float64]:
    """The rows of scikit-learn's file: 64 pixels, 0 to 16, and the digit. [1797, 65].

    `load_digits` reads the same file, but its import takes over a second; it is used if the file is elsewhere.
    """
    file = Path(str(distribution("scikit-learn").locate_file(FILE)))
    if file.is_file():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.column_stack([found.data, found.target])


class TensorStore:
    """Images in memory, uint8 [n, C, H, W]."""

    def __init__(self, images: Tensor) -> None:
        """`images` keep their size; a dataset resizes its own samples once."""
        self._images = images

    def contents(self) -> Contents:
        """Nothing that could change."""
        return {}

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
        """The images at `positions`, resized in memory; `style` and `cache` do not apply.

        What augments them besides small movements takes one image after the other.
        """
        if augment is not None and not augment.is_plain:
            store = _OneByOne(self._images)
            how: dict[str, Any] = {"style": style, "augment": augment, "seed": seed, "cache": None}
            return PILDataset(store, positions, labels, preprocessing, **how)
        size = preprocessing.image_size
        images = functional.interpolate(
            self._images[positions].float(), (size, size), mode=preprocessing.interpolation, antialias=True
        )
        resized = images.round().clamp(0, 255).to(torch.uint8)
        decoded_channels(resized.shape[1], preprocessing.channels)
        strength = 0.0 if augment is None else 0.5 if augment.name == "light" else 1.0
        return TensorDataset(resized, labels, preprocessing, strength, seed)


class _OneByOne(PILStore):
    """Gray images in memory, as PIL images."""

    warp = WARP

    def __init__(self, images: Tensor) -> None:
        super().__init__(1)
        self._images = images

    def load(self, position: int, channels: int) -> PILImage:
        """Image number `position`, gray."""
        return Image.fromarray(self._images[position, 0].numpy())


class TensorDataset(SampleDataset):
    """Resized images in memory; a batch is augmented at once, about ten times as fast as one by one."""

    def __init__(
        self, images: Tensor, labels: Tensor, preprocessing: Preprocessing, strength: float, seed: int
    ) -> None:
        """`images`: uint8 [n, C, size, size]; `strength`: of the augmentation, as a fraction of the usual; 0: none."""
        super().__init__(labels)
        self._images, self._strength, self._seed = images, strength, seed
        self._channels = preprocessing.channels
        # (x / 255 - mean) / std as one multiplication and one addition
        std = torch.tensor(preprocessing.std).view(1, -1, 1, 1)
        self._factor = 1 / (255 * std)
        self._offset = -torch.tensor(preprocessing.mean).view(1, -1, 1, 1) / std

    def inputs(self, keys: Sequence[SampleKey]) -> Tensor:
        """Augmented if enabled, repeated to the model's channels, normalized: [keys, channels, size, size]."""
        batch = self._images[[key.sample for key in keys]].float()
        if self._strength:
            batch = jitter(batch, uniforms(self._seed, keys, 4), self._strength)
        batch = batch.expand(-1, self._channels, -1, -1)
        return (batch * self._factor).add_(self._offset)


def jitter(images: Tensor, uniform: Sequence[NDArray[np.float64]], strength: float = 1.0) -> Tensor:
    """Rotate, scale and shift each image a little, by four arrays of n random numbers in [0, 1).

    `strength`: fraction of the usual amounts.

    Images and result are [n, C, H, W]; pixels from outside are 0, the background.

    An image's result does not depend on the others of its batch, to the last bit: sine and cosine come from `math`, all
    else is one multiplication or addition per element (a batched matrix product, as in `affine_grid`, may round
    differently for another batch).
    """
    matrices = torch.from_numpy(np.stack(_inverse_affine(*uniform, strength=strength))).float().view(2, 3, -1)
    of_x, of_y, offset = matrices.permute(1, 2, 0).contiguous()[..., None, None]  # each [n, 2, 1, 1]
    height, width = images.shape[-2:]
    x = (torch.arange(width) * 2 + 1) / width - 1  # pixel centers; the image spans [-1, 1]
    y = (torch.arange(height) * 2 + 1) / height - 1
    grid = (of_x * x + of_y * y[:, None] + offset).permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _inverse_affine(
    turn: NDArray[np.float64],
    zoom: NDArray[np.float64],
    right: NDArray[np.float64],
    down: NDArray[np.float64],
    *,
    strength: float,
) -> tuple[NDArray[np.float64], ...]:
    """Inverse affine maps, from result to source: rows of 2×3 matrices; the image spans [-1, 1]."""
    angles = strength * math.radians(WARP.degrees) * (2 * turn - 1)
    scale = 1 + strength * WARP.zoom * (2 * zoom - 1)
    x, y = strength * 2 * WARP.shift * (2 * right - 1), strength * 2 * WARP.shift * (2 * down - 1)
    cosine = np.array([math.cos(angle) for angle in angles.tolist()]) / scale
    sine = np.array([math.sin(angle) for angle in angles.tolist()]) / scale
    return (cosine, sine, -(cosine * x + sine * y), -sine, cosine, -(cosine * y - sine * x))
