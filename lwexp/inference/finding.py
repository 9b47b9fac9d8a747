"""Which run is meant: a folder, an MLflow run id, the latest one, or the best of a sweep."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from lwexp.errors import ConfigError
from lwexp.experiment.find import find_by_id
from lwexp.experiment.folder import read_result
from lwexp.experiment.manifest import FILE as SWEEP
from lwexp.experiment.manifest import read_manifest

CONFIG = "config.yaml"
_SKIPPED = {"mlartifacts", "checkpoints", ".hydra"}  # folders below outputs/ that hold no run's folder


def find(value: str, given: Mapping[str, str] | None = None, key: str = "run") -> Path:
    """The absolute folder of the run `value`; of a sweep, that of its best run. Raises `ConfigError` on `key`.

    `given`: the options that name the store, for an id that no folder below outputs/ has.
    """
    path = Path(os.path.abspath(Path(value).expanduser()))  # noqa: PTH100 (resolve() would follow links)
    if path.is_dir():
        return _run_in(path, value, key)
    if path.exists():
        raise ConfigError(key, value, f"is a file; give the run's folder; {_newest()}")
    folders = sorted(_folders(), key=_changed, reverse=True)
    if value == "latest":
        whole = [folder for folder in folders if not (folder.parent / SWEEP).is_file()]  # not the jobs of a sweep
        if not whole:
            raise ConfigError(key, value, _newest())
        return _run_in(whole[0].absolute(), value, key)
    folder = find_by_id(key, value, given or {}, folders, _newest())
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


def _folders() -> Iterator[Path]:
    """Folders of runs and of sweeps below outputs/, in any order."""
    for root, folders, files in os.walk("outputs"):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        if CONFIG in files or SWEEP in files:
            yield Path(root)


def _changed(folder: Path) -> int:
    """When the run or the sweep began."""
    return max((folder / name).stat().st_mtime_ns for name in (CONFIG, SWEEP) if (folder / name).is_file())


def _newest(count: int = 3) -> str:
    found = [folder for folder in _folders() if not (folder.parent / SWEEP).is_file()]
    found.sort(key=_changed, reverse=True)
    if not found:
        return f"there are no runs below {Path('outputs').absolute()}"
    return f"the newest {'runs are' if len(found) > 1 else 'run is'} {', '.join(map(str, found[:count]))}"
