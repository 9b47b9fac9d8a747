"""Folders of images: `<path>/{train,val,test}/<class>/<image>`, or `<path>/<class>/<image>`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lwexp.errors import ConfigError, nearest
from lwexp.host.resources import usable_cores

from .cache import stats_of
from .contents import Contents, sizes_of
from .images import CorruptImageError, PILStore, read_image
from .source import SPLIT_NAMES, DataSource, Split, SplitName
from .splits import stratified_cut

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from lwexp.config.schema import ImageFolderConfig

KEY = "data.path"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
LAYOUT = "expected <path>/train/<class>/<image> or <path>/<class>/<image>"


def open_image_folder(config: ImageFolderConfig) -> DataSource:
    """Scan `data.path`; a missing validation split is cut from train, stratified, by `data.split_seed`.

    Raises `ConfigError` for a folder that is missing, unreadable or without images, a class without images, a class
    that is not in train, and a single class.
    """
    folders = _split_folders(config.path)
    found = {name: _classes(config.path, folders[name]) for name in SPLIT_NAMES if name in folders}
    classes = tuple(sorted(found["train"]))
    if len(classes) == 1:
        raise ConfigError(KEY, config.path, f"a single class only ({classes[0]}){_hint(config.path, classes[0])}")
    for name, images in found.items():
        for unknown in sorted(set(images) - set(classes)):
            place = _relative(config.path, folders[name] / unknown)
            raise ConfigError(KEY, config.path, f"the class of {place} is not in train; {nearest(unknown, classes)}")

    files: list[str] = []
    splits: dict[SplitName, Split] = {}
    store = FileStore(config.path, files)
    for name, images in found.items():
        start = len(files)
        labels: list[int] = []
        for label, class_name in enumerate(classes):
            files.extend(images.get(class_name, []))
            labels.extend([label] * len(images.get(class_name, [])))
        splits[name] = Split(store, torch.arange(start, len(files)), torch.tensor(labels, dtype=torch.int64))
    if "val" not in splits:
        train = splits["train"]
        kept, cut = stratified_cut(train.labels, config.val_fraction, config.split_seed)
        splits["train"] = Split(store, train.positions[kept], train.labels[kept])
        splits["val"] = Split(store, train.positions[cut], train.labels[cut])
    return DataSource(splits, classes=classes, channels=3, image_size=config.image_size, style="photograph")


class FileStore(PILStore):
    """Image files by position; `root` is the user's path, `files` are full paths."""

    threads = usable_cores()  # Pillow releases the GIL while it decodes

    def __init__(self, root: str, files: list[str]) -> None:
        """Reads nothing."""
        super().__init__(channels=3)
        self._root, self._files = root, files

    def identity(self, positions: Sequence[int]) -> str:
        """The files with their sizes and modification times."""
        return stats_of(self._files[position] for position in positions)

    def contents(self) -> Contents:
        """Names and sizes of the files."""
        return sizes_of(str(Path(self._root).expanduser()), self._files)

    def load(self, position: int, channels: int) -> PILImage:
        """Read and decode one file."""
        path = Path(self._files[position])
        try:
            return read_image(path, channels)
        except Exception as error:  # Pillow's decoders raise many types
            raise CorruptImageError.of(KEY, self._root, _relative(self._root, path), error) from error


def _split_folders(path: str) -> dict[SplitName, Path]:
    """The folder of each split; for class folders directly below `path`, that of "train" alone."""
    root = Path(path).expanduser()
    if not root.exists():
        raise ConfigError(KEY, path, f"there is no such folder (looked for {root.absolute()})")
    if not root.is_dir():
        raise ConfigError(KEY, path, "is a file, not a folder of images")
    below = _subfolders(path, root)
    folders: dict[SplitName, Path] = {}
    for folder in below:
        split = SPLIT_FOLDERS.get(folder.name.lower())
        if split in folders:
            raise ConfigError(KEY, path, f"both {folders[split].name} and {folder.name} could be the {split} split")
        if split is not None:
            folders[split] = folder
    others = [folder for folder in below if folder not in folders.values()]
    # a folder "train" beside other folders, with images but no folders in it, is a class (railway trains)
    if "train" in folders and (_subfolders(path, folders["train"]) or not others):
        return folders
    if folders and "train" not in folders:
        names = ", ".join(sorted(folder.name for folder in folders.values()))
        raise ConfigError(KEY, path, f"has {names} but no train folder; {LAYOUT}")
    if not below:
        raise ConfigError(KEY, path, f"has no folders of images; {LAYOUT}")
    return {"train": root}


def _classes(path: str, folder: Path) -> dict[str, list[str]]:
    """Class name -> sorted image files, in the folder of one split."""
    images = {sub.name: list(_images(path, sub)) for sub in _subfolders(path, folder)}
    if not any(images.values()):
        place = "" if folder == Path(path).expanduser() else f" in {_relative(path, folder)}"
        raise ConfigError(KEY, path, f"no images{place} ({', '.join(s[1:] for s in SUFFIXES)}); {LAYOUT}")
    for name, files in images.items():
        if not files:
            place = _relative(path, folder / name)
            raise ConfigError(KEY, path, f"no images in the class folder {place}; remove it or fill it")
    return images


def _images(path: str, folder: Path) -> Iterator[str]:
    """Image files in and below `folder`, in the order of their names; each link is followed once."""
    visited: set[str] = set()
    for here, below, names in os.walk(folder, followlinks=True, onerror=lambda error: _refuse(path, error)):
        real = os.path.realpath(here)
        if real in visited:
            below.clear()
            continue
        visited.add(real)
        below[:] = sorted(name for name in below if not _ignored(name))
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not _ignored(name):
                yield os.path.join(here, name)  # noqa: PTH118  a million of them: strings, not Path objects


def _subfolders(path: str, folder: Path) -> list[Path]:
    try:
        return sorted(sub for sub in folder.iterdir() if sub.is_dir() and not _ignored(sub.name))
    except OSError as error:
        raise _refusal(path, error) from None


def _ignored(name: str) -> bool:
    """Whether it is hidden (`.ipynb_checkpoints`, macOS's `._cat.jpg`)."""
    return name.startswith(".") or name == "__MACOSX"


def _refuse(path: str, error: OSError) -> None:
    raise _refusal(path, error)


def _refusal(path: str, error: OSError) -> ConfigError:
    return ConfigError(KEY, path, f"cannot read {error.filename}: {(error.strerror or str(error)).lower()}")


def _hint(path: str, name: str) -> str:
    """A hint for a path that is one level too high."""
    below = Path(path).expanduser() / name
    return f"; did you mean {Path(path) / name}?" if (below / "train").is_dir() else "; there is nothing to classify"


def _relative(path: str, place: Path) -> str:
    """`place` relative to `path`, for messages."""
    root = Path(path).expanduser()
    return str(place.relative_to(root)) if place.is_relative_to(root) else str(place)
