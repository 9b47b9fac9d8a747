"""Labeled texts in tables: CSV, TSV and JSONL files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwexp.errors import ConfigError, UnknownNameError
from lwexp.tasks import Task

from .source import SplitName
from .tables import KEY, rows, split_files
from .targets import Cells, as_label


@dataclass(frozen=True)
class LabeledTexts:
    """The texts of one split, their labels as `cell_of` gives them, and their places for messages."""

    texts: list[str]
    labels: list[Any]
    places: list[str]

    @property
    def cells(self) -> Cells:
        """What the labels are made of."""
        return Cells([(label,) for label in self.labels], self.places)


def read_files(
    path: str, text: str, label: str, task: Task, *, needs_train: bool = True
) -> dict[SplitName, LabeledTexts]:
    """The texts of each split under `path`; a single file is "train". `text`, `label`: column names.

    Raises `ConfigError` for what is missing, empty or unreadable, with the file and line.
    """
    return {
        name: _read_file(path, file, text, label, task)
        for name, file in split_files(path, needs_train=needs_train).items()
    }


def _read_file(path: str, file: Path, text: str, label: str, task: Task) -> LabeledTexts:
    texts: list[str] = []
    labels: list[Any] = []
    places: list[str] = []
    for line, row in rows(path, file):
        for key, column in (("data.text", text), ("data.label", label)):
            if column not in row:
                raise UnknownNameError(key, column, map(str, row), f"no such column in {file.name}, line {line}")
        places.append(f"{file.name}, line {line}")
        texts.append(as_text(row[text], places[-1]))
        labels.append(cell_of(row[label], places[-1], task))
    if not texts:
        raise ConfigError(KEY, path, f"{file.name} holds no texts")
    return LabeledTexts(texts, labels, places)


def as_text(value: object, where: str) -> str:
    """`value`, which must be a string; `where` gives its place for the error."""
    if not isinstance(value, str):
        raise ConfigError("data.text", value, f"is a {type(value).__name__}, not a text ({where})")
    return value


def cell_of(value: Any, where: str, task: Task) -> Any:
    """What the label of one text is made of: the name of a class, or the `value` itself of another task."""
    return value if task in ("multilabel", "regression") else as_label(value, where)
