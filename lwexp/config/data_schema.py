"""The data section of the config: one class for each choice of `conf/data/`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .section import Count, Fraction, NonNegative, OpenSection, Section, Workers

Level = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Spread = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
TaskChoice = Literal["auto", "classification", "multilabel", "regression"]


class TransformConfig(OpenSection):
    """A callable of the user's own, from a PIL image to a PIL image; other keys are arguments of its class."""

    target: str = Field(alias="_target_")


class ImagesConfig(Section):
    """What all sets of images have: their size, normalization, how they are split, augmented and loaded.

    `mean` and `std` of values in [0, 1]: one number, or one for each channel. None: as `Preprocessing` is chosen.
    `mixup`, `cutmix`: the alpha of the beta distribution that says how much is mixed; 0: nothing is.
    """

    image_size: Annotated[int, Field(ge=8, le=16384)] | None
    mean: Level | Annotated[list[Level], Field(min_length=1)] | None = None
    std: Spread | Annotated[list[Spread], Field(min_length=1)] | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    split_seed: Annotated[int, Field(ge=0)]
    augment: bool | str
    augment_options: dict[str, Any] = Field(default_factory=dict)
    erasing: Level = 0.0
    transforms: list[TransformConfig] = Field(default_factory=list)
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    train_size: Count | None = None
    workers: Workers


class DigitsConfig(ImagesConfig):
    """scikit-learn's 1,797 digit images, 8×8, resized to `image_size`."""

    name: Literal["digits"]


class ImageFolderConfig(ImagesConfig):
    """`path`/{train,val or validation,test}/<class>/<image>; a missing validation split is cut from train."""

    name: Literal["image_folder"]
    path: str
    crop: Annotated[float, Field(gt=0, le=1)] | None = None
    cache: bool | Literal["auto"]
    val_fraction: Annotated[float, Field(gt=0, lt=1)]


class TorchvisionConfig(ImagesConfig):
    """Any of torchvision's image classification sets, by class name, under `root`."""

    name: Literal["torchvision"]
    dataset: str
    root: str
    download: bool
    crop: Annotated[float, Field(gt=0, le=1)] | None = None
    cache: bool | Literal["auto"]
    options: dict[str, Any]
    val_fraction: Annotated[float, Field(gt=0, lt=1)]


class ImageTableConfig(ImagesConfig):
    """Images with labels or numbers in a table: files at `path`, or the set `dataset` of the `datasets` library.

    `label`: one column or several; `root`: folder of the images (null: the table's); `suffix`: what their names lack;
    `split`: column that says train, val or test.
    """

    name: Literal["images"]
    path: str | None
    dataset: str | None
    subset: str | None
    image: str | None
    label: str | list[str]
    delimiter: Annotated[str, Field(min_length=1)] | None
    task: TaskChoice
    root: str | None
    suffix: str
    split: str | None
    crop: Annotated[float, Field(gt=0, le=1)] | None = None
    cache: bool | Literal["auto"]
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    test_fraction: Fraction


class CustomDataConfig(ImagesConfig):
    """Datasets of the user's own: what `_target_`, called with `options`, returns."""

    name: Literal["custom"]
    target: str = Field(alias="_target_")
    options: dict[str, Any]
    task: TaskChoice
    crop: Annotated[float, Field(gt=0, le=1)] | None = None
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    test_fraction: Fraction


class TextConfig(Section):
    """Texts with their labels, from files at `path` or the set `dataset` of the `datasets` library."""

    name: Literal["text"]
    path: str | None
    dataset: str | None
    subset: str | None
    text: str
    label: str
    delimiter: Annotated[str, Field(min_length=1)] | None = None
    task: TaskChoice = "auto"
    tokenizer: str | None
    vocabulary: Annotated[int, Field(ge=8)]
    max_length: Count
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    test_fraction: Fraction
    split_seed: Annotated[int, Field(ge=0)]
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    train_size: Count | None = None
    workers: Workers

    @property
    def augment(self) -> bool:
        """Texts stay as they are."""
        return False


DataConfig = DigitsConfig | ImageFolderConfig | TorchvisionConfig | ImageTableConfig | CustomDataConfig | TextConfig
