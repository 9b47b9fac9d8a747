"""Which run is meant: a folder, an MLflow run id, the latest one, or the best of a sweep."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from lwexp.errors import ConfigError
from lwexp.experiment.find import CONFIG, NO_RUNS, find_by_id, folders_with, newest_of
from lwexp.experiment.folder import read_result
from lwexp.experiment.manifest import FILE as SWEEP
from lwexp.experiment.manifest import read_manifest


def find(value: str, given: Mapping[str, str] | None = None, key: str = "run") -> Path:
    """The absolute folder of the run `value`; of a sweep, that of its best run. Raises `ConfigError` on `key`.

    `given`: the options that name the store, for an id that no folder below outputs/ has.
    """
    path = Path(os.path.abspath(Path(value).expanduser()))  # noqa: PTH100 (resolve() would follow links)
    if path.is_dir():
        return _run_in(path, value, key)
    if path.exists():
        raise ConfigError(key, value, f"is a file; give the run's folder; {_newest()}")
    if value == "latest":
        whole = _whole()
        if not whole:
            raise ConfigError(key, value, NO_RUNS)
        return _run_in(whole[0].absolute(), value, key)
    folder = find_by_id(key, value, given or {}, folders_with(CONFIG, SWEEP), _newest())
    if not folder.is_dir():
        raise ConfigError(key, value, f"the run's folder {folder} is not on this machine; give its present path")
    return _run_in(folder, value, key)


def best_of(sweep: Path, key: str = "run") -> Path:
    """The folder of the sweep's run with the best monitored metric. Raises `ConfigError` where none has one."""
    manifest = read_manifest(sweep)
    points = manifest.points if manifest is not None else ()
    found = {point: read_result(point.folder_in(sweep)) for point in points}
    known = {point: result for point, result in found.items() if result.pruned is None and not math.isnan(result.value)}
    if not known:
        raise ConfigError(key, sweep, "is a sweep in which no run has finished yet")
    sign = -1 if next(iter(known.values())).monitor.mode == "min" else 1
    return max(known, key=lambda point: (sign * known[point].value, -point.number)).folder_in(sweep)


def _run_in(path: Path, value: str, key: str) -> Path:
    if (path / SWEEP).is_file():
        return best_of(path, key)
    if not (path / CONFIG).is_file():
        raise ConfigError(key, value, f"holds no run; {_newest()}")
    return path


def _changed(folder: Path) -> int:
    """When the run or the sweep began."""
    return max((folder / name).stat().st_mtime_ns for name in (CONFIG, SWEEP) if (folder / name).is_file())


def _whole() -> list[Path]:
    """Single runs and sweeps below outputs/, not the jobs of these, the newest first."""
    found = [folder for folder in folders_with(CONFIG, SWEEP) if not (folder.parent / SWEEP).is_file()]
    return sorted(found, key=_changed, reverse=True)


def _newest() -> str:
    return newest_of(_whole())
