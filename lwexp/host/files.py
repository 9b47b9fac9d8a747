"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TEMPORARY = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}")  # as `replacing` names them


def atomic_write(path: Path, data: str | bytes, *, durable: bool = True) -> None:
    """Write `data` (text as UTF-8) to `path`, whole or not at all. Raises `OSError`, with `path` as it was.

    `durable`: the file survives a power failure once this returns; without it only the end of this process.
    """
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


@contextmanager
def replacing(path: Path, *, durable: bool = True, temporary: str | None = None) -> Iterator[Path]:
    """A file beside `path` for the block to write, which replaces `path` at the end of the block.

    Where the block or the replacement raises, `path` stays as it was. A process that is killed in the block leaves the
    file behind, for `remove_temporaries`; its name is hidden and unique, or `temporary`, where the caller removes or
    reuses what was left.
    """
    written = path.with_name(temporary or f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield written
        if durable:
            with written.open("rb+") as file:
                os.fsync(file.fileno())
        written.replace(path)
        if durable:
            sync_folder(path.parent)
    finally:
        with suppress(OSError):  # it is gone where all went well
            written.unlink()


def link_or_copy(source: Path, path: Path, *, temporary: str | None = None) -> None:
    """Make `path` a hard link to `source`, or a copy where the file system has no links; `temporary` as of `replacing`.

    Raises `OSError`.
    """
    with replacing(path, temporary=temporary) as written:
        try:
            os.link(source, written)
        except OSError:
            shutil.copyfile(source, written)


def remove_temporaries(folder: Path, *, of: str | None = None, but: Collection[str] = ()) -> None:
    """Remove what killed processes left of the file `of` in `folder`; of all files `but` some where it is None.

    The caller makes sure that no other process is writing these files.
    """
    with suppress(OSError):
        for path in folder.iterdir():
            found = _TEMPORARY.fullmatch(path.name)
            if found and (found[1] not in but if of is None else found[1] == of):
                with suppress(OSError):
                    path.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power failure, on systems where a folder can be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
