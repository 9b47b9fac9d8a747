"""The manifest of a sweep, `sweep.json` in its folder: the jobs it has, and what a job must know of its sweep.

Written by the launching process before any job starts; a job finds its own entry by the name of its folder, with any
launcher whose machines share that folder. A resumed sweep starts from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lwexp import redaction
from lwexp.errors import ConfigError, RunError
from lwexp.host.files import atomic_write

FILE = "sweep.json"
_FORMAT = 1
Arm = Literal["uniform", "layerwise"]


@dataclass(frozen=True)
class Point:
    """One job of a sweep; `number` is its position in the sweep and the name of its folder."""

    number: int
    overrides: tuple[str, ...]  # that define it, without those that only say how the sweep is run
    values: Mapping[str, str] = field(default_factory=dict, hash=False)  # of the sweep's varying keys, as typed
    arm: Arm = "layerwise"
    baseline: bool = False  # added as the uniform twin of others
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)  # additional tags of its MLflow run

    @property
    def name(self) -> str:
        """The job's name in tables and in MLflow; empty for the only job of its sweep."""
        return " ".join(f"{key}={value}" for key, value in self.values.items())

    def folder_in(self, sweep: Path) -> Path:
        """The job's run folder in the folder of the `sweep`."""
        return sweep / str(self.number)


@dataclass(frozen=True)
class SweepManifest:
    """All points of a sweep, the keys in which they differ, and the command that started it, without secrets.

    `cwd` is the folder in which the sweep was started: its relative paths, its store's among them, are relative to it.
    The file may come from somebody else: `sweep/trust.py` says what it may set.
    """

    points: tuple[Point, ...]
    swept: tuple[str, ...]
    overrides: tuple[str, ...]
    hydra_overrides: tuple[str, ...]
    cwd: str = ""
    config_dir: str = ""  # Hydra's --config-dir, absolute
    config_name: str = "config"

    def save(self, folder: Path) -> None:
        """Write the file atomically. Raises `RunError`."""
        path = folder / FILE
        text = json.dumps({"format": _FORMAT, **redaction.redact_values(asdict(self))}, indent=1)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(path, text, durable=False)
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror or error}") from error


def read_manifest(folder: Path) -> SweepManifest | None:
    """The manifest in `folder`; None if there is no such file. Raises `ConfigError` for a file that is not valid."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("format") != _FORMAT:
            raise ValueError("it is of another version of lwexp")
        points = tuple(_point(point) for point in found.pop("points"))
        texts = ("cwd", "config_dir", "config_name")
        rest: dict[str, Any] = {k: _text(v) if k in texts else tuple(map(_text, v)) for k, v in found.items()}
        return SweepManifest(points, **rest)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError("sweep.resume", folder, f"its {FILE} cannot be read: {error}") from None


def _point(found: dict[str, Any]) -> Point:
    """Raises `ValueError`, `TypeError`, `KeyError` for what is no point."""
    number = found["number"]
    if type(number) is not int or number < 0:
        raise ValueError(f"the number of a job is {number!r}")
    for key in ("values", "tags"):
        found[key] = {_text(name): _text(value) for name, value in found.get(key, {}).items()}
    return Point(**{**found, "overrides": tuple(map(_text, found["overrides"]))})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def point_of(folder: Path) -> Point | None:
    """The point whose job runs in `folder`; None outside a sweep of lwexp."""
    manifest = read_manifest(folder.parent)
    return next((p for p in manifest.points if str(p.number) == folder.name), None) if manifest is not None else None


def is_kept(folder: Path, *, in_sweeps: bool) -> bool:
    """Whether the run in `folder` keeps what only the jobs of a sweep may drop, by sweep.keep_weights or details."""
    return in_sweeps or point_of(folder) is None


def place_in_sweep(folder: Path) -> tuple[Path | None, str | None, dict[str, str]]:
    """The folder of the parent run of the job in `folder`, the job's name and its tags; empty outside a sweep."""
    from lwexp.tracking import has_run  # half of the imports of `lwexp.run --help`, which reads manifests only

    point = point_of(folder)
    if point is None:
        return None, None, {}
    return folder.parent if has_run(folder.parent) else None, redaction.redact(point.name) or None, _tags(point)


def _tags(point: Point) -> dict[str, str]:
    tags = {"lwexp.point": json.dumps(dict(point.values)), "lwexp.arm": point.arm, **point.tags}
    return {**tags, "lwexp.baseline": "true"} if point.baseline else tags
