"""Decoded images in one memory-mapped file, whose pages the workers and all runs on a machine share.

What is kept is the part of preprocessing that draws no random numbers, so a run's numbers are the same with and
without. A file holds, for each image, where its pixels begin, its height and its width (int64 [n, 3]), then the pixels
of all images, uint8 [H, W, C].
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from lwexp.errors import ConfigError
from lwexp.host.files import replacing

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
"""One image, [H, W, C]."""

AUTO_BYTES = 2 * 2**30  # some 10,000 photographs of 256 pixels, which two cores decode in ten seconds
AUTO_PASSES = 2.0  # the first pass over the data alone gains nothing
_DAYS_UNUSED = 14  # after so many days a file is removed when another is made
_SAMPLED = 8  # images whose size the estimate looks at
_FORMAT = 1  # another one whenever the same images and steps would give other bytes


@dataclass(frozen=True)
class CacheSettings:
    """Where decoded images are kept, and when: always (True), never, or ("auto") where it is small and pays off.

    `passes`: how often the training goes through its images.
    """

    folder: Path
    choice: Literal["auto"] | bool
    passes: float


class ImageCache:
    """The images of one file, by their index; it can be pickled, and is opened anew where it is unpickled."""

    def __init__(self, path: Path, count: int, channels: int) -> None:
        """Raises `ValueError` for a file that does not hold `count` such images, `OSError` if there is none."""
        self.path, self._count, self._channels = path, count, channels
        self._table = np.fromfile(path, dtype=np.int64, count=3 * count).reshape(count, 3)
        start = self._table.nbytes
        if path.stat().st_size != start + int(self._table[:, 1:].prod(axis=1).sum()) * channels:
            raise ValueError(f"{path} is damaged")
        self._pixels: Pixels = np.asarray(np.memmap(path, dtype=np.uint8, mode="r", offset=start))

    def __getitem__(self, index: int) -> Pixels:
        """The image `index`, a view of the file."""
        start, height, width = self._table[index].tolist()
        stop = start + height * width * self._channels
        return self._pixels[start:stop].reshape(height, width, self._channels)

    def __reduce__(self) -> Any:
        """Not the pixels."""
        return ImageCache, (self.path, self._count, self._channels)


def cached(
    read: Callable[[int], Pixels],
    count: int,
    channels: int,
    *,
    identity: Callable[[], str],
    threads: int,
    settings: CacheSettings,
) -> ImageCache | None:
    """The cache of `read(0)`, … `read(count - 1)`, made now if need be; None where there should or can be none.

    `identity` says everything that the images depend on. One process makes a file, others that want the same wait for
    it; it appears whole or not at all. So many `threads` read. Where an image cannot be read
    there is no cache; a folder or disk that refuses is a warning.
    """
    if settings.choice is False:
        return None
    automatic = settings.choice == "auto"
    versions = [version(package) for package in ("torch", "torchvision", "pillow")]
    try:
        text = f"{_FORMAT} {count} {channels} {versions} {identity()}"
        path = settings.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.images"
        if (found := _opened(path, count, channels)) is not None:
            return found
        if automatic and settings.passes < AUTO_PASSES:
            return None
        size = _estimated(read, count)
        if automatic and size > AUTO_BYTES:
            return None
        settings.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if (found := _opened(path, count, channels)) is not None:
                return found
            free = shutil.disk_usage(settings.folder).free
            if size > free / 2:
                log.warning("data.cache: %s would take more than half of the %s left", _shown(size), _shown(free))
                return None
            _remove_unused(settings.folder)
            log.info("data: decoding %d images once (about %s) into %s", count, _shown(size), path)
            _write(path, read, count, threads)
        return ImageCache(path, count, channels)
    except ConfigError:  # an image that cannot be read: the training names it, if it comes to it
        return None
    except OSError as error:
        log.warning("data.cache: images are decoded each time: %s: %s", settings.folder, error.strerror or error)
        return None


def _opened(path: Path, count: int, channels: int) -> ImageCache | None:
    """The cache in `path`, noted as used; None where there is none or a damaged one."""
    try:
        found = ImageCache(path, count, channels)
    except (FileNotFoundError, ValueError):
        return None
    with suppress(OSError):  # somebody else's, which may only be read
        os.utime(path)
    return found


def _estimated(read: Callable[[int], Pixels], count: int) -> int:
    """Bytes of all images, from a few that lie evenly among them."""
    sample = sorted({i * (count - 1) // (_SAMPLED - 1) for i in range(_SAMPLED)})
    return sum(read(index).nbytes for index in sample) * count // len(sample)


def _write(path: Path, read: Callable[[int], Pixels], count: int, threads: int) -> None:
    """Write the file under another name, then give it its own; the caller holds the lock for both names."""
    table = np.zeros((count, 3), dtype=np.int64)
    with (
        replacing(path, temporary=f".{path.name}.part") as temporary,
        temporary.open("wb") as file,
        ThreadPoolExecutor(threads) as pool,
    ):
        file.seek(table.nbytes)
        start = 0
        for first in range(0, count, 8 * threads):  # not all at once: they would be in memory at once
            indices = range(first, min(first + 8 * threads, count))
            for index, image in zip(indices, pool.map(read, indices), strict=True):
                table[index] = start, *image.shape[:2]
                start += file.write(np.ascontiguousarray(image).data)
        file.seek(0)
        file.write(table.data)


def _remove_unused(folder: Path) -> None:
    """Remove what no run has used for long, and what killed processes left half written."""
    for path in folder.glob("*.images*"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - _DAYS_UNUSED * 86400:
                path.unlink()
    for path in folder.glob(".*.images.part"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - 86400:
                path.unlink()


def _shown(size: float) -> str:
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.1f} MB"


def stats_of(files: Iterable[str]) -> str:
    """The paths, sizes and times of change of `files`; `OSError` for one that is gone."""
    found = []
    for file in files:
        stat = os.stat(file)  # noqa: PTH116  a million of them: strings, not Path objects
        found.append(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}")
    return "\n".join(found)
