"""From the cells of a table to what a network learns: classes, several labels, or numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lwexp.errors import ConfigError, nearest
from lwexp.formatting import few
from lwexp.tasks import Task

from .source import SplitName
from .splits import strata, stratified_cut

KEY = "data.label"
_BOOLEAN = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0, "0.0": 0.0, "1.0": 1.0}


@dataclass(frozen=True)
class Cells:
    """What one split of a table says about its samples: for each, a cell per column, and its place for messages."""

    rows: Sequence[tuple[Any, ...]]
    places: Sequence[str]


@dataclass(frozen=True)
class Targets:
    """The task, the names of the model's outputs, and the labels of each split, as `Split` has them."""

    task: Task
    names: tuple[str, ...]
    labels: Mapping[SplitName, Tensor]


def make_targets(
    cells: Mapping[SplitName, Cells],
    columns: Sequence[str],
    *,
    where: tuple[str, str],
    task: Task | None = None,
    delimiter: str | None = None,
    names: Sequence[str] | None = None,
    whole: bool = False,
) -> Targets:
    """What the `columns` say. `where`: key and value of the option that led to the table.

    `task` None: several labels where there is a `delimiter`, a list in each cell, or columns of 0 and 1; numbers where
    one has a fraction, or where several columns hold other numbers; else classes. `names`: those of the classes, whose
    cells are then indices. `whole`: the data are not to train on: a class may be in any split, and be the only one.
    Raises `ConfigError`, with the place of the row, for a cell that does not fit.
    """
    train = _joined(cells) if whole else cells["train"]
    task = task or _task_of(train, columns, delimiter)
    if delimiter is not None and task != "multilabel":
        raise ConfigError("data.delimiter", delimiter, f"separates several labels, data.task={task} has one")
    if task == "regression":
        labels = {split: _numbers(own, columns) for split, own in cells.items()}
        return Targets(task, tuple(columns), labels)
    if task == "multilabel" and len(columns) > 1:
        return Targets(task, tuple(columns), {split: _flags(own, columns) for split, own in cells.items()})
    if len(columns) > 1:
        raise ConfigError(KEY, list(columns), "a classification has one column; several are for labels and numbers")
    if task == "multilabel":
        read = {
            split: [_several(row[0], delimiter, place) for row, place in _each(own)] for split, own in cells.items()
        }
        seen = read if whole else {"train": read["train"]}
        order = _names(where, "label", {name for own in seen.values() for found in own for name in found}, names)
        index = {name: i for i, name in enumerate(order)}
        marked = {}
        for split, samples in read.items():
            marked[split] = torch.zeros(len(samples), len(order))
            for i, found in enumerate(samples):
                for name in found:
                    marked[split][i, _index(name, index, where, split, "label")] = 1.0
        return Targets(task, tuple(names or order), marked)
    ones = {split: [as_label(row[0], place) for row, place in _each(own)] for split, own in cells.items()}
    known = {name for own in ones.values() for name in own} if whole else set(ones["train"])
    if len(known) < 2 and not whole:
        raise ConfigError(*where, f"a single class only ({next(iter(known))}); there is nothing to classify")
    order = _names(where, "class", known, names)
    index = {name: i for i, name in enumerate(order)}
    classes = {
        split: torch.tensor([_index(name, index, where, split, "class") for name in own], dtype=torch.int64)
        for split, own in ones.items()
    }
    return Targets(task, tuple(names or order), classes)


def cut_missing(
    positions: dict[SplitName, Tensor],
    labels: Tensor,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    what: str,
) -> list[SplitName]:
    """Cut missing "test" and "val" splits from "train"; returns which. Both fractions are of all samples.

    `positions`: of each split in `labels`, int64 [n]. Stratified by class; where samples have several labels, by the
    rarest of each; for one number to predict, by ten parts of its range with as many samples each.
    """
    fractions: dict[SplitName, float] = {"test": test_fraction, "val": val_fraction}
    missing = {name: part for name, part in fractions.items() if name not in positions and part}
    if sum(missing.values()) >= 1:
        raise ConfigError("data.val_fraction", val_fraction, "leaves nothing to train on")
    parts = strata(labels)
    left = 1.0
    for name, fraction in missing.items():
        train = positions["train"]
        kept, cut = stratified_cut(parts[train], fraction / left, seed, what)
        positions["train"], positions[name] = train[kept], train[cut]
        left -= fraction
    return [*missing]


def as_label(value: object, where: str) -> str:
    """A label, an integer or a name, as a string; `where` gives its place for the error."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(KEY, value, f"is neither a whole number nor a name ({where})")
    return value.strip()


def _joined(cells: Mapping[SplitName, Cells]) -> Cells:
    rows = [row for own in cells.values() for row in own.rows]
    return Cells(rows, [place for own in cells.values() for place in own.places])


def _task_of(train: Cells, columns: Sequence[str], delimiter: str | None) -> Task:
    if delimiter is not None or any(isinstance(cell, (list, tuple)) for row in train.rows for cell in row):
        return "multilabel"
    cells = [cell for row in train.rows for cell in row]
    numbers = [_number(cell) for cell in cells]
    if len(columns) == 1:
        known = all(number is not None for number in numbers)
        fraction = any(
            isinstance(cell, float) or (number or 0) % 1 for cell, number in zip(cells, numbers, strict=True)
        )
        return "regression" if known and fraction else "classification"
    if all(str(cell).strip().lower() in _BOOLEAN for cell in cells):
        return "multilabel"
    for row, place in _each(train):
        for column, cell in zip(columns, row, strict=True):
            if _number(cell) is None:
                why = f"of several columns, each must hold 0 and 1 for a label, or numbers ({column} in {place})"
                raise ConfigError(KEY, cell, why)
    return "regression"


def _each(cells: Cells) -> Iterable[tuple[tuple[Any, ...], str]]:
    return zip(cells.rows, cells.places, strict=True)


def _number(cell: object) -> float | None:
    """A finite number, or None."""
    if isinstance(cell, bool) or not isinstance(cell, (str, int, float)):
        return None
    try:
        value = float(cell)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _numbers(cells: Cells, columns: Sequence[str]) -> Tensor:
    found = []
    for row, place in _each(cells):
        numbers = []
        for column, cell in zip(columns, row, strict=True):
            number = _number(cell)
            if number is None:
                raise ConfigError(KEY, column, f"{_shown(cell)} is not a finite number ({place})")
            numbers.append(number)
        found.append(numbers)
    return torch.tensor(found, dtype=torch.float32).reshape(len(found), len(columns))


def _flags(cells: Cells, columns: Sequence[str]) -> Tensor:
    found = []
    for row, place in _each(cells):
        flags = [_BOOLEAN.get(str(cell).strip().lower()) for cell in row]
        for column, cell, flag in zip(columns, row, flags, strict=True):
            if flag is None:
                raise ConfigError(KEY, column, f"{_shown(cell)} is neither 0 nor 1 ({place})")
        found.append(flags)
    return torch.tensor(found, dtype=torch.float32).reshape(len(found), len(columns))


def _several(cell: object, delimiter: str | None, place: str) -> list[str]:
    """The labels in one cell; an empty one has none."""
    if isinstance(cell, (list, tuple)):
        return [as_label(each, place) for each in cell]
    if delimiter is None:
        why = (
            f"{_shown(cell)} is one text ({place}); data.delimiter says what separates labels, e.g. data.delimiter=' '"
        )
        raise ConfigError(KEY, cell, why)
    if not isinstance(cell, str):
        return [as_label(cell, place)]
    return [part.strip() for part in cell.split(delimiter) if part.strip()]


def _names(where: tuple[str, str], what: str, known: set[str], names: Sequence[str] | None) -> list[str]:
    """Classes or labels in order: names sorted, integers by value."""
    if not known:
        raise ConfigError(*where, f"no training sample has a {what}")
    if names is not None:
        return [str(number) for number in range(len(names))]
    numbers = all(re.fullmatch(r"-?\d+", name) for name in known)
    return sorted(known, key=int) if numbers else sorted(known)


def _index(name: str, index: Mapping[str, int], where: tuple[str, str], split: str, what: str) -> int:
    if name not in index:
        raise ConfigError(*where, f"the {what} {name} of the {split} split is not in train; {nearest(name, index)}")
    return index[name]


def _shown(cell: object) -> str:
    text = few(str(cell).split(), 8, " ")
    return repr(text) if isinstance(cell, str) else text
