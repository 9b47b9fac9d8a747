"""What a run's folder tells about the run: whether one is there, how it ended, and with which config it was made."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwexp.config.defaults import defaults, dump
from lwexp.config.keys import USER_KEYED, flatten
from lwexp.errors import ConfigError, RunError
from lwexp.host.files import atomic_write
from lwexp.tracking import deliver_rest, ended, has_run

from .resume import taken_up

if TYPE_CHECKING:
    from lwexp.config.schema import RunConfig

log = logging.getLogger(__name__)

_CONFIG, _RESULT, _RESUMED = "config.yaml", "result.json", "resumed.json"
# Sections and keys that change nothing in the numbers of a training
_HARMLESS_SECTIONS = ("tracking", "checkpoint", "preview", "sweep")
_HARMLESS = (
    "resume", "progress", "device", "threads", "compile", "channels_last", "parallel", "data.workers", "data.cache",
)  # fmt: skip


def check_place(folder: Path, resume: str | None) -> None:
    """Refuse a folder that holds a run without `resume`, and a `resume` that nobody has looked up."""
    if resume in (None, "auto"):
        if resume is None and has_run(folder):
            why = (
                "holds a run already; resume=auto goes on with it as this command says, resume=<folder> as it was begun"
            )
            raise ConfigError("hydra.run.dir", folder, why)
    elif not resume:
        raise ConfigError("resume", resume, "names no run; give a run's folder, an MLflow run id, or auto")
    elif resume != taken_up():
        raise ConfigError("resume", resume, "can be given on the command line only")


def check_sweep_place(folder: Path, resume: str | None, carried_on: str | None) -> None:
    """Refuse a sweep's folder that holds a sweep or a run already, without `sweep.resume` or `resume=auto`."""
    if resume is None and carried_on is None and ((folder / "sweep.json").exists() or has_run(folder)):
        raise ConfigError("hydra.sweep.dir", folder, f"holds a sweep already; sweep.resume={folder} carries it on")


def changes_numbers(key: str) -> bool:
    """Whether the option `key` changes something in the numbers of a training."""
    return not _harmless(key)


def finished(config: RunConfig, values: Mapping[str, Any], folder: Path, base: Path) -> dict[str, float] | None:
    """The metrics of the run in `folder` if it had finished, what is left of it delivered now.

    Raises `ConfigError` where `values` ask for other numbers than its own.
    """
    if not has_run(folder) or ended(folder) != "FINISHED":
        return None
    before = config_before(folder)
    if before is not None:
        changes(before, values, remap=False, way_on="it has finished, so another run is needed for that")
    deliver_rest(config.tracking, folder, base)
    try:
        metrics: dict[str, float] = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
        best = float(metrics["val/accuracy"])
    except (OSError, ValueError, KeyError, TypeError):
        metrics, best = {}, float("nan")
    log.info("the run in %s had finished, with a best validation accuracy of %.2f%%", folder, 100 * best)
    return metrics


def keep_config(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the run's config: before its journal is made, so that every run that has begun can go on."""
    shown = {**values, "resume": values["resume"] if values.get("resume") == "auto" else None}
    _replace(folder / _CONFIG, dump(shown))


def keep_result(folder: Path, metrics: Mapping[str, float], pruned: str | None = None) -> None:
    """Write the run's best evaluation, and that of the test split, for whoever asks after its end.

    `pruned` says why a search has given it up before that.
    """
    _replace(folder / _RESULT, json.dumps({**metrics, **({"pruned": pruned} if pruned else {})}, indent=1))


def pruned_in(folder: Path) -> str | None:
    """Why a search has given the run in `folder` up, if one has."""
    try:
        found = json.loads((folder / _RESULT).read_text(encoding="utf-8")).get("pruned")
    except (OSError, ValueError, AttributeError):
        return None
    return None if found is None else str(found)


_REMAP = "checkpoint.remap=true goes on with the new"


def changes(before: Mapping[str, Any], now: Mapping[str, Any], *, remap: bool, way_on: str = _REMAP) -> list[str]:
    """Options that differ from those with which the run was made, as `key=value`; both configs are plain and redacted.

    Raises `ConfigError` for one that changes the numbers, unless `remap`; it ends with `way_on`.
    """
    old, new = _flat(_with_defaults(before)), _flat(now)
    differing = [key for key in [*new, *(key for key in old if key not in new)] if old.get(key) != new.get(key)]
    grave = [key for key in differing if not _harmless(key)]
    if grave and not remap:
        shown = [f"{key} was {_shown(old.get(key))}, is {_shown(new.get(key))}" for key in grave[:4]]
        more = f" and {len(grave) - 4} more" if len(grave) > 4 else ""
        why = f"the run was made with other values: {', '.join(shown)}{more}; {way_on}"
        raise ConfigError(grave[0], _shown(new.get(grave[0])), why)
    for key in ("threads", "compile", "channels_last"):
        if key in differing:
            log.warning("%s=%s differs from the run's: the last bits of its numbers may too", key, _shown(new[key]))
    return [f"{key}={_shown(new.get(key))}" for key in differing if key not in ("resume", "checkpoint.allow_targets")]


def config_before(folder: Path) -> dict[str, Any] | None:
    """The config that the run in `folder` was begun with, None where there is none."""
    from .resume import saved_config

    return saved_config(folder) if (folder / _CONFIG).is_file() else None


def note_resumed(folder: Path, step: int, changed: list[str]) -> str:
    """Add to the list of the run's resumptions; returns it as one text."""
    file = folder / _RESUMED
    try:
        before = [str(entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        before = []
    entries = [*before, " ".join([f"step {step}", *(["with"] if changed else []), *changed])]
    _replace(file, json.dumps(entries, indent=1))
    return "; ".join(entries)


# Folders that this process has made, the innermost first, and holds a run in none of them yet
_made: list[Path] = []


def note_missing(folder: Path) -> None:
    """Remember what of the path `folder` is not there, just before Hydra makes it."""
    _made[:] = [path for path in (folder, *folder.parents) if not path.exists()]


def remove_if_unused() -> None:
    """Remove the folder noted by `note_missing`, where no run has begun in it and nobody has put anything into it."""
    if not _made or has_run(_made[0]):
        return
    folder, own = _made[0], {".hydra", "lwexp.log", _CONFIG, "journal.lock", "delivery.lock", "delivery.json"}
    try:
        if {path.name for path in folder.iterdir()} <= own:
            shutil.rmtree(folder)
            for parent in _made[1:]:
                parent.rmdir()  # fails where another run has come into it
    except OSError:
        pass  # it stays, and is no worse than untidy
    _made.clear()


def _harmless(key: str) -> bool:
    return key in _HARMLESS or key.partition(".")[0] in _HARMLESS_SECTIONS


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys; a mapping of the user's own keys as the list of its items, since their order counts."""
    flat = flatten(values, keep=USER_KEYED)
    for key in USER_KEYED:
        if isinstance(flat.get(key), Mapping):
            flat[key] = [[str(name), value] for name, value in flatten(flat[key]).items()]
    return flat


def _with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` of an earlier version of lwexp with the defaults of the keys that it did not have."""
    complete = defaults() | dict(values)
    for key, value in defaults().items():
        if isinstance(value, dict) and isinstance(values.get(key), Mapping) and key not in USER_KEYED:
            complete[key] = {**value, **values[key]}
    return complete


def _shown(value: Any) -> str:
    """As one would type it, short."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _replace(file: Path, text: str) -> None:
    """Write the file as a whole or not at all, and for good. Raises `RunError`."""
    try:
        atomic_write(file, text)
    except OSError as error:
        raise RunError(f"{file} cannot be written: {error.strerror or error}") from error
