"""Datasets of the user's own, by `data._target_`: any torch `Dataset` of (PIL image or tensor, label)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, Subset

from lwexp.config.targets import own_object
from lwexp.errors import ConfigError
from lwexp.formatting import one_line

from .custom_store import KEY, OwnStore
from .image_table import chosen_task, digests
from .keys import seeded
from .source import SPLIT_NAMES, DataSource, Split, SplitName
from .tables import SPLIT_FILES
from .targets import Cells, cut_missing, make_targets

if TYPE_CHECKING:
    from lwexp.config.data_schema import CustomDataConfig

log = logging.getLogger(__name__)
CONTRACT = (
    "must give train, and may give val and test: a mapping, a tuple, an object with those attributes, or a dataset"
)


def open_custom(config: CustomDataConfig, *, whole: bool = False) -> DataSource:
    """The datasets that `data._target_` makes; splits that are missing are cut from train by `data.split_seed`.

    Their labels are read once: from an attribute `targets` where there is one, else from every sample. Class names are
    those of an attribute `classes` of the training set. `whole` as in `open_data`. Raises `ConfigError` for what is not
    as documented.
    """
    target = config.target
    with seeded(0):
        made = own_object(target, config.options, "data", "class or function", ".options")
        parts = _parts(target, made)
        first = _sample(target, parts["train"], 0)[0]
        cells = {split: _cells(target, part, split) for split, part in parts.items()}
    names = [str(name) for name in getattr(parts["train"], "classes", None) or getattr(made, "classes", None) or ()]
    width = len(cells["train"].rows[0])
    if names and 1 < width != len(names):
        raise ConfigError(KEY, target, f"its labels have {width} numbers, its attribute classes has {len(names)} names")
    columns = names if width > 1 and names else [str(number) for number in range(width)]
    indexed = width == 1 and names and all(_is_index(row[0]) for row in cells["train"].rows)
    how: dict[str, Any] = {"task": chosen_task(config), "names": names if indexed else None, "whole": whole}
    targets = make_targets(cells, columns, where=(KEY, target), **how)
    positions: dict[SplitName, Tensor] = {}
    starts = np.cumsum([0, *(len(own) for own in targets.labels.values())]).tolist()
    every_label = torch.cat(list(targets.labels.values()))
    for split, start in zip(targets.labels, starts, strict=False):
        positions[split] = torch.arange(start, start + len(targets.labels[split]))
    fractions = {"val_fraction": config.val_fraction, "test_fraction": config.test_fraction}
    cut = cut_missing(positions, every_label, **fractions, seed=config.split_seed, what="image")
    every = [parts[split] for split in targets.labels]
    store = OwnStore(target, every, digests(targets.labels), first)
    return DataSource(
        {split: Split(store, where, every_label[where]) for split, where in positions.items()},
        classes=targets.names,
        channels=store.channels,
        image_size=_tensor_size(config, first) if isinstance(first, Tensor) else config.image_size,
        style="photograph",
        task=targets.task,
        ready=store.ready,
        cut=cut,
    )


def _parts(target: str, made: Any) -> dict[SplitName, Any]:
    """The datasets by split. Raises `ConfigError` for what cannot be indexed, and for an empty one."""
    named = _named(target, made)
    found = {split: named[split] for split in SPLIT_NAMES if named.get(split) is not None}
    if "train" not in found:
        raise ConfigError(KEY, target, f"returns a {type(made).__name__}; it {CONTRACT}")
    for split, part in found.items():
        if isinstance(part, IterableDataset) or not (hasattr(part, "__len__") and hasattr(part, "__getitem__")):
            why = f"its {split} is a {type(part).__name__} without len() and [index], which a map-style dataset has"
            raise ConfigError(KEY, target, why)
        if not len(part):
            raise ConfigError(KEY, target, f"its {split} dataset is empty")
    return found


def _named(target: str, made: Any) -> dict[SplitName, Any]:
    """What the user's code `made`, by split."""
    if isinstance(made, Mapping):
        unknown = [str(key) for key in made if str(key).lower() not in SPLIT_FILES]
        if unknown:
            raise ConfigError(KEY, target, f"gives {', '.join(unknown)}; {CONTRACT}")
        named: dict[SplitName, Any] = {}
        for key, part in made.items():
            split = SPLIT_FILES[str(key).lower()]
            if named.get(split) is not None and part is not None:
                raise ConfigError(KEY, target, f"gives {split} twice ({', '.join(map(str, made))}); it {CONTRACT}")
            named[split] = named.get(split) if part is None else part
        return named
    if isinstance(made, tuple):
        if len(made) > len(SPLIT_NAMES):
            why = f"returns a tuple of {len(made)}; the order is {', '.join(SPLIT_NAMES)}, and it {CONTRACT}"
            raise ConfigError(KEY, target, why)
        return dict(zip(SPLIT_NAMES, made, strict=False))
    if hasattr(made, "__getitem__"):
        return {"train": made}
    return {split: getattr(made, split, None) for split in SPLIT_NAMES}


def _sample(target: str, part: Any, index: int) -> tuple[Any, Any]:
    """One (image, label). Raises `ConfigError` for anything else."""
    try:
        found = part[index]
    except Exception as error:  # code of the user's may raise anything
        raise ConfigError(KEY, target, f"its sample {index} fails: {one_line(error, kind=True)}") from error
    wanted = "samples must be (PIL image or float tensor [channels, side, side], label)"
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise ConfigError(KEY, target, f"its sample {index} is a {type(found).__name__}; {wanted}")
    image = found[0]
    fits = isinstance(image, Image.Image) or (
        isinstance(image, Tensor) and image.is_floating_point() and image.ndim == 3 and image.shape[1] == image.shape[2]
    )
    if not fits:
        shown = f"{image.dtype} tensor {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise ConfigError(KEY, target, f"its sample {index} has a {shown}; {wanted}")
    return image, found[1]


def _cells(target: str, part: Any, split: str) -> Cells:
    labels = _stored_labels(part)
    rows = [] if labels is None else [_cell(label) for label in labels]
    if not rows or any(rows[index] != _cell(_sample(target, part, index)[1]) for index in _telling(rows)):
        log.info("data: reading %d %s samples for their labels; an attribute `targets` saves it", len(part), split)
        rows = [_cell(_sample(target, part, index)[1]) for index in range(len(part))]
    if len({len(row) for row in rows}) > 1:
        raise ConfigError(KEY, target, f"the labels of its {split} dataset have different numbers of values")
    return Cells(rows, [f"{split}, sample {index}" for index in range(len(rows))])


def _telling(rows: Sequence[tuple[Any, ...]]) -> list[int]:
    """The positions that show whether stored labels are those of the samples: the first of each label.

    A dataset may map labels, and sorted ones may agree for a long time. Of numbers and lists, some over the whole set.
    """
    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        first.setdefault(repr(row), index)
    found = list(first.values())
    most = 1000 if all(len(row) == 1 and isinstance(row[0], (int, str)) for row in rows) else 100
    if len(found) <= most:
        return found
    return [found[k * (len(found) - 1) // (most - 1)] for k in range(most)]


def _stored_labels(part: Any) -> Sequence[Any] | None:
    """The labels by position in an attribute `targets`, also of the dataset that a `Subset` is of.

    None where there are none, or where a `target_transform` makes others of them.
    """
    if isinstance(part, Subset):
        whole = _stored_labels(part.dataset)
        return None if whole is None else [whole[index] for index in part.indices]
    found = getattr(part, "targets", None)
    if (
        found is None
        or getattr(part, "target_transform", None) is not None
        or not hasattr(found, "__len__")
        or len(found) != len(part)
    ):
        return None
    return found  # type: ignore[no-any-return]


def _cell(label: Any) -> tuple[Any, ...]:
    """A label as the cells of a table: one, or a number of each column."""
    if isinstance(label, (Tensor, np.ndarray, np.generic)):
        label = label.tolist()
    if isinstance(label, (list, tuple)) and label and not any(isinstance(each, str) for each in label):
        return tuple(label)
    return (list(label),) if isinstance(label, (set, frozenset, tuple)) else (label,)


def _is_index(cell: Any) -> bool:
    return isinstance(cell, int) and not isinstance(cell, bool)


def _tensor_size(config: CustomDataConfig, first: Tensor) -> int:
    size = first.shape[1]
    if config.image_size not in (None, size):
        raise ConfigError("data.image_size", config.image_size, f"the samples are tensors of {size} pixels; omit it")
    return size
