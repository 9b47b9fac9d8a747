"""What data consist of, to notice that they have changed: names and sizes of files; contents only where in memory.

Contents are a mapping of names to sizes in bytes, or to a text for what is not in files of its own.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch

Contents = Mapping[str, int | str]
_SHOWN = 3  # names of each kind of difference


def sizes_of(root: str, files: Iterable[str]) -> dict[str, int | str]:
    """The size of each of `files` (full paths) by its name below `root`."""
    start = os.path.join(root, "")  # noqa: PTH118  a million of them: strings, not Path objects
    sizes: dict[str, int | str] = {}
    for file in files:
        with suppress(OSError):  # removed meanwhile, which is reported when a batch needs it
            sizes[file.removeprefix(start)] = os.stat(file).st_size  # noqa: PTH116
    return sizes


def digest_of(kind: str, labels: Sequence[Any], texts: Iterable[str] = ()) -> str:
    """How many samples of a `kind` ("image", "text") there are, and a checksum of what is given of them."""
    found = zlib.crc32("\0".join(map(str, labels)).encode())
    for text in texts:
        found = zlib.crc32(text.encode("utf-8", "surrogatepass"), zlib.crc32(b"\0", found))
    return f"{len(labels)} {kind}s (checksum {found:08x})"


def files_of(dataset: Any) -> list[str]:
    """The files that a torchvision dataset has a list of, one for each of its images; empty where it has none."""
    for value in vars(dataset).values():
        if not isinstance(value, (list, tuple)) or not value or len(value) != len(dataset):
            continue
        paths = [entry[0] if isinstance(entry, (list, tuple)) and entry else entry for entry in value]
        if all(isinstance(path, (str, os.PathLike)) for path in paths) and os.path.isfile(paths[0]):  # noqa: PTH113
            return [os.fspath(path) for path in paths]
    return []


def labels_digest(labels: torch.Tensor) -> str:
    """`digest_of` images in memory or in files that hold many, by their labels, int64 [n]."""
    return digest_of("image", labels.tolist())


def difference(before: Contents, now: Contents) -> str:
    """How `now` differs from `before`, on one line; empty where it does not.

    >>> difference({"cat/0.png": 10, "cat/1.png": 12}, {"cat/1.png": 13, "cat/2.png": 9, "dog/3.png": 9})
    '2 added (cat/2.png, dog/3.png), 1 removed (cat/0.png), 1 of another size (cat/1.png)'
    >>> difference({"train": "20 texts (checksum 1)"}, {"train": "21 texts (checksum 2)"})
    'train was 20 texts (checksum 1), is 21 texts (checksum 2)'
    """
    differing = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
    texts = [name for name in differing if isinstance(now[name], str)]
    kinds = {
        "added": sorted(now.keys() - before.keys()),
        "removed": sorted(before.keys() - now.keys()),
        "of another size": [name for name in differing if name not in texts],
    }
    parts = [f"{name} was {before[name]}, is {now[name]}" for name in texts]
    for what, names in kinds.items():
        if names:
            more = ", …" if len(names) > _SHOWN else ""
            parts.append(f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{more})")
    return ", ".join(parts)
