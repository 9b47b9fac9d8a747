"""What the config does to training batches: augmentation, mixing, balance; and to those of an evaluation: its views."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lwexp.config.data_schema import ImagesConfig
from lwexp.config.schema import RunConfig
from lwexp.config.targets import build
from lwexp.data import Augmentation, Mixing, OwnTransform, Preprocessing, make_augmentation
from lwexp.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from lwexp.data import DataSource
    from lwexp.data.views import TTA
    from lwexp.training.loss import TaskLoss


def augmentation(config: RunConfig, source: DataSource, preprocessing: Preprocessing | None) -> Augmentation | None:
    """How training images are augmented; None for texts. Raises `ConfigError`."""
    data = config.data
    if not isinstance(data, ImagesConfig):
        return None
    own = []
    for number, section in enumerate(data.transforms):
        key = f"data.transforms.{number}"
        made = build(section, key, "class or function")
        own.append(OwnTransform(made, f"{key}._target_", section.target))
    if preprocessing is None:
        return make_augmentation(data, source.style, own)
    return make_augmentation(data, source.style, own, preprocessing.image_size)


def mixing(config: RunConfig, source: DataSource) -> Mixing | None:
    """Mixup and CutMix of training batches; None for neither. Raises `ConfigError`."""
    data: Any = config.data
    mixup, cutmix = (float(getattr(data, name, 0.0)) for name in ("mixup", "cutmix"))
    if not mixup and not cutmix:
        return None
    if cutmix and source.info.task == "regression":
        raise ConfigError("data.cutmix", cutmix, "mixes labels by area, which numbers to predict do not allow")
    classes = len(source.info.classes) if source.info.task == "classification" else None
    return Mixing(mixup, cutmix, classes, config.seed)


def balance(config: RunConfig, source: DataSource) -> Tensor | None:
    """The labels whose classes shall be equally frequent; None: images as they come. Raises `ConfigError`."""
    if getattr(config.data, "sampler", "shuffle") != "balanced":
        return None
    if source.info.task != "classification":
        raise ConfigError("data.sampler", "balanced", "needs data with one class each")
    return source.labels("train")


def evaluated(tta: TTA, preprocessing: Preprocessing | None) -> Preprocessing | None:
    """The preprocessing of an evaluation whose views are cut from larger images."""
    if preprocessing is None or tta not in ("five_crop", "ten_crop"):
        return preprocessing
    larger = int(preprocessing.image_size / preprocessing.crop_pct)
    return replace(preprocessing, image_size=larger, crop_pct=1.0)


def check_batches(config: RunConfig, source: DataSource, loss: TaskLoss, preprocessing: Preprocessing | None) -> None:
    """Raise `ConfigError` for what the data, the loss or the preprocessing do not allow."""
    from lwexp.training.loss import takes_soft_labels

    augmentation(config, source, preprocessing)
    balance(config, source)
    if mixing(config, source) is not None and not takes_soft_labels(loss):
        key = "mixup" if getattr(config.data, "mixup", 0) else "cutmix"
        why = f"mixes labels, which {loss.name} with these options does not take; CrossEntropyLoss does"
        raise ConfigError(f"data.{key}", getattr(config.data, key), why)
    if config.tta == "none":
        return
    if preprocessing is None:
        raise ConfigError("tta", config.tta, "is for images")
    if source.style == "character":
        raise ConfigError("tta", config.tta, "is for photographs; a character that is flipped or cut is another one")
    if config.tta != "flip" and preprocessing.crop_pct >= 1:
        raise ConfigError("tta", config.tta, "cuts parts out of larger images; set data.crop below 1, e.g. 0.875")
