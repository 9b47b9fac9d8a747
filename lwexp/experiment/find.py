"""A run by its path, its MLflow run id, or the beginning of that id."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwexp.config.defaults import defaults
from lwexp.errors import ConfigError, LwexpError

if TYPE_CHECKING:
    from lwexp.config.schema import MLflowConfig

NO_RUNS = "there are no runs below outputs/ here; runs lie in outputs/ of the folder where they were started"
CONFIG = "config.yaml"
_ID = re.compile(r"[0-9a-fA-F]{6,32}")
_SKIPPED = {"mlartifacts", "checkpoints", ".hydra"}  # folders below outputs/ that hold no run's folder


def find_run(value: str, given: Mapping[str, Any] | None = None, key: str = "resume") -> Path:
    """The absolute folder of the run `value`: a path, or an MLflow run id or the first six or more of its digits.

    An id is looked for in the runs below outputs/, then in the MLflow store that the options `given` name. `key` is the
    option that named it: `resume` needs the run's journal as well.
    """
    from lwexp.tracking import has_run

    path = Path(os.path.abspath(Path(value).expanduser()))  # noqa: PTH100 (resolve() would follow links)
    if path.is_dir():
        trained = any((path / name).exists() for name in ("best.safetensors", "checkpoints"))
        if key == "resume" and trained and not has_run(path):
            raise ConfigError(key, value, "holds a run without its journal, which cannot be resumed")
        if not (path / CONFIG).is_file():
            what = "holds a command that was stopped before its run started" if (path / ".hydra").is_dir() else None
            if (path / "find.json").is_file():
                what = "holds range tests, which keep no trained network"
            raise ConfigError(key, value, f"{what or 'holds no run'}; {_newest()}")
        return path
    if path.exists():
        raise ConfigError(key, value, f"is a file; give the run's folder; {_newest()}")
    folder = find_by_id(key, value, given or {}, _run_folders(), _newest())
    if not (folder / CONFIG).is_file():
        why = f"the run's folder {folder} is not on this machine; give its present path"
        raise ConfigError(key, value, why)
    return folder


def find_by_id(key: str, value: str, given: Mapping[str, Any], folders: Iterable[Path], newest: str) -> Path:
    """The folder of the run whose MLflow id is `value` or begins with it: one of `folders`, else as its store says.

    `key` is the option that named it, `given` the options that name the store; errors end with `newest`.
    """
    if not _ID.fullmatch(value):
        raise ConfigError(key, value, f"no such folder, and no MLflow run id; {newest}")
    found = {id_: _original(folder) for id_, folder in _local_ids(folders) if id_.startswith(value.lower())}
    why = "no run of that id is below outputs/"
    if not found:
        try:
            found = _ids_of_store(value.lower(), given)
            why += " or in the tracking store"
        except LwexpError as error:
            why += f", and {error}"
    if len(found) > 1:
        raise ConfigError(key, value, f"could be {' or '.join(sorted(found)[:3])}; give more digits")
    if not found:
        raise ConfigError(key, value, f"{why}; {newest}")
    (folder,) = found.values()
    return folder


def shown_path(folder: Path, base: Path) -> str:
    """`folder` relative to `base`, absolute where it is not below it."""
    return os.path.relpath(folder, base) if folder.is_relative_to(base) else str(folder)


def folders_with(*names: str) -> Iterator[Path]:
    """Folders below outputs/ that hold a file of one of the `names`, in any order."""
    for root, folders, files in os.walk("outputs"):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        if not set(names).isdisjoint(files):
            yield Path(root)


def newest_of(folders: Sequence[Path], count: int = 3) -> str:
    """A hint for an error: the first of `folders`, which are the newest ones, or that there are none."""
    if not folders:
        return NO_RUNS
    return f"the newest {'runs are' if len(folders) > 1 else 'run is'} {', '.join(map(str, folders[:count]))}"


def _run_folders() -> Iterator[Path]:
    """Folders of runs below outputs/, in any order."""
    from lwexp.tracking import has_run

    return filter(has_run, folders_with(CONFIG))


def _original(folder: Path) -> Path:
    """`folder`, or the one of which it is a copy: an MLflow run is that of the original."""
    from lwexp.tracking import original_of

    return original_of(folder) or folder


def _newest() -> str:
    return newest_of(sorted(_run_folders(), key=lambda folder: (folder / CONFIG).stat().st_mtime_ns, reverse=True))


def _local_ids(folders: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        try:
            found = json.loads((folder / "delivery.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # not delivered yet
        if isinstance(found, dict) and isinstance(found.get("run_id"), str):
            yield found["run_id"], folder.absolute()


def _ids_of_store(start: str, given: Mapping[str, Any]) -> dict[str, Path]:
    """Ids that begin with `start` and their runs' folders, from the store; empty where there is none."""
    from lwexp.tracking import resolve_uri
    from lwexp.tracking.address import is_missing
    from lwexp.tracking.reader import StoreReader

    config = _tracking(given)
    if config is None or is_missing(resolve_uri(config, Path.cwd())):
        return {}
    store = StoreReader(config, Path.cwd())
    runs = store.search(list(store.experiments().values()), f"attributes.run_id LIKE '{start}%'")
    folders = {run.id: run.tags.get("lwexp.folder") for run in runs}
    return {id_: Path(folder) for id_, folder in folders.items() if folder}


def _tracking(given: Mapping[str, Any]) -> MLflowConfig | None:
    """The store that the command line names; None with tracking=none."""
    from lwexp.config.schema import MLflowConfig

    if given.get("tracking") == "none" or given.get("tracking.name") == "none":
        return None
    uri = given.get("tracking.uri")
    return MLflowConfig(**defaults("tracking/mlflow") | ({"uri": str(uri)} if uri is not None else {}))
