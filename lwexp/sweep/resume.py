"""`sweep.resume=<sweep folder or MLflow run id>`: the sweep that is meant, and the command that resumes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lwexp.config.keys import GROUPS, changes_numbers
from lwexp.config.overrides import key_of
from lwexp.errors import ConfigError
from lwexp.experiment.find import find_by_id
from lwexp.experiment.manifest import FILE, SweepManifest, read_manifest
from lwexp.experiment.saved_config import allow_targets
from lwexp.tracking import check_folders_address, has_run

from .trust import ALLOW, check_secrets, check_written, compare, is_hydra, quoted

_NO_SWEEPS = "there are no sweeps below outputs/ here; they lie where they were started"
PHASE = "lwexp.phase"  # tag of a search's points


def find_sweep(value: str, typed: dict[str, Any]) -> Path:
    """The absolute folder of the sweep `value`: a path, an MLflow run id, or the first six or more digits of one.

    An id is searched below outputs/, then in the store that the options `typed` name. Raises `ConfigError`.
    """
    path = Path(os.path.abspath(Path(value).expanduser()))  # noqa: PTH100 (resolve() would follow links)
    if (path / FILE).is_file():
        return path
    known = sorted(_sweep_folders(), key=lambda folder: (folder / FILE).stat().st_mtime_ns, reverse=True)
    shown = ", ".join(os.path.relpath(folder) for folder in known[:3])
    newest = (
        f"the newest are {shown}"
        if known
        else "there are no sweeps below outputs/ here; they lie where they were started"
    )
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


def with_resumed_sweep(
    overrides: Sequence[str], config_dir: str | None, config_name: str | None
) -> tuple[list[str], str | None]:
    """The command line's `overrides` with `sweep.resume=<sweep>` resolved to the sweep's folder, for Hydra to use.

    The sweep's own settings come first; those of the command replace them, key by key, and add points. Also returns the
    absolute folder of --config-dir: `config_dir` as given, else the sweep's. The process changes to the folder in which
    the sweep was started. Without `sweep.resume`, all is returned unchanged. Raises `ConfigError`.
    """
    given = [override for override in overrides if key_of(override) == "sweep.resume"]
    value = given[-1].partition("=")[2].strip("'\"") if given else ""
    if value in ("", "null"):
        return list(overrides), config_dir
    others = [override for override in overrides if override not in given]
    typed = {key_of(override): override.partition("=")[2] for override in others}
    if "hydra.sweep.dir" in typed:
        raise ConfigError("hydra.sweep.dir", typed["hydra.sweep.dir"], "sweep.resume uses the sweep's own folder")
    folder = find_sweep(value, typed)
    manifest = read_manifest(folder)
    assert manifest is not None
    if (config_name or "config") != manifest.config_name:
        why = f"the sweep's config is {manifest.config_name}; give --config-name={manifest.config_name}"
        raise ConfigError("sweep.resume", value, why)
    study = next((o.partition("=")[2] for o in manifest.overrides if key_of(o) == "study"), None)
    if study is not None and typed.get("study", study) != study:
        raise ConfigError("study", typed["study"], f"the sweep to resume is of study={study}")
    config_dir = None if config_dir is None else os.path.abspath(config_dir)  # noqa: PTH100 (as Hydra does)
    _change_to(Path(manifest.cwd), value)
    saved_dir = manifest.config_dir or None
    if config_dir is None and saved_dir is not None and not Path(saved_dir).is_dir():
        raise ConfigError("sweep.resume", value, f"its --config-dir {saved_dir} is not there any more; give it again")
    own = _own_settings(manifest, typed)
    saved = _kept(own, typed)
    added = {key_of(override) for override in own if override.startswith("+")}  # by the sweep; without it, not there
    others = [override for override in others if not (override.startswith("~") and key_of(override) in added)]
    check_secrets(saved)
    check_written([*saved, *(override for point in manifest.points for override in point.overrides)])
    allowed, uri = compare(saved, others, saved_dir, config_dir)
    if uri is not None:
        check_folders_address(uri, Path.cwd(), folder)
    others = [override for override in others if key_of(override) != ALLOW]
    merged = [*saved, *others, *([allow_targets(allowed)] if allowed else [])]
    return [
        *merged,
        f"sweep.resume={quoted(str(folder))}",
        f"hydra.sweep.dir={quoted(str(folder))}",
    ], config_dir or saved_dir


def _own_settings(manifest: SweepManifest, typed: Mapping[str, str]) -> list[str]:
    """The overrides of the sweep. Where this command sets more, its varying keys have all values that they have so far.

    A key that some of its points lack is left to its default there, as in those.
    """
    saved = [*manifest.hydra_overrides, *manifest.overrides]
    own = [key for key in typed if not is_hydra(key) and changes_numbers(key)]
    points = [point.overrides for point in manifest.points if not point.baseline]
    if not own or any(PHASE in point.tags for point in manifest.points):  # a search has no list of values
        return saved
    for key in manifest.swept:
        found = [[override for override in point if key_of(override) == key] for point in points]
        if any(len(texts) > 1 for texts in found) or not any(found):
            continue
        values = dict.fromkeys(texts[0].partition("=")[2] for texts in found if texts)
        sign = next(texts[0].partition("=")[0] for texts in found if texts)
        kept = [f"{sign}={','.join(values)}"] if all(found) else []
        saved = [override for override in saved if key_of(override) != key] + kept
    return saved


def _kept(saved: Sequence[str], typed: Mapping[str, str]) -> list[str]:
    """Those of the `saved` overrides that stay where the command sets `typed`.

    Another choice of a group ends the options of the former one.
    """
    ended = {*typed, "sweep.resume", "hydra.sweep.dir", ALLOW}
    if not ended.isdisjoint(("mult", "decay.mult")):  # two names of one option
        ended |= {"mult", "decay.mult"}
    sections = [f"{key.replace('/', '.')}." for key in typed if key in (*GROUPS, "hydra/sweeper", "hydra/launcher")]
    sections = [section for section in sections if not typed[section[:-1].replace("hydra.", "hydra/")].startswith("{")]
    return [o for o in saved if key_of(o) not in ended and not key_of(o).startswith(tuple(sections))]


def _change_to(folder: Path, value: str) -> None:
    """Change to the `folder` that the sweep names. No process imports from there what has the name of a library."""
    if not folder.is_dir() or folder.samefile(Path.cwd()):
        return
    if sys.version_info < (3, 11):
        raise ConfigError("sweep.resume", value, f"the sweep was started in {folder}; change to that folder")
    os.environ["PYTHONSAFEPATH"] = "1"
    package = str(Path(__file__).parents[2])  # of a checkout that is not installed
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*map(os.path.abspath, paths), package]))
    print(f"the sweep was started in {folder}; paths are relative to that folder")
    os.chdir(folder)
