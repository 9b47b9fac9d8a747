"""From a decoded image to the model's input: preprocessing, and augmentation of photographs and characters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from lwexp.config.augment_options import Style, WarpOptions
from lwexp.errors import ConfigError

from .augmentation import Augmentation, Erase, steps
from .standalone import evaluation_steps, normalized

if TYPE_CHECKING:
    from .info import DataInfo

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Input format of a model: square images of `image_size` pixels, values (x - mean) / std of x in [0, 1].

    `mean` and `std` have one value for each of `channels`. `crop_pct`: fraction of the shorter side that the center
    crop of an evaluation keeps, in (0, 1]. `origin` says where the values come from.
    """

    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop_pct: float = 0.875
    origin: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Raise `ValueError` for what would fail, or broadcast silently, at the first batch."""
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean={self.mean} and std={self.std} need one value for each of {self.channels} channels")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation={self.interpolation!r} is neither 'bilinear' nor 'bicubic'")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct={self.crop_pct} is not in (0, 1]")

    def __str__(self) -> str:
        """All on one line.

        >>> str(Preprocessing(224, 3, IMAGENET_MEAN, IMAGENET_STD, origin="ImageNet's"))
        "224x224 RGB, mean 0.485 0.456 0.406, std 0.229 0.224 0.225, bilinear, center crop 0.875 (ImageNet's)"
        """
        kind = {1: "gray", 3: "RGB"}.get(self.channels, f"{self.channels} channels")
        mean, std = (
            " ".join(f"{value:.4g}" for value in (values if len(set(values)) > 1 else values[:1]))
            for values in (self.mean, self.std)
        )
        crop = f", center crop {self.crop_pct:.3g}" if self.crop_pct < 1 else ""
        shown = f"{self.image_size}x{self.image_size} {kind}, mean {mean}, std {std}, {self.interpolation}{crop}"
        return f"{shown} ({self.origin})" if self.origin else shown


def standard_preprocessing(info: DataInfo, image_size: int, channels: int) -> Preprocessing:
    """The default for a model without preprocessing of its own.

    Color: ImageNet's mean and standard deviation; above 96 pixels the center crop keeps 7/8, below it the whole image
    (small images have no margin). One channel: the data's mean and standard deviation if measured (digits), else 0.5
    and 0.5, so that [0, 1] becomes [-1, 1]; the whole image.
    """
    if info.channels == 1 or channels != 3:
        mean: tuple[float, ...] = (0.5,)
        std: tuple[float, ...] = (0.5,)
        origin = "the usual of gray images"
        if info.channels == 1 and info.mean is not None and info.std is not None:
            mean, std, origin = info.mean, info.std, "the training images'"
        return Preprocessing(image_size, channels, mean * channels, std * channels, crop_pct=1.0, origin=origin)
    crop_pct = 0.875 if image_size > 96 else 1.0
    return Preprocessing(image_size, channels, IMAGENET_MEAN, IMAGENET_STD, crop_pct=crop_pct, origin="ImageNet's")


def decoded_channels(available: int, wanted: int) -> int:
    """Channels to decode for a model with `wanted`: gray is repeated, color converted to gray. Raises `ConfigError`."""
    if available == 1 or wanted == 1:
        return 1
    if wanted != available:
        raise ConfigError("model", wanted, f"that many input channels cannot be made of images with {available}")
    return available


@dataclass(frozen=True)
class ImageTransform:
    """From a PIL image to the model's input, in three parts.

    `fixed` (deterministic) and `random` map PIL images to PIL images; None if there is nothing to do. `random` uses
    torch's global CPU generator, and with `seeds_all` those of `random` and NumPy.
    `identity` is a text of all that the result of `fixed` depends on, besides the image.
    """

    fixed: Any | None
    random: Any | None
    identity: str
    preprocessing: Preprocessing
    seeds_all: bool = False

    def finish(self, images: Tensor) -> Tensor:
        """Pixels, uint8 [n, H, W, C], normalized and repeated to the model's channels: float32 [n, channels, H, W]."""
        to = self.preprocessing
        return normalized(images, to.channels, to.mean, to.std)


def image_transform(
    preprocessing: Preprocessing,
    style: Style,
    augment: Augmentation | None,
    *,
    channels: int = 3,
    warp: WarpOptions | None = None,
) -> ImageTransform:
    """The `torchvision.transforms.v2` steps for images of `style` with `channels`, augmented by `augment`.

    Photographs: random resized crop and horizontal flip (He et al., 2016), else resize and center crop.
    Characters: resized to the square, with small random rotations, shifts and changes of scale, at most `warp`.
    The user's own transforms get a photograph as it is decoded where nothing else augments it.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import v2 as exported

    v2: Any = exported  # untyped exports
    size, mode = preprocessing.image_size, InterpolationMode(preprocessing.interpolation)
    whole = evaluation_steps(style, size, preprocessing.interpolation, preprocessing.crop_pct)
    if augment is None:
        return ImageTransform(whole, None, str(whole), preprocessing)
    fill = preprocessing.mean[:channels] if len(preprocessing.mean) >= channels else preprocessing.mean * channels
    random = steps(augment, style, size, mode, fill, warp)
    if augment.transforms:
        random.append(Fit(whole, size))
    if augment.erasing:
        random.append(Erase(augment.erasing, fill))
    decoded = style == "photograph" and (augment.name != "none" or bool(augment.transforms))
    fixed = None if decoded else whole
    seeds_all = bool(augment.transforms)
    return ImageTransform(fixed, v2.Compose(random), str(fixed), preprocessing, seeds_all)


@dataclass(frozen=True)
class Fit:
    """Brings an image of another size to `size` pixels by `whole`, as in an evaluation."""

    whole: Any
    size: int

    def __call__(self, image: Any) -> Any:
        """The image itself where it has that size."""
        return image if image.size == (self.size, self.size) else self.whole(image)
