"""`sweep.resume=<sweep folder or MLflow run id>`: the sweep that is meant, and the command that resumes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lwexp.errors import ConfigError
from lwexp.experiment.find import find_by_id
from lwexp.experiment.manifest import FILE, read_manifest
from lwexp.tracking import has_run

from .points import split


def find_sweep(value: str, typed: dict[str, Any]) -> Path:
    """The absolute folder of the sweep `value`: a path, an MLflow run id, or the first six or more digits of one.

    An id is searched below outputs/, then in the store that the options `typed` name. Raises `ConfigError`.
    """
    path = Path(os.path.abspath(Path(value).expanduser()))  # noqa: PTH100 (resolve() would follow links)
    if (path / FILE).is_file():
        return path
    known = sorted(_sweep_folders(), key=lambda folder: (folder / FILE).stat().st_mtime_ns, reverse=True)
    shown = ", ".join(os.path.relpath(folder) for folder in known[:3])
    newest = f"the newest are {shown}" if known else "there are no sweeps below outputs/"
    if path.exists():
        raise ConfigError("sweep.resume", value, f"holds no sweep; {newest}")
    folder = find_by_id("sweep.resume", value, typed, known, newest)
    if not (folder / FILE).is_file():
        raise ConfigError("sweep.resume", value, f"the sweep's folder {folder} is not on this machine")
    return folder


def check_sweep_folder(folder: Path, resume: str | None, sweep_resume: str | None) -> None:
    """Raise `ConfigError` if `folder` holds a sweep or a run, unless `sweep.resume` or `resume=auto` continues it."""
    if resume is None and sweep_resume is None and ((folder / FILE).exists() or has_run(folder)):
        raise ConfigError("hydra.sweep.dir", folder, f"holds a sweep already; sweep.resume={folder} resumes it")


def _sweep_folders() -> Sequence[Path]:
    return [path.parent.absolute() for path in Path("outputs").glob(f"*/*/{FILE}")]


def with_resumed_sweep(overrides: Sequence[str]) -> list[str]:
    """The command line's `overrides` with `sweep.resume=<sweep>` resolved to the sweep's folder, for Hydra to use.

    If they set nothing else, the overrides of the sweep's last command are added. The process changes to the folder in
    which the sweep was started. Without `sweep.resume`, `overrides` are returned unchanged. Raises `ConfigError`.
    """
    given = [override for override in overrides if split(override)[0] == "sweep.resume"]
    value = given[-1].partition("=")[2].strip("'\"") if given else ""
    if value in ("", "null"):
        return list(overrides)
    others = [override for override in overrides if override not in given]
    typed = {split(override)[0]: split(override)[1] for override in others}
    if "hydra.sweep.dir" in typed:
        raise ConfigError("hydra.sweep.dir", typed["hydra.sweep.dir"], "sweep.resume uses the sweep's own folder")
    folder = find_sweep(value, typed)
    manifest = read_manifest(folder)
    assert manifest is not None
    if Path(manifest.cwd).is_dir() and not Path(manifest.cwd).samefile(Path.cwd()):
        print(f"the sweep was started in {manifest.cwd}; paths are relative to that folder")
        os.chdir(manifest.cwd)
    own = [key for key in typed if key.partition(".")[0] not in ("hydra", "sweep") and not key.startswith("hydra/")]
    if not own:
        saved = [*manifest.hydra_overrides, *manifest.overrides]
        _refuse_code(saved)
        others = [*(o for o in saved if split(o)[0] not in (*typed, "sweep.resume")), *others]
    return [*others, f"sweep.resume={_quoted(folder)}", f"hydra.sweep.dir={_quoted(folder)}"]


def _refuse_code(saved: Sequence[str]) -> None:
    """Code named in a file is not executed, and secrets are in no file: both must be typed again."""
    for override in saved:
        if "_target_" in override or "trust_remote_code" in override or "${" in override:
            raise ConfigError(
                "sweep.resume", override, "would run code that a file names; give the sweep's whole command"
            )
        if "***" in override:
            raise ConfigError("sweep.resume", override, "its secret is not stored; give the sweep's whole command")


def _quoted(folder: Path) -> str:
    return "'" + str(folder).replace("\\", "\\\\").replace("'", "\\'") + "'"
