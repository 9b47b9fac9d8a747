"""Labeled texts from the `datasets` library: of the hub, of a folder of files, or saved to disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwexp.config.hub import find_on_hub
from lwexp.errors import ConfigError, UnknownNameError
from lwexp.formatting import one_line

from .source import SPLIT_NAMES, SplitName
from .text_files import SPLIT_FILES, LabeledTexts, as_label, as_text

if TYPE_CHECKING:
    from lwexp.config.data_schema import TextConfig

KEY = "data.dataset"


def read_library(config: TextConfig, name: str) -> tuple[dict[SplitName, LabeledTexts], list[str] | None]:
    """The texts of each split of `name`, and the names of its classes if it has them; labels are then their indices.

    Raises `ConfigError`.
    """
    parts = _load(config, name)
    chosen: dict[SplitName, Any] = {}
    for part, rows in parts.items():
        if (split := SPLIT_FILES.get(str(part))) is not None:
            chosen.setdefault(split, rows)
    if "train" not in chosen:
        raise ConfigError(KEY, name, f"has no train split, only {', '.join(map(str, parts))}")
    features = chosen["train"].features
    for key, column in (("data.text", config.text), ("data.label", config.label)):
        if column not in features:
            raise UnknownNameError(key, column, features, f"no such column in {name}")
    tables: dict[SplitName, LabeledTexts] = {}
    for split in (name for name in SPLIT_NAMES if name in chosen):
        where = f"{name}, {split}"
        labels = [as_label(label, where) for label in chosen[split][config.label]]
        if not labels:
            raise ConfigError(KEY, name, f"the {split} split holds no texts")
        if split == "test" and set(labels) == {"-1"}:
            continue  # hidden labels, as in GLUE
        tables[split] = LabeledTexts([as_text(text, where) for text in chosen[split][config.text]], labels)
    return tables, list(getattr(features[config.label], "names", None) or []) or None


def _load(config: TextConfig, name: str) -> Mapping[str, Any]:
    """The splits of the dataset by name."""
    try:
        import datasets as exported
    except ImportError:
        raise ConfigError(KEY, name, "needs the datasets library: pip install 'lwexp[datasets]'") from None
    datasets: Any = exported  # untyped exports
    folder = Path(name).expanduser()
    try:
        datasets.disable_progress_bars()
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            found: Any = datasets.load_from_disk(str(folder))
        else:
            entry = find_on_hub(name, KEY, file="README.md", kind="dataset")
            found = datasets.load_dataset(entry.name, config.subset)
    except ConfigError:
        raise
    except Exception as error:  # its readers raise many types
        raise ConfigError(KEY, name, f"cannot be loaded: {one_line(error, kind=True)}") from error
    return found if isinstance(found, Mapping) else {"train": found}
