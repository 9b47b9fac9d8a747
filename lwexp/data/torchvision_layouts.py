"""torchvision's image classification datasets, and how each names its splits.

There is no common interface: some constructors take `train`, some `split` with their own names, some have all images in
one. This table follows the documentation, https://docs.pytorch.org/vision/stable/datasets.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lwexp.config.augment_options import Style

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class SetLayout:
    """How to open one dataset: the constructor's arguments for each split, None if it has no such split.

    `image_size`: default side in pixels, None for large images or several sizes; `classes`: names, if torchvision has
    none; `unordered`: torchvision lists the files in the file system's order.
    """

    train: Arguments = field(default_factory=dict)
    val: Arguments | None = None
    test: Arguments | None = None
    channels: int = 3
    image_size: int | None = None
    style: Style = "photograph"
    classes: tuple[str, ...] = ()
    unordered: bool = False


def _by_train(image_size: int, **other: Any) -> SetLayout:
    return SetLayout({"train": True}, test={"train": False}, image_size=image_size, **other)


def _by_split(train: str, val: str | None, test: str | None, **other: Any) -> SetLayout:
    return SetLayout(
        {"split": train},
        val=None if val is None else {"split": val},
        test=None if test is None else {"split": test},
        **other,
    )


_GRAY_CHARACTERS: dict[str, Any] = {"channels": 1, "style": "character"}
_DIGITS = tuple("0123456789")
_FACES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

LAYOUTS: Mapping[str, SetLayout] = {
    # gray characters of 16 to 28 pixels; 32 is the smallest side for networks that halve it five times
    "MNIST": _by_train(32, **_GRAY_CHARACTERS),
    "FashionMNIST": _by_train(32, channels=1),
    "KMNIST": _by_train(32, **_GRAY_CHARACTERS),
    "EMNIST": _by_train(32, **_GRAY_CHARACTERS),
    "QMNIST": SetLayout(
        {"what": "train", "train": True}, test={"what": "test", "train": False}, image_size=32, **_GRAY_CHARACTERS
    ),
    "USPS": _by_train(32, classes=_DIGITS, **_GRAY_CHARACTERS),
    "SEMEION": SetLayout(image_size=32, classes=_DIGITS, **_GRAY_CHARACTERS),
    "Omniglot": SetLayout(image_size=64, unordered=True, **_GRAY_CHARACTERS),
    # small images
    "CIFAR10": _by_train(32),
    "CIFAR100": _by_train(32),
    "SVHN": _by_split("train", None, "test", image_size=32, style="character", classes=_DIGITS),
    "STL10": _by_split("train", None, "test", image_size=96),
    "EuroSAT": SetLayout(image_size=64),
    "PCAM": _by_split("train", "val", "test", image_size=96, classes=("no tumour", "tumour")),
    "FER2013": _by_split("train", None, "test", image_size=48, channels=1, classes=_FACES),
    "GTSRB": _by_split("train", None, "test", image_size=64, style="character"),  # an arrow must not be mirrored
    # photographs
    "CLEVRClassification": _by_split("train", "val", None),  # number of objects; its test split has no labels
    "Caltech101": SetLayout(),
    "Caltech256": SetLayout(),
    "Country211": _by_split("train", "valid", "test"),
    "DTD": _by_split("train", "val", "test"),
    "FGVCAircraft": _by_split("train", "val", "test"),
    "Flowers102": _by_split("train", "val", "test"),
    "Food101": _by_split("train", None, "test"),
    "INaturalist": SetLayout(unordered=True),
    "ImageNet": _by_split("train", "val", None),
    "Imagenette": _by_split("train", "val", None),
    "LFWPeople": _by_split("10fold", None, None),  # the person; its own train and test sets share no person
    "OxfordIIITPet": _by_split("trainval", None, "test"),
    "Places365": _by_split("train-standard", "val", None),
    "RenderedSST2": _by_split("train", "val", "test", style="character"),  # sentences as pictures
    "SUN397": SetLayout(unordered=True),
    "StanfordCars": _by_split("train", None, "test"),
    # random noise, for tests; `options.image_size` is [channels, height, width]
    "FakeData": SetLayout(),
}
