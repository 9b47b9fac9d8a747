"""`resume=<run>` and `from_run=<run>` on the command line: that run's config is the start of what Hydra composes.

The first continues the run in its folder, the second starts a new one, or a sweep, in a folder of its own.

The config of a run may come from somebody else, so it may set values but never run code: every `_target_` in it that
the command line does not allow is refused. `experiment/saved_config.py` reads the file.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lwexp.config import recipes
from lwexp.config.defaults import CONF, defaults
from lwexp.config.keys import GROUPS, OF_ONE_RUN, leaves
from lwexp.config.overrides import SAVED, SAVED_REST, parse_overrides
from lwexp.errors import ConfigError
from lwexp.experiment.find import find_run
from lwexp.experiment.saved_config import allow_targets, check_saved_address, code_in, saved_config


def with_saved_config(overrides: Sequence[str], *, multirun: bool, own_folder: bool) -> list[str]:
    """The command line's `overrides` with `resume=<run>` replaced by those that make Hydra take that run's config.

    `own_folder`: Hydra's run folder becomes that of the run. Without `resume=`, or with resume=auto, `overrides` come
    back unchanged. Raises `ConfigError` for a run that does not exist and for a config that must not be taken.
    """
    given = [override for override in overrides if _gives(override, "resume")]
    value = _unquoted(given[-1].partition("=")[2]) if given else ""
    if value in ("", "null", "auto"):
        return list(overrides)
    others = [override for override in overrides if override not in given]
    values, chosen = parse_overrides(others)
    if multirun or str(values.get("hydra.mode", "")).upper() == "MULTIRUN":
        raise ConfigError("resume", value, "is one run, and -m starts many; resume=auto resumes each job's own")
    if own_folder and "hydra.run.dir" in values:
        raise ConfigError("hydra.run.dir", values["hydra.run.dir"], "a run is resumed in its own folder")
    if values.get("from_run") is not None:
        why = "starts a new run, and resume continues one; give one of them"
        raise ConfigError("from_run", values["from_run"], why)
    folder = find_run(value, values)
    saved = _allowed_part(saved_config(folder), values, chosen, folder)
    if own_folder and "tracking.uri" not in values:
        check_saved_address(saved, folder)
    hydra = {"hydra": {"run": {"dir": str(folder)}, "output_subdir": None}} if own_folder else {}  # its first .hydra/
    return [*_register(saved, {"resume": str(folder), **hydra}, folder, "resume"), *others]


def with_config_of_run(overrides: Sequence[str], *, trains: bool) -> list[str]:
    """The command line's `overrides` with `from_run=<run>` replaced by those that make Hydra take that run's config.

    The overrides come on top. `trains`: the command uses the store that the config names. Raises `ConfigError` as
    `with_saved_config` does.
    """
    given = [override for override in overrides if _gives(override, "from_run")]
    value = _unquoted(given[-1].partition("=")[2]) if given else ""
    if value in ("", "null"):
        return list(overrides)
    others = [override for override in overrides if override not in given]
    values, chosen = parse_overrides(others)
    folder = find_run(value, values, key="from_run")
    saved = saved_config(folder, "from_run")
    for key in OF_ONE_RUN:
        saved.pop(key, None)
    saved = _allowed_part(saved, values, chosen, folder)
    if trains and "tracking.uri" not in values:
        check_saved_address(saved, folder, Path.cwd())
    return [*_register(saved, {"from_run": str(folder)}, folder, "from_run"), *others]


def _allowed_part(
    saved: dict[str, Any], values: Mapping[str, Any], chosen: Collection[str], folder: Path
) -> dict[str, Any]:
    """`saved` without the sections that the command line chooses. Raises `ConfigError` for code and lost secrets."""
    ended = {*chosen, *(recipes.KEYS if "recipe" in chosen else ())}  # a recipe is taken as a whole
    saved = {key: value for key, value in saved.items() if key not in ended}
    _refuse_code(saved, values)
    _refuse_secrets(saved, values, folder)
    return saved


def _refuse_code(saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    listed = given.get("checkpoint.allow_targets") or []
    allowed = [str(name) for name in listed] if isinstance(listed, list) else [str(listed)]
    refused = [name for key, name in code_in(saved) if key not in given and name not in allowed]
    if refused:
        why = f"the run's config would execute {', '.join(sorted(set(refused)))}"
        allowing = shlex.quote(allow_targets(sorted({*allowed, *refused})))
        raise ConfigError("checkpoint.allow_targets", f"[{','.join(allowed)}]", f"{why}; allow it with {allowing}")


def _refuse_secrets(saved: dict[str, Any], given: Mapping[str, Any], folder: Path) -> None:
    """Passwords are not saved in a run's folder: an address that had one must be given again."""
    tracking = saved.get("tracking")
    if isinstance(tracking, dict) and "***" in str(tracking.get("uri")) and os.environ.get("MLFLOW_TRACKING_URI"):
        tracking["uri"] = None
    for key, value in leaves(saved):
        if isinstance(value, str) and "***" in value and "://" in value and key not in given:
            again = "with the option or MLFLOW_TRACKING_URI" if key == "tracking.uri" else f"with {key}=…"
            raise ConfigError(key, value, f"its secret is not saved in {folder.name}; give it again {again}")


def _register(saved: Mapping[str, Any], own: Mapping[str, Any], folder: Path, key: str) -> list[str]:
    """Make `saved`, with `own` values in it, known to Hydra; returns the overrides by which it is composed."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    if "${" in str(folder):
        raise ConfigError(key, folder, "a folder with ${ in its name cannot be written in a config")
    store = ConfigStore.instance()
    added = []
    rest = {key: value for key, value in saved.items() if key not in GROUPS}
    rest |= own
    for group in (group for group in GROUPS if group in saved):
        node = OmegaConf.create(_complete(group, saved[group]))
        store.store(name="run", group=f"{group}/saved", package=group, node=node, provider="lwexp")
        added.append(f"{group}={SAVED}")
    store.store(name="saved", group="lwexp", package="_global_", node=OmegaConf.create(rest), provider="lwexp")
    return [*added, SAVED_REST]


def _complete(group: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """A section of an earlier version of lwexp with the defaults of the keys that it did not have."""
    file = f"{group}/{section.get('name')}"
    known = group in ("data", "tracking", "weights") and (CONF / f"{file}.yaml").is_file()
    return {**(defaults(file) if known else {}), **section}


def _gives(override: str, key: str) -> bool:
    return override.lstrip("+").partition("=")[0] == key and "=" in override


def _unquoted(text: str) -> str:
    """`text` as the shell left it, without quotes that are for Hydra."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
