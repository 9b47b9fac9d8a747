"""Cache of decoded images: one memory-mapped file, shared by the workers and by all runs on a machine.

It holds the result of the deterministic part of preprocessing, so a run's numbers do not depend on it. Format: for each
image the offset of its pixels, its height and its width (int64 [n, 3]), then the pixels of all, uint8 [H, W, C].
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

AUTO_BYTES = 2 * 2**30  # about 10,000 photographs of 256 pixels, which two cores decode in ten seconds
AUTO_PASSES = 2.0  # a single pass over the data gains nothing
_DAYS_UNUSED = 14  # unused files older than this are removed when a new one is written
_SAMPLED = 8  # images from which the size of the file is estimated
_FORMAT = 1  # increase when the same images and steps would give other bytes


@dataclass(frozen=True)
class CacheSettings:
    """Where decoded images are cached, and when: always (True), never (False), or if small and useful ("auto").

    `passes`: epochs of the training.
    """

    folder: Path
    choice: Literal["auto"] | bool
    passes: float


class ImageCache:
    """The images of one file, by index. Pickling keeps only the path; unpickling opens the file again."""

    def __init__(self, path: Path, count: int, channels: int) -> None:
        """Raises `ValueError` for a file without `count` such images, `FileNotFoundError` if there is none."""
        self.path, self._count, self._channels = path, count, channels
        self._table = np.fromfile(path, dtype=np.int64, count=3 * count).reshape(count, 3)
        start = self._table.nbytes
        if path.stat().st_size != start + int(self._table[:, 1:].prod(axis=1).sum()) * channels:
            raise ValueError(f"{path} is damaged")
        self._pixels: Pixels = np.asarray(np.memmap(path, dtype=np.uint8, mode="r", offset=start))

    def __getitem__(self, index: int) -> Pixels:
        """Image `index`, a view of the file."""
        start, height, width = self._table[index].tolist()
        stop = start + height * width * self._channels
        return self._pixels[start:stop].reshape(height, width, self._channels)

    def __reduce__(self) -> Any:
        """Without the pixels."""
        return ImageCache, (self.path, self._count, self._channels)


def open_cache(
    read: Callable[[int], Pixels],
    count: int,
    channels: int,
    *,
    identity: Callable[[], str],
    threads: int,
    settings: CacheSettings,
) -> ImageCache | None:
    """Cache of `read(0)`, … `read(count - 1)`, written now if necessary; None if `settings` or the disk rule it out.

    `identity` returns a text of everything that the images depend on. One process writes a file, with `threads`
    threads; others that need it wait. An image that cannot be read means no cache; a full or read-only disk is a
    warning.
    """
    if settings.choice is False:
        return None
    automatic = settings.choice == "auto"
    versions = [version(package) for package in ("torch", "torchvision", "pillow")]
    try:
        text = f"{_FORMAT} {count} {channels} {versions} {identity()}"
        path = settings.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.images"
        if (found := _open(path, count, channels)) is not None:
            return found
        if automatic and settings.passes < AUTO_PASSES:
            return None
        size = _estimate_size(read, count)
        if automatic and size > AUTO_BYTES:
            return None
        settings.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if (found := _open(path, count, channels)) is not None:
                return found
            free = shutil.disk_usage(settings.folder).free
            if size > free / 2:
                log.warning("data.cache: %s would take more than half of the %s left", _size(size), _size(free))
                return None
            _remove_unused(settings.folder)
            log.info("data: decoding %d images once (about %s) into %s", count, _size(size), path)
            _write(path, read, count, threads)
        return ImageCache(path, count, channels)
    except ConfigError:  # an image that cannot be read: reported when a batch needs it
        return None
    except OSError as error:
        log.warning("data.cache: images are decoded each time: %s: %s", settings.folder, error.strerror or error)
        return None


def _open(path: Path, count: int, channels: int) -> ImageCache | None:
    """The cache at `path`, marked as used; None if it is missing or damaged."""
    try:
        found = ImageCache(path, count, channels)
    except (FileNotFoundError, ValueError):
        return None
    with suppress(OSError):  # another user's file, which is read-only
        os.utime(path)
    return found


def _estimate_size(read: Callable[[int], Pixels], count: int) -> int:
    """Bytes of all images, estimated from a few at equal distances."""
    sample = sorted({i * (count - 1) // (_SAMPLED - 1) for i in range(_SAMPLED)})
    return sum(read(index).nbytes for index in sample) * count // len(sample)


def _write(path: Path, read: Callable[[int], Pixels], count: int, threads: int) -> None:
    """Write the file whole or not at all; the caller holds its lock."""
    table = np.zeros((count, 3), dtype=np.int64)
    with (
        replacing(path, temporary=f".{path.name}.part") as temporary,
        temporary.open("wb") as file,
        ThreadPoolExecutor(threads) as pool,
    ):
        file.seek(table.nbytes)
        start = 0
        for first in range(0, count, 8 * threads):  # in chunks, to bound memory
            indices = range(first, min(first + 8 * threads, count))
            for index, image in zip(indices, pool.map(read, indices), strict=True):
                table[index] = start, *image.shape[:2]
                start += file.write(np.ascontiguousarray(image).data)
        file.seek(0)
        file.write(table.data)


def _remove_unused(folder: Path) -> None:
    """Remove files that no run has used for long, and unfinished ones of killed processes."""
    for path in folder.glob("*.images*"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - _DAYS_UNUSED * 86400:
                path.unlink()
    for path in folder.glob(".*.images.part"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - 86400:
                path.unlink()


def _size(size: float) -> str:
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.1f} MB"


def stats_of(files: Iterable[str]) -> str:
    """Paths, sizes and modification times of `files`. Raises `OSError` for one that does not exist."""
    found = []
    for file in files:
        stat = os.stat(file)  # noqa: PTH116  a million of them: strings, not Path objects
        found.append(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}")
    return "\n".join(found)
