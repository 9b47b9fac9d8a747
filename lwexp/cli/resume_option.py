"""`resume=<run>` on the command line: that run's config becomes the start of what Hydra composes.

The config of a run may come from somebody else, so it may set values but never run code: every `_target_` in it that
the command line does not allow is refused. `experiment/saved_config.py` reads the file.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lwexp.config.defaults import CONF, defaults
from lwexp.config.keys import GROUPS, leaves
from lwexp.config.overrides import SAVED, SAVED_REST, parse_overrides
from lwexp.errors import ConfigError
from lwexp.experiment.find import find_run
from lwexp.experiment.saved_config import allow_targets, check_saved_address, code_in, saved_config


def with_saved_config(overrides: Sequence[str], *, multirun: bool, own_folder: bool) -> list[str]:
    """The command line's `overrides` with `resume=<run>` replaced by those that make Hydra take that run's config.

    `own_folder`: Hydra's run folder becomes that of the run. Without `resume=`, or with resume=auto, `overrides` come
    back unchanged. Raises `ConfigError` for a run that does not exist and for a config that must not be taken.
    """
    given = [override for override in overrides if _is_resume(override)]
    value = _unquoted(given[-1].partition("=")[2]) if given else ""
    if value in ("", "null", "auto"):
        return list(overrides)
    others = [override for override in overrides if override not in given]
    values, chosen = parse_overrides(others)
    if multirun or str(values.get("hydra.mode", "")).upper() == "MULTIRUN":
        raise ConfigError("resume", value, "is one run, and -m starts many; resume=auto resumes each job's own")
    if own_folder and "hydra.run.dir" in values:
        raise ConfigError("hydra.run.dir", values["hydra.run.dir"], "a run is resumed in its own folder")
    folder = find_run(value, values)
    saved = saved_config(folder)
    for section in chosen:
        saved.pop(section, None)
    _refuse_code(saved, values)
    _refuse_secrets(saved, values, folder)
    if own_folder and "tracking.uri" not in values:
        check_saved_address(saved, folder)
    return [*_register(saved, folder, own_folder), *others]


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


def _register(saved: Mapping[str, Any], folder: Path, own_folder: bool) -> list[str]:
    """Make `saved` known to Hydra; returns the overrides by which it is composed, before those of the user."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    if "${" in str(folder):
        raise ConfigError("resume", folder, "a folder with ${ in its name cannot be written in a config")
    store = ConfigStore.instance()
    added = []
    rest = {key: value for key, value in saved.items() if key not in GROUPS}
    rest["resume"] = str(folder)
    if own_folder:
        rest["hydra"] = {"run": {"dir": str(folder)}, "output_subdir": None}  # its first .hydra/ stays
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


def _is_resume(override: str) -> bool:
    return override.lstrip("+").partition("=")[0] == "resume" and "=" in override


def _unquoted(text: str) -> str:
    """`text` as the shell left it, without quotes that are for Hydra."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
