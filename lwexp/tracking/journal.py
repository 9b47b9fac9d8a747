"""The journal: all that a run tells its tracking store, in one append-only file, written before anything is sent.

A header, then records of a mark, a kind, a length, the content, and a CRC-32 of it all. One `write` call per record, so
what a process had written when it was killed is there; a record that was cut off in the middle fails its check and is
dropped when the file is opened again. The values of one step take 8 bytes each, their names stand in the file once.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lwexp.errors import RunError

from .keys import free_key, safe_key

Kind = Literal["run", "keys", "rows", "tags", "artifact", "resumed", "end"]
FILE = "journal.lwexp"

_HEADER = b"lwexp journal 1\n"
_MARK = b"\xf1\x7a"
_KINDS: tuple[Kind, ...] = ("run", "keys", "rows", "tags", "artifact", "resumed", "end")
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_HEAD = struct.Struct("<2sBI")  # mark, kind, length of the content
_CHECK = struct.Struct("<I")
_ROW = struct.Struct("<Iqq")  # set of keys, optimizer step, milliseconds since the Unix epoch
_RESERVE = "journal.reserve"  # given up for the end record when the disk is full
_RESERVE_BYTES = 16384
_CHUNK = 1 << 22  # bytes read at once


class Rows(NamedTuple):
    """What one `rows` call wrote: metric keys, as MLflow takes them, and their values at an optimizer step."""

    keys: tuple[str, ...]
    values: tuple[float, ...]
    step: int
    time_ms: int


class Entry(NamedTuple):
    """One record; `value` is `Rows` for the kind `rows`, else a mapping. `end` is the position behind it."""

    kind: Kind
    value: Any
    end: int


class Reader:
    """Entries in order, from the beginning or a position, as far as they are whole."""

    def __init__(self, path: Path) -> None:
        """Nothing is read yet. Raises `RunError` if the file is no journal."""
        self.path, self.position = path, len(_HEADER)
        self.damaged = 0  # bytes that were skipped because no valid record is in them
        self.key_sets: dict[int, tuple[str, ...]] = {}
        self.names: dict[str, str] = {}  # name -> key
        with path.open("rb") as file:
            if not _HEADER.startswith(file.read(len(_HEADER))):  # a shorter file was cut off before its first record
                raise RunError(f"{path} is not a metrics journal of this version of lwexp")

    def entries(self, until: int | None = None) -> Iterator[Entry]:
        """What is there from `position` on, which moves along; an unfinished record at the end is left for later.

        With `until`, entries from there on are not read.
        """
        size = _CHUNK
        with self.path.open("rb") as file:
            while True:
                file.seek(self.position)
                content = file.read(size if until is None else min(size, max(0, until - self.position)))
                before = self.position
                yield from self._parsed(content)
                if self.position > before:
                    size = _CHUNK
                elif len(content) == size:  # one record, or one damaged stretch, is longer
                    size *= 2
                else:
                    return  # cut off, or still being written

    def skip_to(self, position: int) -> None:
        """Go on from `position`; the sets of keys before it are read."""
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
        if kind == "rows":
            number, step, time_ms = _ROW.unpack_from(body)
            keys = self.key_sets.get(number)
            if keys is None:  # the record that named them is damaged
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
    """The journal open for writing, by one process at a time (the caller holds the run's lock)."""

    def __init__(self, folder: Path) -> None:
        """Begin the journal in `folder`, or go on with the one that is there. Raises `RunError`."""
        self.path = folder / FILE
        self._reserve = folder / _RESERVE
        self._keys: dict[str, str] = {}  # metric name -> MLflow key
        self._numbers: dict[tuple[str, ...], int] = {}  # names -> number of their set of keys
        self._last: dict[str, int] = {}  # key -> last step, of what was there at the opening
        self._last_step = -1
        self._next_number = 0
        self.rows_written = 0
        self.run: dict[str, Any] | None = None
        self.ended: str | None = None
        self._file = -1
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            if os.fstat(self._file).st_size < len(_HEADER):
                Reader(self.path)  # nobody else's file
                os.ftruncate(self._file, 0)
                self._end = 0
                self._append(_HEADER)
            else:
                self._take_up()
            self._reserve.write_bytes(bytes(_RESERVE_BYTES))
        except OSError as error:
            self.close()
            self._no_space(error)
        except RunError:
            self.close()
            raise

    def write(self, kind: Kind, value: Mapping[str, Any]) -> None:
        """Append an entry of any kind but `rows`. Raises `RunError` where the disk takes no more."""
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
            self._no_space(error)
        if kind == "run":
            self.run = dict(value)
        self.ended = value["status"] if kind == "end" else None if kind == "resumed" else self.ended

    def rows(self, metrics: Mapping[str, float], step: int) -> None:
        """Append the values of one step with the present time; what the journal has of that step is left out.

        Raises `RunError` where the disk takes no more; what was written before is whole then.
        """
        if step <= self._last_step:
            metrics = {n: v for n, v in metrics.items() if self._last.get(self._keys.get(n, ""), -1) < step}
            if not metrics:
                return
        names = tuple(metrics)
        number = self._numbers.get(names)
        if number is None:
            number = self._new_keys(names)
        body = _ROW.pack(number, step, time.time_ns() // 1_000_000) + struct.pack(f"<{len(names)}d", *metrics.values())
        try:
            self._append(_record("rows", body))
        except OSError as error:
            self._no_space(error)
        self.rows_written += len(names)

    def sync(self) -> int:
        """Have all that was written on the disk; returns its length in bytes."""
        try:
            os.fsync(self._file)
        except OSError as error:
            self._no_space(error)
        return self._end

    def close(self) -> None:
        """Nothing is written any more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        with suppress(OSError):
            self._reserve.unlink(missing_ok=True)

    def _take_up(self) -> None:
        reader = Reader(self.path)
        last: dict[tuple[str, ...], int] = {}
        for entry in reader.entries():
            if entry.kind == "rows":
                self.rows_written += len(entry.value.keys)
                last[entry.value.keys] = max(last.get(entry.value.keys, -1), entry.value.step)
            elif entry.kind == "run":
                self.run = entry.value
            elif entry.kind == "end":
                self.ended = entry.value["status"]
            elif entry.kind == "resumed":
                self.ended = None
        for keys, step in last.items():
            self._last.update({key: max(self._last.get(key, -1), step) for key in keys})
        self._last_step = max(last.values(), default=-1)
        self._keys = dict(reader.names)
        # numbers go on after those in the file; sets of keys are written anew when they are used
        self._next_number = max(reader.key_sets, default=-1) + 1
        self._end = reader.position
        os.ftruncate(self._file, self._end)

    def _new_keys(self, names: tuple[str, ...]) -> int:
        new = [name for name in names if name not in self._keys]
        for name in sorted(new, key=lambda name: name != safe_key(name)):  # what can stay as it is comes first
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

    def _no_space(self, error: OSError) -> None:
        raise RunError(f"the metrics journal {self.path} cannot be written: {error.strerror or error}") from error


def run_record(folder: Path) -> dict[str, Any] | None:
    """What the journal in `folder` says of its run; None where there is no journal, or no run in it."""
    path = folder / FILE
    try:
        found = (entry.value for entry in Reader(path).entries() if entry.kind == "run")
        return next(found, None) if path.is_file() else None
    except (OSError, RunError):
        return None


def has_journal(folder: Path) -> bool:
    """Whether `folder` holds a journal with a run in it."""
    return run_record(folder) is not None


def ended(folder: Path) -> str | None:
    """The status that the run in `folder` ended with; None if it has not, or died without a word."""
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
    while (start := content.find(_MARK, start)) >= 0:
        if _whole_record(content, start) is not None:
            return start
        start += 1
    return None
