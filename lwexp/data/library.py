"""Sets of the `datasets` library: of the hub, of a folder of files, or saved to disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lwexp.config.hub import find_on_hub
from lwexp.errors import ConfigError, UnknownNameError
from lwexp.formatting import one_line

from .source import SPLIT_NAMES, SplitName
from .tables import SPLIT_FILES

KEY = "data.dataset"


def library_splits(name: str, subset: str | None, columns: Mapping[str, Iterable[str]]) -> dict[SplitName, Any]:
    """The splits of the set `name`, as the library has them; `columns` are those that train must have, by config key.

    Raises `ConfigError` for a set that cannot be loaded, without a train split or without a column.
    """
    parts = _load(name, subset)
    chosen: dict[SplitName, Any] = {}
    for part, rows in parts.items():
        if (split := SPLIT_FILES.get(str(part))) is not None:
            chosen.setdefault(split, rows)
    if "train" not in chosen:
        raise ConfigError(KEY, name, f"has no train split, only {', '.join(map(str, parts))}")
    features = chosen["train"].features
    for key, wanted in columns.items():
        for column in wanted:
            if column not in features:
                raise UnknownNameError(key, column, features, f"no such column in {name}")
    return {split: chosen[split] for split in SPLIT_NAMES if split in chosen}


def class_names(feature: Any) -> list[str] | None:
    """The names of a ClassLabel, also of a sequence of them; None if it has none."""
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else feature)
    return list(getattr(inner, "names", None) or []) or None


def _load(name: str, subset: str | None) -> Mapping[str, Any]:
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
            found = datasets.load_dataset(entry.name, subset)
    except ConfigError:
        raise
    except Exception as error:  # its readers raise many types
        raise ConfigError(KEY, name, f"cannot be loaded: {one_line(error, kind=True)}") from error
    return found if isinstance(found, Mapping) else {"train": found}
