"""Labeled texts from the `datasets` library: of the hub, of a folder of files, or saved to disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwexp.errors import ConfigError
from lwexp.tasks import Task

from .library import KEY, class_names, library_splits
from .source import SplitName
from .text_files import LabeledTexts, as_text, cell_of

if TYPE_CHECKING:
    from lwexp.config.data_schema import TextConfig


def read_library(config: TextConfig, name: str, task: Task) -> tuple[dict[SplitName, LabeledTexts], list[str] | None]:
    """The texts of each split of `name`, and the names of its classes if it has them; labels are then their indices.

    Raises `ConfigError`.
    """
    chosen = library_splits(name, config.subset, {"data.text": [config.text], "data.label": [config.label]})
    tables: dict[SplitName, LabeledTexts] = {}
    for split, rows in chosen.items():
        where = f"{name}, {split}"
        labels = [cell_of(label, where, task) for label in rows[config.label]]
        if not labels:
            raise ConfigError(KEY, name, f"the {split} split holds no texts")
        if split == "test" and set(map(str, labels)) == {"-1"}:
            continue  # hidden labels, as in GLUE
        places = [f"{where}, row {number}" for number in range(len(labels))]
        tables[split] = LabeledTexts([as_text(text, where) for text in rows[config.text]], labels, places)
    return tables, class_names(chosen["train"].features[config.label])
