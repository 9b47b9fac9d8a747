"""Tables in CSV, TSV and JSONL files: one file, or one for each split."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lwexp.errors import ConfigError

from .source import SPLIT_NAMES, SplitName

KEY = "data.path"
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
SPLIT_FILES: dict[str, SplitName] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


def split_files(path: str, *, needs_train: bool = True) -> dict[SplitName, Path]:
    """The files of the splits under `path`; a single file is "train". Raises `ConfigError`."""
    root = Path(path).expanduser()
    if not root.exists():
        raise ConfigError(KEY, path, f"there is no such file or folder (looked for {root.absolute()})")
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise ConfigError(KEY, path, f"must end in {', '.join(SUFFIXES)}")
        return {"train": root}
    found: dict[SplitName, Path] = {}
    for file in sorted(root.iterdir()):
        split = SPLIT_FILES.get(file.stem.lower())
        if split is None or file.suffix.lower() not in SUFFIXES or not file.is_file():
            continue
        if split in found:
            raise ConfigError(KEY, path, f"both {found[split].name} and {file.name} could be the {split} split")
        found[split] = file
    if "train" not in found and (needs_train or not found):
        names = f"train, val and test with the ending {', '.join(SUFFIXES)}"
        raise ConfigError(KEY, path, f"has no train file; expected files named {names}")
    return {name: found[name] for name in SPLIT_NAMES if name in found}


def rows(path: str, file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line numbers, and rows by column name; empty lines are skipped.

    Raises `ConfigError` on `data.path`, whose value is `path`, for what cannot be read.
    """
    try:
        yield from _rows(path, file)
    except UnicodeDecodeError as error:
        raise ConfigError(KEY, path, f"{file.name} is not UTF-8: {error.reason}") from None
    except csv.Error as error:
        raise ConfigError(KEY, path, f"{file.name} cannot be read: {error}") from None
    except OSError as error:
        raise ConfigError(KEY, path, f"cannot read {file.name}: {(error.strerror or str(error)).lower()}") from None


def _rows(path: str, file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        if file.suffix.lower() in (".csv", ".tsv"):
            csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
            # quotation marks in TSV are literal, as in GLUE's files
            tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
            reader = csv.DictReader(stream, strict=True, **(tabs if file.suffix.lower() == ".tsv" else {}))
            for row in reader:
                if None in row or None in row.values():
                    fields = "more" if None in row else "fewer"
                    why = f"{file.name}, line {reader.line_num}, has {fields} fields than the first line"
                    raise ConfigError(KEY, path, why)
                yield reader.line_num, row
            return
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(KEY, path, f"{file.name}, line {number}, is not JSON: {error.msg}") from None
            if not isinstance(row, dict):
                raise ConfigError(KEY, path, f"{file.name}, line {number}, is not a JSON object")
            yield number, row
