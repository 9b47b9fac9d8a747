"""How training images are augmented: the choices of `data.augment` with their options, erasing, the user's transforms.

Built from `torchvision.transforms.v2`: https://docs.pytorch.org/vision/stable/transforms.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from lwexp.config.augment_options import CHOICES, Style, WarpOptions, amounts
from lwexp.errors import ConfigError, UnknownNameError
from lwexp.formatting import one_line

from .keys import SampleKey, seeding

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from lwexp.config.data_schema import ImagesConfig


@dataclass(frozen=True)
class OwnTransform:
    """A callable of the user's, from a PIL image to a PIL image, and the key and path that name it in the config."""

    function: Callable[[Any], Any]
    key: str
    path: str

    def __call__(self, image: PILImage) -> PILImage:
        """Raise `ConfigError` for a result that is no image of the same mode."""
        result = self.function(image)
        if not isinstance(result, Image.Image):
            raise ConfigError(self.key, self.path, f"must return a PIL image, returns {type(result).__name__}")
        return result if result.mode == image.mode else result.convert(image.mode)


@dataclass(frozen=True)
class Augmentation:
    """What `data.augment`, `augment_options`, `erasing` and `transforms` say, as `make_augmentation` checked it."""

    name: str = "standard"
    options: Mapping[str, Any] = field(default_factory=dict)
    erasing: float = 0.0
    transforms: Sequence[OwnTransform] = ()

    @property
    def is_plain(self) -> bool:
        """Whether images are only moved a little, or cropped, by the default amounts."""
        return self.name in ("light", "standard") and not (self.options or self.erasing or self.transforms)


def make_augmentation(
    config: ImagesConfig, style: Style | None, transforms: Sequence[OwnTransform] = (), size: int = 512
) -> Augmentation | None:
    """The augmentation that `config` describes, for images of `style`; None for none. Raises `ConfigError`.

    `size`: pixels of the images that the model gets.
    """
    name = config.augment
    if isinstance(name, bool):
        name = "standard" if name else "none"
    if name not in CHOICES:
        raise UnknownNameError("data.augment", name, [*CHOICES, "true", "false"], "no such augmentation")
    made = Augmentation(str(name), dict(config.augment_options), config.erasing, tuple(transforms))
    if name == "none" and made.options:
        option, value = next(iter(made.options.items()))
        raise ConfigError(f"data.augment_options.{option}", value, f"data.augment={config.augment} has no options")
    if name == "none" and not (made.erasing or made.transforms):
        return None
    if style is not None:
        as_decoded = style == "photograph" and name == "none"  # those may have any size
        _try(made, style, 512 if as_decoded else size)
    return made


def steps(
    augmentation: Augmentation,
    style: Style,
    size: int,
    interpolation: Any,
    fill: Sequence[float],
    warp: WarpOptions | None = None,
) -> list[Any]:
    """Random steps on PIL images of `style`; photographs become `size` pixels, characters have them before.

    `interpolation` is torchvision's. `fill`: the mean value of each channel in [0, 1], with which parts are erased.
    """
    from torchvision.transforms import v2 as exported

    v2: Any = exported  # untyped exports
    given: Any = amounts(augmentation.name, augmentation.options, style, warp)
    if augmentation.name == "none":
        found = []
    elif style == "photograph":
        crop = v2.RandomResizedCrop(
            size, tuple(given.scale), tuple(given.ratio), interpolation=interpolation, antialias=True
        )
        found = [crop, v2.RandomHorizontalFlip(given.flip)]
        found += [v2.RandomVerticalFlip(given.vertical_flip)] if given.vertical_flip else []
    else:
        zoom = (1 - given.zoom, 1 + given.zoom)
        found = [v2.RandomAffine(given.degrees, (given.shift, given.shift), zoom, interpolation=interpolation)]
    if augmentation.name == "randaugment":
        found.append(v2.RandAugment(given.num_ops, given.magnitude, given.num_magnitude_bins))
    elif augmentation.name == "autoaugment":
        found.append(v2.AutoAugment(v2.AutoAugmentPolicy(given.policy)))
    elif augmentation.name == "trivialaugment":
        found.append(v2.TrivialAugmentWide(given.num_magnitude_bins))
    return [*found, *augmentation.transforms]


class Erase:
    """Random erasing (Zhong et al., 2017): a part of an image becomes the mean color; sizes as in torchvision."""

    def __init__(self, probability: float, fill: Sequence[float]) -> None:
        """`fill`: value in [0, 1] of each channel of the images."""
        self._probability, self._color = probability, tuple(round(255 * value) for value in fill)

    def __call__(self, image: PILImage) -> PILImage:
        """The image, or one with a part erased, by Pillow, which is faster than on tensors."""
        from torchvision.transforms import RandomErasing as Exported

        if torch.rand(()) >= self._probability:
            return image
        random_erasing: Any = Exported  # untyped exports
        like = torch.empty(1).expand(len(self._color), image.height, image.width)
        top, left, height, width, value = random_erasing.get_params(like, (0.02, 0.33), (0.3, 3.3), [0.0])
        if value is not like:  # else no part of such a size was found
            color: Any = self._color if len(self._color) > 1 else self._color[0]
            image = image.copy()
            image.paste(color, (left, top, left + width, top + height))
        return image


def _try(augmentation: Augmentation, style: Style, size: int) -> None:
    """Raise `ConfigError` for options that do not fit, and for a user's transform that fails on a black image.

    The transforms are tried in turn, as images go through them; the image has `size` pixels.
    """
    amounts(augmentation.name, augmentation.options, style)
    image = Image.new("RGB" if style == "photograph" else "L", (size, size))
    with seeding(0, others=True) as seed:
        for transform in augmentation.transforms:
            seed(SampleKey(0, 0))
            try:
                image = transform(image)
            except ConfigError:
                raise
            except Exception as error:  # a callable of the user's may raise anything
                why = f"fails on a black image of {image.width} x {image.height} pixels"
                raise ConfigError(transform.key, transform.path, f"{why}: {one_line(error, kind=True)}") from error
