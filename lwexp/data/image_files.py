"""The image files of a folder, and an account of all that is skipped."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

# Pillow knows these without being able to decode them, or only with programs that may not be there
_NO_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PALM", "PDF", "WMF"}
# Names that operating systems, network drives and tools give their own files, in lower case; all others with a dot
_SYSTEM = {
    "__macosx", "__pycache__", "desktop.ini", "ehthumbs.db", "icon\r", "thumbs.db",
    "$recycle.bin", "recycler", "system volume information", "lost+found", "temporary items", "network trash folder",
    "@eadir", "@recycle", "@recently-snapshot", "@sharebin", "@tmp", "#recycle", "#snapshot", "~snapshot",
}  # fmt: skip
_SHOWN = 3  # examples of each kind


@functools.cache
def image_suffixes() -> frozenset[str]:
    """The endings of the files that Pillow opens here, in lower case."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind not in _NO_IMAGES)


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden (`.DS_Store`, macOS's `._cat.jpg`) or of a system's own (`@eaDir`)."""
    return name.startswith(".") or name.lower() in _SYSTEM


@dataclass
class Skipped:
    """What is not taken of a folder of images: all of it is reported."""

    system: list[str] = field(default_factory=list)  # names of hidden and system files and folders
    others: dict[str, list[str]] = field(default_factory=dict)  # by ending: files in class folders that are no images
    outside: list[str] = field(default_factory=list)  # images that are in no class folder
    folders: list[str] = field(default_factory=list)  # folders that are no split
    empty: list[str] = field(default_factory=list)  # class folders without images

    def described(self, root: str) -> str:
        """One line, empty where nothing was skipped; paths of files start at the folder `root`."""
        start = os.path.join(root, "")  # noqa: PTH118
        parts = [
            f"{_count(files, f'{suffix} file'.lstrip())} ({_few([file.removeprefix(start) for file in files])})"
            for suffix, files in sorted(self.others.items())
        ]
        if self.outside:
            parts.append(f"{_count(self.outside, 'image')} outside of class folders ({_few(self.outside)})")
        if self.folders:
            parts.append(f"{_count(self.folders, 'folder')} beside train ({_few(self.folders)})")
        if self.system:
            counts = sorted(Counter(self.system).items(), key=lambda item: (-item[1], item[0]))
            shown = [name if count == 1 else f"{count} {name}" for name, count in counts]
            parts.append(f"{_count(self.system, 'file or folder', 'files or folders')} of the system ({_few(shown)})")
        said = [f"skipped: {', '.join(parts)}"] if parts else []
        if self.empty:
            said.append(f"without images: {_few(self.empty, 10)}")
        return "; ".join(said)

    @property
    def is_expected(self) -> bool:
        """Whether it is nothing but what systems leave behind."""
        return not (self.others or self.outside or self.folders)


def image_files(folder: Path, skipped: Skipped, refuse: Callable[[OSError], None]) -> Iterator[str]:
    """Image files in and below `folder`, in the order of their names; each link is followed once.

    `skipped` gets the rest, `refuse` what cannot be read.
    """
    visited: set[str] = set()
    suffixes = image_suffixes()
    for here, below, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        if real in visited:
            below.clear()
            continue
        visited.add(real)
        skipped.system += [name for name in (*below, *names) if is_system(name)]
        below[:] = sorted(name for name in below if not is_system(name))
        for name in sorted(names):
            if is_system(name):
                continue
            path = os.path.join(here, name)  # noqa: PTH118  a million of them: strings, not Path objects
            ending = os.path.splitext(name)[1].lower()  # noqa: PTH122
            if ending in suffixes or (not ending and _opens(path)):
                yield path
            else:
                skipped.others.setdefault(ending, []).append(path)


def _opens(path: str) -> bool:
    """Whether the file, whose name has no ending, begins as an image does."""
    try:
        with Image.open(path) as image:
            return image.format not in _NO_IMAGES
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _count(found: list[str], one: str, many: str | None = None) -> str:
    return f"1 {one}" if len(found) == 1 else f"{len(found)} {many or f'{one}s'}"


def _few(names: list[str], limit: int = _SHOWN) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
