"""A data source: its splits, and the datasets made from them."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from lwexp.config.augment_options import Style
from lwexp.errors import ConfigError
from lwexp.tasks import Task

from .augmentation import Augmentation
from .cache import CacheSettings
from .contents import Contents
from .images import SampleDataset, SampleStore
from .info import DataInfo, TargetScale
from .keys import order_seed
from .splits import strata, stratified_part
from .tokens import Tokens
from .transforms import Preprocessing

SplitName = Literal["train", "val", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """One split: positions in `store`, int64 [n], and their labels.

    Labels are int64 [n] of a classification, else float32 [n, outputs]: 0 or 1 for each label, or the numbers.
    """

    store: SampleStore
    positions: Tensor
    labels: Tensor

    def only(self, mask: Tensor, labels: Tensor) -> Split:
        """The samples where `mask` (bool [n]) is true, with new `labels` (int64 [n])."""
        return Split(self.store, self.positions[mask], labels[mask])


@dataclass(frozen=True)
class Splits:
    """The datasets of a run; `test` is None where the data has no test split."""

    train: SampleDataset
    val: SampleDataset
    test: SampleDataset | None


class DataSource:
    """Opened data: scanned and split, nothing decoded yet."""

    def __init__(
        self,
        splits: Mapping[SplitName, Split],
        *,
        classes: tuple[str, ...],
        channels: int,
        image_size: int | None,
        style: Style | None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        tokens: Tokens | None = None,
        task: Task = "classification",
        ready: bool = False,
        cut: Collection[SplitName] | None = None,
    ) -> None:
        """`splits` has "train" and "val", and optionally "test"; labels index `classes`; the rest as in `DataInfo`.

        Data to evaluate on may have any of the three.

        `cut`: the splits that the data did not have and that were cut from others; None: not known.
        """
        self.cut = cut
        self._splits = {name: splits[name] for name in SPLIT_NAMES if name in splits}
        self._style = style
        sizes = {str(name): len(split.labels) for name, split in self._splits.items()}
        scale = TargetScale.of(self._splits["train"].labels) if task == "regression" and "train" in splits else None
        self.info = DataInfo(channels, classes, sizes, image_size, mean, std, tokens, task, scale, ready)

    @property
    def style(self) -> Style | None:
        """Which augmentation its images allow, and how they are cut to a square; None for texts."""
        return self._style

    @property
    def split_names(self) -> tuple[SplitName, ...]:
        """The splits that there are."""
        return tuple(self._splits)

    def split(self, name: SplitName) -> Split:
        """One of them."""
        return self._splits[name]

    def labels(self, split: SplitName) -> Tensor:
        """The labels of `split`, as `Split` has them."""
        return self._splits[split].labels.clone()

    @cached_property
    def contents(self) -> Contents:
        """What the data consist of, all classes and splits: names and sizes of files, looked up once."""
        stores = {id(split.store): split.store for split in self._splits.values()}
        return {name: size for store in stores.values() for name, size in store.contents().items()}

    def datasets(
        self,
        preprocessing: Preprocessing | None,
        augment: Augmentation | bool | None,
        seed: int,
        cache: CacheSettings | None = None,
        evaluated: Preprocessing | None = None,
    ) -> Splits:
        """Map-style datasets. Only "train" is augmented (True: as usual), by `seed`; `preprocessing` of texts is None.

        `cache`: where decoded images are kept, which does not change them; None: not at all. `evaluated`: the
        preprocessing of the other splits, if it is another one.
        """
        how = (Augmentation() if augment else None) if isinstance(augment, bool) else augment
        made = {
            name: split.store.dataset(
                split.positions,
                split.labels,
                preprocessing if name == "train" or evaluated is None else evaluated,
                style=self._style,
                augment=how if name == "train" else None,
                seed=seed,
                cache=cache,
            )
            for name, split in self._splits.items()
        }
        return Splits(made["train"], made["val"], made.get("test"))

    def with_train(self, size: int, seed: int) -> DataSource:
        """The same data with `size` of the training samples, drawn by `seed`, in the proportions of all.

        Everything else stays as all training samples made it: classes, normalization, vocabulary. Raises `ConfigError`.
        """
        train = self._splits["train"]
        kept = stratified_part(strata(train.labels), size, seed)
        split = Split(train.store, train.positions[kept], train.labels[kept])
        part = copy.copy(self)
        part._splits = {**self._splits, "train": split}
        part.info = replace(self.info, sizes={**self.info.sizes, "train": size})
        return part

    def restrict(self, labels: list[int]) -> DataSource:
        """The same data with only the classes `labels`, relabeled 0, 1, … in that order; of a classification."""
        new = torch.full((len(self.info.classes),), -1, dtype=torch.int64)
        new[labels] = torch.arange(len(labels))
        splits: dict[SplitName, Split] = {}
        for name, split in self._splits.items():
            relabeled = new[split.labels]
            part = split.only(relabeled >= 0, relabeled)
            if len(part.labels) or name != "test":
                splits[name] = part
        classes = tuple(self.info.classes[label] for label in labels)
        return DataSource(
            splits,
            classes=classes,
            channels=self.info.channels,
            image_size=self.info.image_size,
            style=self._style,
            mean=self.info.mean,
            std=self.info.std,
            tokens=self.info.tokens,
            ready=self.info.ready,
            cut=self.cut,
        )


def half_of_classes(source: DataSource, half: Literal["source", "target"], seed: int) -> DataSource:
    """`source` with one of two disjoint halves of its classes, chosen by `seed`.

    Of an odd number of classes the "target" half has one more. Raises `ConfigError` for fewer than four classes, since
    a task needs two, and for a half without validation samples.
    """
    if source.info.task != "classification":
        what = "several labels each" if source.info.task == "multilabel" else "numbers to predict"
        raise ConfigError("weights", "source_task", f"halves the classes of the data, which have {what}")
    count = len(source.info.classes)
    if count < 4:
        raise ConfigError("weights", "source_task", f"needs at least 4 classes to halve, the data has {count}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(order_seed(seed, 0))).tolist()
    chosen = sorted(order[: count // 2] if half == "source" else order[count // 2 :])
    part = source.restrict(chosen)
    if not part.info.sizes["val"]:
        raise ConfigError(
            "weights", "source_task", f"no {part.info.kind} of the {half} half of the classes is for validation"
        )
    return part
