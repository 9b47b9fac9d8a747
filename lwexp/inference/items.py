"""What is predicted: image files of files and folders, and texts of files and of the command line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwexp.data.image_files import Skipped, image_files
from lwexp.errors import ConfigError, UnknownNameError

TEXT_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Item:
    """One image or text: `name` identifies it in tables, `value` goes to the transform; `text` is None for images."""

    name: str
    value: Any
    text: str | None = None


def image_items(paths: Sequence[str]) -> tuple[list[Item], list[str]]:
    """The images of `paths` (files, or folders with all below them), and lines about what is not taken.

    Raises `ConfigError` for a path that does not exist, and where there is no image at all.
    """
    items: list[Item] = []
    notes: list[str] = []
    for path in map(Path, paths):
        if not path.exists():
            raise ConfigError("path", path, "there is no such file or folder")
        if path.is_file():
            items.append(Item(str(path), path))
            continue
        skipped, refused = Skipped(), list[OSError]()
        items += [Item(name, Path(name)) for name in image_files(path, skipped, refused.append)]
        notes += [f"{error.filename}: {error.strerror}" for error in refused]
        if said := skipped.described(str(path)):
            notes.append(f"{path}: {said}")
    if not items:
        raise ConfigError("path", " ".join(paths), "holds no image")
    return items, notes


def text_items(paths: Sequence[str], texts: Sequence[str], column: str) -> list[Item]:
    """The texts of the files `paths`, named `file:line`, and `texts` themselves. `column`: of a table's texts.

    A .txt file has a text on each line. Raises `ConfigError` for a file that cannot be read, and where there is none.
    """
    items = [Item(f"text {number}", text, text) for number, text in enumerate(texts, 1)]
    for path in map(Path, paths):
        if not path.exists():
            raise ConfigError("path", path, "there is no such file; a text itself is given with --text")
        if path.suffix.lower() not in TEXT_SUFFIXES:
            raise ConfigError("path", path, f"texts are read from {', '.join(TEXT_SUFFIXES)}, or given with --text")
        try:
            found = list(_rows(path, column))
        except UnicodeDecodeError as error:
            raise ConfigError("path", path, f"is not UTF-8: {error.reason}") from None
        except (OSError, ValueError, csv.Error) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError("path", path, f"cannot be read: {error}") from None
        items += [Item(f"{path}:{line}", text, text) for line, text in found if text.strip()]
    if not items:
        raise ConfigError("path", " ".join(paths), "holds no text")
    return items


def _rows(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """Line and text of each row."""
    suffix = path.suffix.lower()
    with path.open(encoding="utf-8-sig", newline="") as file:
        if suffix == ".txt":
            yield from ((number, line.rstrip("\r\n")) for number, line in enumerate(file, 1))
            return
        if suffix in (".csv", ".tsv"):
            reader = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
            if column not in (reader.fieldnames or ()):
                raise UnknownNameError("--column", column, reader.fieldnames or (), f"no such column in {path}")
            yield from ((reader.line_num, row[column] or "") for row in reader)
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict) or column not in row:
                    known = list(row) if isinstance(row, dict) else []
                    raise UnknownNameError("--column", column, known, f"no such key in {path}, line {number}")
                yield number, str(row[column])
