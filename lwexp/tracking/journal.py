"""The journal: everything a run sends to its tracking store, in one append-only file, written before it is sent.

A header, then records of a mark, a kind, a length, the content, and a CRC-32 of all of these. One `write` call per
record: a killed process loses nothing that it had written. A truncated record fails its checksum and is removed when
the file is opened again. Each value of a step takes 8 bytes; metric names are written once.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from lwexp.errors import RunError
from lwexp.host.files import replacing

from .keys import free_key, safe_key

Kind = Literal["run", "keys", "rows", "tags", "artifact", "resumed", "end", "inputs", "params", "kept"]
FILE = "journal.lwexp"

_HEADER = b"lwexp journal 1\n"
_MARK = b"\xf1\x7a"
_KINDS: tuple[Kind, ...] = ("run", "keys", "rows", "tags", "artifact", "resumed", "end", "inputs", "params", "kept")
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_HEAD = struct.Struct("<2sBI")  # mark, kind, length of the content
_CHECK = struct.Struct("<I")
_ROW = struct.Struct("<Iqq")  # set of keys, optimizer step, milliseconds since the Unix epoch
RESERVE = "journal.reserve"  # deleted on a full disk, to make room for the end record
_RESERVE_BYTES = 16384
CHUNK = 1 << 22  # bytes read at once


class Rows(NamedTuple):
    """Metrics of one optimizer step: their keys in MLflow, and their values."""

    keys: tuple[str, ...]
    values: tuple[float, ...]
    step: int
    time_ms: int


class Entry(NamedTuple):
    """One record; `value` is `Rows` for the kinds `rows` and `kept`, else a mapping. `end`: the position behind it.

    `kept` are rows for the run's own pictures and tables, which no store gets. Positions are in bytes.
    """

    kind: Kind
    value: Any
    end: int


class Reader:
    """Reads complete entries in order, from the beginning or a position."""

    def __init__(self, path: Path, chunk: int = CHUNK) -> None:
        """Check the header. `chunk`: bytes to read at once. Raises `RunError` if the file is not a journal."""
        self.path, self.position, self._chunk = path, len(_HEADER), chunk
        self.damaged = 0  # bytes skipped because they hold no valid record
        self.key_sets: dict[int, tuple[str, ...]] = {}
        self.names: dict[str, str] = {}  # name -> key
        with path.open("rb") as file:
            if not _HEADER.startswith(file.read(len(_HEADER))):  # a shorter file has a truncated header
                raise RunError(f"{path} is not a metrics journal of this version of lwexp")

    def entries(self, until: int | None = None) -> Iterator[Entry]:
        """The entries from `position` on, which advances; a truncated record at the end is read by a later call.

        With `until`, stops at that position.
        """
        size = self._chunk
        with self.path.open("rb") as file:
            while True:
                file.seek(self.position)
                content = file.read(size if until is None else min(size, max(0, until - self.position)))
                before = self.position
                yield from self._parsed(content)
                if self.position > before:
                    size = self._chunk
                elif len(content) == size:  # a record or a damaged range is longer
                    size *= 2
                else:
                    return  # truncated, or still being written

    def skip_to(self, position: int) -> None:
        """Advance to `position`, reading the sets of keys before it."""
        for _ in self.entries(until=position):
            pass

    def _parsed(self, content: bytes) -> Iterator[Entry]:
        """The entries in `content`, which begins at `position`."""
        start, base = 0, self.position
        while start < len(content):
            length = _whole_record(content, start)
            if length is None:
                found = _next_record(content, start + 1)
                if found is None:
                    return
                self.damaged += found - start
                start = found
                continue
            kind = _KINDS[content[start + 2]]
            body = content[start + _HEAD.size : start + length - _CHECK.size]
            start += length
            self.position = base + start
            entry = self._entry(kind, body)
            if entry is not None:
                yield entry

    def _entry(self, kind: Kind, body: bytes) -> Entry | None:
        if kind in ("rows", "kept"):
            number, step, time_ms = _ROW.unpack_from(body)
            keys = self.key_sets.get(number)
            if keys is None:  # the record with these keys is damaged
                self.damaged += len(body)
                return None
            values = struct.unpack_from(f"<{len(keys)}d", body, _ROW.size)
            return Entry(kind, Rows(keys, values, step, time_ms), self.position)
        value = json.loads(body)
        if kind == "keys":
            self.names.update(zip(value["names"], value["keys"], strict=True))
            self.key_sets[value["number"]] = tuple(value["keys"])
        return Entry(kind, value, self.position)


class Journal:
    """A journal open for writing, by one process at a time (the caller holds the run's lock)."""

    def __init__(self, folder: Path) -> None:
        """Create the journal in `folder`, or open an existing one to append. Raises `RunError`."""
        self.path = folder / FILE
        self._reserve = folder / RESERVE
        self._keys: dict[str, str] = {}  # metric name -> MLflow key
        self._numbers: dict[tuple[str, ...], int] = {}  # names -> number of their set of keys
        self._last: dict[str, int] = {}  # key -> last step in the file when it was opened
        self.last_step = -1  # in the file when it was opened
        self._next_number = 0
        self.rows_written = 0
        self.run: dict[str, Any] | None = None
        self.status: str | None = None  # the final one; None while the run is open
        self._file = -1
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            if os.fstat(self._file).st_size < len(_HEADER):
                Reader(self.path)  # raises for a file that is not a journal
                os.ftruncate(self._file, 0)
                self._end = 0
                self._append(_HEADER)
            else:
                self._restore()
            self._reserve.write_bytes(bytes(_RESERVE_BYTES))
        except OSError as error:
            self.close()
            self._raise_disk_error(error)
        except RunError:
            self.close()
            raise

    def write(self, kind: Kind, value: Mapping[str, Any]) -> None:
        """Append an entry of any kind but `rows` and `kept`. Raises `RunError` on a full disk."""
        body = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        record = _record(kind, body)
        try:
            try:
                self._append(record)
            except OSError:
                if kind != "end":
                    raise
                with suppress(OSError):
                    self._reserve.unlink()
                self._append(record)
            if kind == "end":
                os.fsync(self._file)
        except OSError as error:
            self._raise_disk_error(error)
        if kind == "run":
            self.run = dict(value)
        self.status = value["status"] if kind == "end" else None if kind == "resumed" else self.status

    def rows(
        self,
        metrics: Mapping[str, float],
        step: int,
        time_ms: int | None = None,
        kind: Literal["rows", "kept"] = "rows",
    ) -> None:
        """Append the values of one step, except those that the journal already has.

        `time_ms`: milliseconds since the Unix epoch; None: the present time.

        Raises `RunError` on a full disk; earlier entries stay complete.
        """
        if step <= self.last_step:
            metrics = {n: v for n, v in metrics.items() if self._last.get(self._keys.get(n, ""), -1) < step}
            if not metrics:
                return
        names = tuple(metrics)
        number = self._numbers.get(names)
        if number is None:
            number = self._new_keys(names)
        time_ms = time.time_ns() // 1_000_000 if time_ms is None else time_ms
        body = _ROW.pack(number, step, time_ms) + struct.pack(f"<{len(names)}d", *metrics.values())
        try:
            self._append(_record(kind, body))
        except OSError as error:
            self._raise_disk_error(error)
        self.rows_written += len(names) * (kind == "rows")

    def sync(self) -> int:
        """Sync the file to disk; returns its length in bytes."""
        try:
            os.fsync(self._file)
        except OSError as error:
            self._raise_disk_error(error)
        return self._end

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        with suppress(OSError):
            self._reserve.unlink(missing_ok=True)

    def _restore(self) -> None:
        reader = Reader(self.path)
        last: dict[tuple[str, ...], int] = {}
        for entry in reader.entries():
            if entry.kind in ("rows", "kept"):
                self.rows_written += len(entry.value.keys) * (entry.kind == "rows")
                last[entry.value.keys] = max(last.get(entry.value.keys, -1), entry.value.step)
            elif entry.kind == "run":
                self.run = entry.value
            elif entry.kind == "end":
                self.status = entry.value["status"]
            elif entry.kind == "resumed":
                self.status = None
        for keys, step in last.items():
            self._last.update({key: max(self._last.get(key, -1), step) for key in keys})
        self.last_step = max(last.values(), default=-1)
        self._keys = dict(reader.names)
        # sets of keys are written again on first use, with new numbers
        self._next_number = max(reader.key_sets, default=-1) + 1
        self._end = reader.position
        os.ftruncate(self._file, self._end)

    def _new_keys(self, names: tuple[str, ...]) -> int:
        new = [name for name in names if name not in self._keys]
        for name in sorted(new, key=lambda name: name != safe_key(name)):  # names that need no change first
            self._keys[name] = free_key(name, self._keys.values())
        number = self._next_number
        self.write("keys", {"number": number, "names": names, "keys": [self._keys[name] for name in names]})
        self._next_number += 1
        self._numbers[names] = number
        return number

    def _append(self, record: bytes) -> None:
        """Append all of `record` or nothing. Raises `OSError`."""
        written = 0
        try:
            while written < len(record):
                written += os.write(self._file, record[written:])
        except OSError:
            if written:
                os.ftruncate(self._file, self._end)
            raise
        self._end += len(record)

    def _raise_disk_error(self, error: OSError) -> NoReturn:
        raise RunError(f"the metrics journal {self.path} cannot be written: {error.strerror or error}") from error


def run_record(folder: Path) -> dict[str, Any] | None:
    """The entry about the run in the journal of `folder`; None if there is no journal or no such entry."""
    path = folder / FILE
    try:
        found = (entry.value for entry in Reader(path).entries() if entry.kind == "run")
        return next(found, None) if path.is_file() else None
    except (OSError, RunError):
        return None


def rewrite_run(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Replace the entry about the run by what `change` makes of it, which must not be longer; whole or not at all.

    The caller holds the run's lock. Raises `OSError`, `RunError`.
    """
    path = folder / FILE
    entry = next(entry for entry in Reader(path).entries() if entry.kind == "run")
    with replacing(path) as copy:
        shutil.copyfile(path, copy)
        with copy.open("r+b") as file:
            content = file.read(entry.end)
            start = next(at for at in _marks(content) if at + (_whole_record(content, at) or 0) == entry.end)
            length = entry.end - start - _HEAD.size - _CHECK.size
            body = json.dumps(change(entry.value), ensure_ascii=False).encode("utf-8", "surrogatepass")
            if len(body) > length:
                raise RunError(f"{path}: the new entry about the run is longer")
            file.seek(start)
            file.write(_record("run", body.ljust(length)))


def recorded_address(folder: Path) -> str | None:
    """The store's address that the run in `folder` was started or last resumed with, without secrets."""
    path, found = folder / FILE, None
    if path.is_file():
        for entry in Reader(path).entries():
            if entry.kind in ("run", "resumed"):
                found = entry.value.get("where", found)
    return found


def has_journal(folder: Path) -> bool:
    """Whether `folder` holds a journal with a run in it."""
    return run_record(folder) is not None


def logged_params(folder: Path) -> dict[str, str]:
    """The params of the run in `folder`; of several values of one the first, which MLflow keeps."""
    path, found = folder / FILE, dict[str, str]()
    if path.is_file():
        for entry in Reader(path).entries():
            if entry.kind in ("run", "resumed", "params"):
                own = entry.value if entry.kind == "params" else entry.value.get("params", {})
                found = {**own, **found}
    return found


def run_status(folder: Path) -> str | None:
    """The final status of the run in `folder`; None while it is open, or if its process died."""
    path = folder / FILE
    if not path.is_file():
        return None
    status = None
    for entry in Reader(path).entries():
        if entry.kind in ("end", "resumed"):
            status = entry.value.get("status")
    return status


def _record(kind: Kind, body: bytes) -> bytes:
    head = _HEAD.pack(_MARK, _NUMBERS[kind], len(body)) + body
    return head + _CHECK.pack(zlib.crc32(head))


def _whole_record(content: bytes, start: int) -> int | None:
    """The length of the valid record at `start`, or None."""
    if start + _HEAD.size > len(content):
        return None
    mark, kind, length = _HEAD.unpack_from(content, start)
    end = start + _HEAD.size + length
    if mark != _MARK or kind >= len(_KINDS) or end + _CHECK.size > len(content):
        return None
    if _CHECK.unpack_from(content, end)[0] != zlib.crc32(memoryview(content)[start:end]):
        return None
    return int(end + _CHECK.size - start)


def _next_record(content: bytes, start: int) -> int | None:
    """Where the next valid record after `start` begins, or None."""
    return next((at for at in _marks(content, start) if _whole_record(content, at) is not None), None)


def _marks(content: bytes, start: int = 0) -> Iterator[int]:
    """Where a record may begin."""
    while (start := content.find(_MARK, start)) >= 0:
        yield start
        start += 1
