"""The `config.yaml` in a run's folder, read safely: no interpolation, no code, no secrets.

The file may come from somebody else, so it is read as plain YAML, and what Hydra would resolve or obey is refused.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lwexp.config.defaults import dump, load
from lwexp.config.keys import GROUPS, leaves, with_one_mult
from lwexp.errors import ConfigError, RunError
from lwexp.formatting import one_line
from lwexp.host.files import atomic_write
from lwexp.redaction import redact_addresses
from lwexp.tracking import absolute_uri, check_folders_address, started_in, why_untrusted

from .find import shown_path

FILE = "config.yaml"
_TARGET_KEYS = ("_target_", "target")  # the second is the schema's own name, which it accepts too
_CODE_KEYS = ("trust_remote_code",)  # options of libraries that let them run code of others


def save_config(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the run's config, without the folder that it was resumed from. Raises `RunError`."""
    shown = {**values, "resume": values["resume"] if values.get("resume") == "auto" else None}
    try:
        atomic_write(folder / FILE, dump(shown))
    except OSError as error:
        raise RunError(f"{folder / FILE} cannot be written: {error.strerror or error}") from error


def saved_config(folder: Path, option: str = "resume") -> dict[str, Any]:
    """The plain values of the run in `folder`, without the options that each command gives again.

    Raises `ConfigError`, on `option`, for a file that is not such a config, or that holds what Hydra would resolve or
    obey.
    """
    try:
        values = load(folder / FILE)
    except Exception as error:  # the file's, YAML's and OmegaConf's errors have no common parent
        raise ConfigError(option, folder, f"its {FILE} cannot be read: {one_line(error)}") from None
    if not isinstance(values, dict) or not values:
        raise ConfigError(option, folder, f"its {FILE} is not the config of a run")
    for key, value in leaves(values):
        if isinstance(value, str) and "${" in value:
            raise ConfigError(option, folder, f"its {FILE} refers to something else: {key}={value}")
    for section in (values, *(values.get(group) for group in GROUPS)):
        if section is not None and not isinstance(section, Mapping):
            raise ConfigError(option, folder, f"its {FILE} is not the config of a run: a group is not a section")
        for key in ("hydra", "defaults"):
            if section is not None and key in section:
                raise ConfigError(option, folder, f"its {FILE} has a part {key!r}, which no run writes")
    for key in ("resume", "find", "preview"):
        values.pop(key, None)
    if isinstance(values.get("checkpoint"), dict):
        for key in ("remap", "allow_targets"):  # of the one command that gave them
            values["checkpoint"].pop(key, None)
    return with_one_mult({str(key): value for key, value in values.items()})


def config_before(folder: Path) -> dict[str, Any] | None:
    """The config with which the run in `folder` was started; None if there is none."""
    return saved_config(folder) if (folder / FILE).is_file() else None


def code_in(values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and name of everything in the config `values` that would run code which the config itself names.

    >>> list(code_in({"model": {"_target_": "my.Net", "trust_remote_code": True}}))
    [('model._target_', 'my.Net'), ('model.trust_remote_code', 'model.trust_remote_code')]
    """
    for key, value in leaves(values, path):
        last = key.rpartition(".")[2]
        if last in _TARGET_KEYS and isinstance(value, str):
            yield key, value
        elif last in _CODE_KEYS and value not in (False, None):
            yield key, key


def check_saved_address(saved: Mapping[str, Any], folder: Path, base: Path | None = None) -> None:
    """Raise `ConfigError` where the command must name the store of the run in `folder`, whose config `saved` is.

    `base`: where a relative address starts; None: where the run was started.
    """
    uri = _saved_uri(saved)
    if uri is not None:
        check_folders_address(uri, base or started_in(folder) or Path.cwd(), folder)


def _saved_uri(saved: Mapping[str, Any]) -> str | None:
    tracking = saved.get("tracking")
    uri = tracking.get("uri") if isinstance(tracking, Mapping) and tracking.get("name") != "none" else None
    return None if uri is None else str(uri).strip()


def allow_targets(names: Sequence[str]) -> str:
    """The option by which a command allows `names` in a resumed run's config."""
    shown = (name if re.fullmatch(r"[A-Za-z_][\w.]*", name) else f"'{name}'" for name in names)
    return f"checkpoint.allow_targets=[{','.join(shown)}]"


def resume_command(folder: Path, base: Path, values: Mapping[str, Any]) -> str:
    """The shell command that resumes the run in `folder` from the folder `base`; `values` is the run's config."""
    shown = shown_path(folder, base)
    words = ["python", "-m", "lwexp.run", f"resume={f'./{shown}' if shown == 'auto' else shown}"]
    targets = sorted({name for _, name in code_in(values)})
    return shlex.join(
        [*words, *([allow_targets(targets)] if targets else []), *name_store(_saved_uri(values), base, folder)]
    )


def name_store(uri: str | None, base: Path, folder: Path) -> list[str]:
    """The option that a command which resumes `folder` needs for its store `uri`; none where that needs no trust."""
    if uri is None or "***" in uri or why_untrusted(absolute_uri("tracking.uri", uri, base), base, folder) is None:
        return []
    return [f"tracking.uri={redact_addresses(uri)}"]
