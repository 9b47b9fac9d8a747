"""Images with their labels from the `datasets` library: of the hub, of a folder of files, or saved to disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lwexp.errors import ConfigError

from .contents import Contents
from .image_table import chosen_task, columns_of, digests, source_of
from .images import CorruptImageError, PILStore, find_channels
from .library import KEY, class_names, library_splits
from .source import DataSource, SplitName
from .standalone import as_mode, upright
from .targets import Cells, Targets, make_targets

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from lwexp.config.data_schema import ImageTableConfig


def open_image_library(config: ImageTableConfig, *, whole: bool = False) -> DataSource:
    """The images of `data.dataset`; splits that are missing are cut from train by `data.split_seed`.

    `whole` as in `open_data`. Raises `ConfigError`.
    """
    name, columns = str(config.dataset), columns_of(config)
    image = config.image or "image"
    for key, value in (("data.root", config.root), ("data.split", config.split), ("data.suffix", config.suffix)):
        if value:
            raise ConfigError(key, value, "is for a table (data.path); data.dataset has its own images and splits")
    chosen = library_splits(name, config.subset, {"data.image": [image], "data.label": columns})
    cells: dict[SplitName, Cells] = {}
    for split, rows in dict(chosen).items():
        own = list(zip(*(rows[column] for column in columns), strict=True))
        if not own:
            raise ConfigError(KEY, name, f"the {split} split holds no images")
        if split == "test" and len(columns) == 1 and {str(row[0]) for row in own} <= {"-1", "None"}:
            del chosen[split]  # hidden labels
            continue
        cells[split] = Cells(own, [f"{name}, {split}, row {number}" for number in range(len(own))])
    features = chosen["train"].features
    targets = make_targets(
        cells,
        columns,
        where=(KEY, name),
        task=chosen_task(config),
        delimiter=config.delimiter,
        whole=whole,
        names=class_names(features[columns[0]]) if len(columns) == 1 else None,
    )
    parts = [_decoded(chosen[split], image, name) for split in targets.labels]
    store = LibraryStore(parts, image, name, targets)
    return source_of(config, store, targets, channels=store.channels)


class LibraryStore(PILStore):
    """The images of a set of the `datasets` library, split after split."""

    def __init__(self, parts: Sequence[Any], column: str, name: str, targets: Targets) -> None:
        """`parts`: its splits, whose `column` gives PIL images. Reads a few images to find their channels."""
        self._parts, self._column, self._name = parts, column, name
        self._labels: Mapping[SplitName, Any] = targets.labels
        super().__init__(channels=3)
        self.channels = find_channels(self._read, sum(map(len, parts)))

    def identity(self, positions: Sequence[int]) -> str:
        """The library's fingerprints of the splits."""
        return f"{self._name} {self._column} {[part._fingerprint for part in self._parts]} {list(positions)}"

    def contents(self) -> Contents:
        """Checksums of the labels: the library keeps many images in a file."""
        return digests(self._labels)

    def load(self, position: int, channels: int) -> PILImage:
        """Decode one image."""
        try:
            return as_mode(upright(self._read(position)), channels)
        except Exception as error:  # Pillow's decoders raise many types
            raise CorruptImageError.of(KEY, self._name, f"number {position}", error) from error

    def _read(self, position: int) -> PILImage:
        for part in self._parts:
            if position < len(part):
                break
            position -= len(part)
        image: PILImage | None = part[position][self._column]
        if image is None:
            raise ValueError("there is none")
        return image


def _decoded(rows: Any, column: str, name: str) -> Any:
    """`rows` with `column` alone, decoded to PIL images: it may hold paths, bytes, or images already."""
    import datasets as exported

    datasets: Any = exported  # untyped exports
    rows = rows.select_columns([column])
    if not isinstance(rows.features[column], datasets.Image):
        try:
            rows = rows.cast_column(column, datasets.Image())
        except Exception as error:  # pyarrow's errors have no common parent
            why = f"holds {rows.features[column]}, not images"
            raise ConfigError("data.image", column, f"{why} ({name})") from error
    return rows
