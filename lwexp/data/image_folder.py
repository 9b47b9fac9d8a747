"""Folders of images: `<path>/{train,val,test}/<class>/<image>`, or `<path>/<class>/<image>`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lwexp.errors import ConfigError, nearest
from lwexp.host.resources import usable_cores

from .cache import stats_of
from .contents import Contents, sizes_of
from .image_files import Skipped, image_files, image_suffixes, is_system
from .images import CorruptImageError, PILStore, read_image
from .source import SPLIT_NAMES, DataSource, Split, SplitName
from .splits import stratified_cut

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from lwexp.config.data_schema import ImageFolderConfig

log = logging.getLogger(__name__)
KEY = "data.path"
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
    skipped = Skipped()
    folders = _split_folders(config.path, skipped)
    found = {name: _classes(config.path, folders[name], name, skipped) for name in SPLIT_NAMES if name in folders}
    classes = tuple(sorted(found["train"]))
    if len(classes) == 1:
        raise ConfigError(KEY, config.path, f"a single class only ({classes[0]}){_hint(config.path, classes[0])}")
    for name, images in found.items():
        for unknown in sorted(set(images) - set(classes)):
            place = _relative(config.path, folders[name] / unknown)
            raise ConfigError(KEY, config.path, f"the class of {place} is not in train; {nearest(unknown, classes)}")

    if said := skipped.described(str(Path(config.path).expanduser())):
        log.log(logging.INFO if skipped.is_expected else logging.WARNING, "%s=%s: %s", KEY, config.path, said)

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
    cut_splits: list[SplitName] = [] if "val" in splits else ["val"]
    if cut_splits:
        train = splits["train"]
        kept, cut = stratified_cut(train.labels, config.val_fraction, config.split_seed)
        splits["train"] = Split(store, train.positions[kept], train.labels[kept])
        splits["val"] = Split(store, train.positions[cut], train.labels[cut])
    return DataSource(
        splits, classes=classes, channels=3, image_size=config.image_size, style="photograph", cut=cut_splits
    )


def open_labeled_folder(config: ImageFolderConfig) -> tuple[tuple[str, ...], dict[SplitName, Split]]:
    """All labeled images of `data.path` as they are, to evaluate a model on: class names, and splits.

    Unlike for a training, there may be test/ alone, and a single class; without splits, all images are "train".
    """
    skipped = Skipped()
    folders = _split_folders(config.path, skipped, needs_train=False)
    found = {name: _classes(config.path, folders[name], "test", skipped) for name in SPLIT_NAMES if name in folders}
    if said := skipped.described(str(Path(config.path).expanduser())):
        log.log(logging.INFO if skipped.is_expected else logging.WARNING, "%s=%s: %s", KEY, config.path, said)
    classes = tuple(sorted({name for images in found.values() for name in images}))
    files: list[str] = []
    store, splits = FileStore(config.path, files), {}
    for split, images in found.items():
        start = len(files)
        files.extend(file for name in classes for file in images.get(name, []))
        labels = [label for label, name in enumerate(classes) for _ in images.get(name, [])]
        splits[split] = Split(store, torch.arange(start, len(files)), torch.tensor(labels, dtype=torch.int64))
    return classes, splits


class FileStore(PILStore):
    """Image files by position; `root` is the user's path, `files` are full paths."""

    threads = usable_cores()  # Pillow releases the GIL while it decodes
    named_by = "file"

    def __init__(self, root: str, files: list[str], given: tuple[str, str] | None = None) -> None:
        """Reads nothing. `given`: key and value of the option that led to the files, if that is not `root`."""
        super().__init__(channels=3)
        self._root, self._files, self._given = root, files, given or (KEY, root)
        self._start = os.path.join(Path(root).expanduser(), "")  # noqa: PTH118

    def identity(self, positions: Sequence[int]) -> str:
        """The files with their sizes and modification times."""
        return stats_of(self._files[position] for position in positions)

    def name(self, position: int) -> str:
        """The file, relative to the user's path."""
        return self._files[position].removeprefix(self._start)

    def contents(self) -> Contents:
        """Names and sizes of the files."""
        return sizes_of(str(Path(self._root).expanduser()), self._files)

    def load(self, position: int, channels: int) -> PILImage:
        """Read and decode one file."""
        path = Path(self._files[position])
        try:
            return read_image(path, channels)
        except Exception as error:  # Pillow's decoders raise many types
            raise CorruptImageError.of(*self._given, _relative(self._root, path), error) from error


def _split_folders(path: str, skipped: Skipped, *, needs_train: bool = True) -> dict[SplitName, Path]:
    """The folder of each split; for class folders directly below `path`, that of "train" alone."""
    root = Path(path).expanduser()
    if not root.exists():
        raise ConfigError(KEY, path, f"there is no such folder (looked for {root.absolute()})")
    if not root.is_dir():
        raise ConfigError(KEY, path, "is a file, not a folder of images")
    below = _subfolders(path, root, Skipped())
    folders: dict[SplitName, Path] = {}
    for folder in below:
        split = SPLIT_FOLDERS.get(folder.name.lower())
        if split in folders:
            raise ConfigError(KEY, path, f"both {folders[split].name} and {folder.name} could be the {split} split")
        if split is not None:
            folders[split] = folder
    others = [folder for folder in below if folder not in folders.values()]
    # a folder "train" beside other folders, with images but no folders in it, is a class (railway trains)
    if "train" in folders and (_subfolders(path, folders["train"], Skipped()) or not others):
        skipped.folders += [folder.name for folder in others]
        skipped.system += [name.name for name in root.iterdir() if is_system(name.name)]
        skipped.outside += [name for name in _names(path, root) if Path(name).suffix.lower() in image_suffixes()]
        return folders
    if folders and "train" not in folders and not needs_train:
        if all(_subfolders(path, folder, Skipped()) for folder in folders.values()):
            return folders
    elif folders and "train" not in folders:
        names = ", ".join(sorted(folder.name for folder in folders.values()))
        raise ConfigError(KEY, path, f"has {names} but no train folder; {LAYOUT}")
    if not below:
        other = "" if needs_train else "; images without classes are for lwexp.predict"
        raise ConfigError(KEY, path, f"has no folders of images; {LAYOUT}{other}")
    return {"train": root}


def _classes(path: str, folder: Path, split: SplitName, skipped: Skipped) -> dict[str, list[str]]:
    """Class name -> sorted image files, in the folder of one split; only train needs images of each class."""
    subfolders = _subfolders(path, folder, skipped)
    images = {sub.name: list(image_files(sub, skipped, lambda error: _refuse(path, error))) for sub in subfolders}
    place = "" if folder == Path(path).expanduser() else f" in {_relative(path, folder)}"
    if not any(images.values()):
        raise ConfigError(KEY, path, f"no images{place}{_instead(folder, skipped)}; {LAYOUT}")
    skipped.outside += [name for name in _names(path, folder) if Path(name).suffix.lower() in image_suffixes()]
    for name, files in images.items():
        if files:
            continue
        below = folder / name
        if split == "train":
            why = f"no images in the class folder {_relative(path, below)}{_instead(below, skipped)}"
            raise ConfigError(KEY, path, f"{why}; remove it or fill it")
        skipped.empty.append(_relative(path, below))
    return {name: files for name, files in images.items() if files}


def _instead(folder: Path, skipped: Skipped) -> str:
    """What is in `folder` in place of images, for messages."""
    below = os.path.join(folder, "")  # noqa: PTH118
    counts = {end: sum(file.startswith(below) for file in files) for end, files in skipped.others.items()}
    found = [f"{count} {suffix or 'without an ending'}" for suffix, count in sorted(counts.items()) if count]
    return f" (but files that Pillow cannot read: {', '.join(found)})" if found else ""


def _names(path: str, folder: Path) -> list[str]:
    """The files directly in `folder`, below `path`, that are not a system's own."""
    found = sorted(file for file in folder.iterdir() if not is_system(file.name) and file.is_file())
    return [_relative(path, file) for file in found]


def _subfolders(path: str, folder: Path, skipped: Skipped) -> list[Path]:
    try:
        found = sorted(folder.iterdir())
        skipped.system += [entry.name for entry in found if is_system(entry.name)]
        return [entry for entry in found if not is_system(entry.name) and entry.is_dir()]
    except OSError as error:
        raise _refusal(path, error) from None


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
