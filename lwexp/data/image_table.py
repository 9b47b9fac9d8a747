"""Images whose labels or numbers are in a table: CSV, TSV and JSONL files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lwexp.errors import ConfigError, UnknownNameError, nearest
from lwexp.formatting import few

from .contents import Contents, labels_digest
from .image_folder import FileStore
from .source import SPLIT_NAMES, DataSource, Split, SplitName
from .tables import KEY, SPLIT_FILES, rows, split_files
from .targets import Cells, Targets, cut_missing, make_targets

if TYPE_CHECKING:
    from torch import Tensor

    from lwexp.config.data_schema import ImageTableConfig

IMAGE_COLUMNS = ("image", "file", "file_name", "filename", "path", "image_path", "filepath")


def open_image_table(config: ImageTableConfig, *, whole: bool = False) -> DataSource:
    """The images that `data.path` lists; splits that are missing are cut from train by `data.split_seed`.

    A file that lists all splits says in the column `data.split` which row is of which. Raises `ConfigError` for what is
    missing, empty or unreadable. `whole` as in `open_data`.
    """
    path = str(config.path)
    columns = columns_of(config)
    names: dict[SplitName, list[str]] = {}
    cells: dict[SplitName, Cells] = {}
    for given, file in split_files(path, needs_train=not whole).items():
        for split, found in _read(config, path, file, given, columns).items():
            if split in names:
                raise ConfigError("data.split", config.split, f"{file.name} has rows of {split}, which has a file")
            names[split], cells[split] = found
    if "train" not in cells and not whole:
        raise ConfigError("data.split", config.split, f"no row is of train, only of {', '.join(cells)}")
    how: dict[str, Any] = {"task": chosen_task(config), "delimiter": config.delimiter, "whole": whole}
    targets = make_targets(cells, columns, where=(KEY, path), **how)
    files = _files(config, path, names, cells)
    return source_of(config, TableStore(_root(config), files, (KEY, path), targets), targets, channels=3)


class TableStore(FileStore):
    """Image files by position, split after split."""

    def __init__(self, root: str, files: list[str], given: tuple[str, str], targets: Targets) -> None:
        """`root` is the folder of the files; `given` as in `FileStore`."""
        super().__init__(root, files, given)
        self._labels = targets.labels

    def contents(self) -> Contents:
        """Names and sizes of the files, and checksums of what the table says of them."""
        return {**super().contents(), **digests(self._labels)}


def digests(labels: Mapping[SplitName, Tensor]) -> Contents:
    """A checksum of the labels of each split."""
    return {f"labels of {split}": labels_digest(own) for split, own in labels.items()}


def columns_of(config: ImageTableConfig) -> list[str]:
    """The columns of the labels. Raises `ConfigError` for none, and for one that is there twice."""
    columns = [config.label] if isinstance(config.label, str) else list(config.label)
    if not columns or len(set(columns)) < len(columns):
        raise ConfigError("data.label", config.label, "must name a column, or several different ones")
    return columns


def chosen_task(config: Any) -> Any:
    """`data.task`, None for "auto"."""
    return None if config.task == "auto" else config.task


def source_of(config: ImageTableConfig, store: Any, targets: Targets, channels: int) -> DataSource:
    """The opened data: images are in `store` split after split, in the order of the `targets`."""
    whole = torch.cat([targets.labels[split] for split in targets.labels])
    positions: dict[SplitName, Tensor] = {}
    start = 0
    for split, own in targets.labels.items():
        positions[split] = torch.arange(start, start + len(own))
        start += len(own)
    cut = cut_missing(
        positions,
        whole,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        seed=config.split_seed,
        what="image",
    )
    return DataSource(
        {split: Split(store, where, whole[where]) for split, where in positions.items()},
        classes=targets.names,
        channels=channels,
        image_size=config.image_size,
        style="photograph",
        task=targets.task,
        cut=cut,
    )


def _read(
    config: ImageTableConfig, path: str, file: Path, given: SplitName, columns: Sequence[str]
) -> dict[SplitName, tuple[list[str], Cells]]:
    """The names of the images and the cells of their labels by split; `given` is that of the file."""
    found: dict[SplitName, tuple[list[str], list[tuple[Any, ...]], list[str]]] = {}
    image = config.image
    for line, row in rows(path, file):
        place = f"{file.name}, line {line}"
        if image is None:
            image = next((column for column in IMAGE_COLUMNS if column in row), None)
            if image is None:
                why = f"{file.name} has no column {', '.join(IMAGE_COLUMNS)}; data.image=… names that of the images"
                raise ConfigError("data.image", None, f"{why} ({', '.join(map(str, row))})")
        wanted = [("data.image", image), *(("data.label", column) for column in columns)]
        for key, column in [*wanted, *([("data.split", config.split)] if config.split else [])]:
            if column not in row:
                raise UnknownNameError(key, column, map(str, row), f"no such column in {place}")
        if not isinstance(row[image], str) or not row[image].strip():
            raise ConfigError("data.image", image, f"{row[image]!r} is not the name of an image ({place})")
        split = given if config.split is None else _split_of(config, row[config.split], place)
        names, cells, places = found.setdefault(split, ([], [], []))
        names.append(row[image].strip() + config.suffix)
        cells.append(tuple(row[column] for column in columns))
        places.append(place)
    if not found:
        raise ConfigError(KEY, path, f"{file.name} lists no images")
    return {split: (found[split][0], Cells(*found[split][1:])) for split in SPLIT_NAMES if split in found}


def _split_of(config: ImageTableConfig, value: object, place: str) -> SplitName:
    name = str(value).strip().lower()
    if name not in SPLIT_FILES:
        raise ConfigError("data.split", config.split, f"{value!r} is no split ({place}); {nearest(name, SPLIT_FILES)}")
    return SPLIT_FILES[name]


def _root(config: ImageTableConfig) -> str:
    """The folder that the names in the table start at: `data.root`, else that of the table."""
    if config.root is not None:
        return config.root
    path = Path(str(config.path)).expanduser()
    return str(path if path.is_dir() else path.parent)


def _files(
    config: ImageTableConfig, path: str, names: Mapping[SplitName, Sequence[str]], cells: Mapping[SplitName, Cells]
) -> list[str]:
    """Full paths, split after split. Raises `ConfigError` for files outside of the folder, and for missing ones."""
    root = os.path.abspath(Path(_root(config)).expanduser())  # noqa: PTH100  links stay as they are
    files, missing = [], []
    for split, own in names.items():
        for name, place in zip(own, cells[split].places, strict=True):
            file = os.path.normpath(os.path.join(root, name))  # noqa: PTH118
            if os.path.commonpath([root, file]) != root:
                why = f"{name} ({place}) is outside of the folder {root}; data.root=/ allows any file"
                raise ConfigError(KEY, path, why)
            if not os.path.isfile(file):  # noqa: PTH113
                missing.append(f"{name} ({place})")
            files.append(file)
    if missing:
        count = f"{len(missing)} of {len(files)} images are not in {root}"
        raise ConfigError(
            KEY, path, f"{count}: {few(missing)}; data.root says where they are, data.suffix their ending"
        )
    return files
