"""The options of each choice of `data.augment`, their ranges and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from lwexp.errors import ConfigError, UnknownNameError

from .section import Section
from .validation import validate

Style = Literal["photograph", "character"]
"""Which augmentation an image allows: a photograph crops and flips, a character (digit, letter, sign) does not."""

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Range = Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=2, max_length=2)]
Bins = Annotated[int, Field(ge=2, le=1000)]


class CropOptions(Section):
    """Photographs: random resized crop (area and aspect ratio of the part that is cut out), then random flips."""

    scale: Range = Field(default_factory=lambda: [0.08, 1.0])
    ratio: Range = Field(default_factory=lambda: [3 / 4, 4 / 3])
    flip: Probability = 0.5
    vertical_flip: Probability = 0.0


class WarpOptions(Section):
    """Characters: largest rotation in degrees, shift as a fraction of the side, and change of scale. A 6 stays a 6."""

    degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.1
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.1


class RandAugmentOptions(Section):
    """Cubuk et al., 2019: `num_ops` operations, all of the same magnitude."""

    num_ops: Annotated[int, Field(ge=0, le=20)] = 2
    magnitude: Annotated[int, Field(ge=0)] = 9
    num_magnitude_bins: Bins = 31


class AutoAugmentOptions(Section):
    """Cubuk et al., 2018: the operations that were found for a data set."""

    policy: str = "imagenet"


class TrivialAugmentOptions(Section):
    """Müller and Hutter, 2021: one operation of any magnitude."""

    num_magnitude_bins: Bins = 31


_POLICIES: Mapping[str, type[Section] | None] = {
    "none": None, "light": None, "standard": None, "randaugment": RandAugmentOptions,
    "autoaugment": AutoAugmentOptions, "trivialaugment": TrivialAugmentOptions,
}  # fmt: skip
CHOICES = tuple(_POLICIES)
_LIGHT_SCALE = [0.5, 1.0]  # of photographs; characters are moved half as far


def amounts(name: str, options: Mapping[str, Any], style: Style, warp: WarpOptions | None = None) -> Any:
    """The `options` of the choice `name` with their defaults, checked; `warp`: the defaults for characters.

    Raises `ConfigError`.
    """
    warp = warp or WarpOptions()
    light = name == "light"
    if style == "photograph":
        base: type[Section] = CropOptions
        defaults: dict[str, Any] = {"scale": _LIGHT_SCALE} if light else {}
    else:
        base = WarpOptions
        defaults = {key: value / 2 if light else value for key, value in warp.model_dump().items()}
    policy = _POLICIES[name]
    schema = create_model("AugmentOptions", __base__=(base, policy) if policy else base)
    found: Any = validate(schema, {**defaults, **options}, "data.augment_options.")
    for option in ("scale", "ratio"):
        low, high = getattr(found, option, (0, 0))
        if low > high or (option == "scale" and high > 1):
            limits = "[smallest, largest] with 0 < smallest <= largest" + (" <= 1" if option == "scale" else "")
            raise ConfigError(f"data.augment_options.{option}", options[option], f"must be {limits}")
    magnitude, bins = getattr(found, "magnitude", 0), getattr(found, "num_magnitude_bins", 31)
    if magnitude >= bins:
        raise ConfigError("data.augment_options.magnitude", magnitude, f"must be below num_magnitude_bins={bins}")
    policies = ("imagenet", "cifar10", "svhn")
    if getattr(found, "policy", policies[0]) not in policies:
        raise UnknownNameError("data.augment_options.policy", found.policy, policies, "no such policy")
    return found
