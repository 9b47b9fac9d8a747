"""Overrides of a command line (`key=value`): parsed, looked up, and without those that lwexp has added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lwexp.errors import ConfigError

from .keys import GROUPS, flatten

SAVED = "saved/run"  # as `model=saved/run`: Hydra's name of what a resumed run's config has there
SAVED_REST = "+lwexp=saved"  # the same for all that is in no group
FOLDERS_URI = "LWEXP_FOLDERS_URI"  # variable: a store that only the resumed folder names; child processes inherit it


def user_overrides(overrides: Sequence[str]) -> list[str]:
    """`overrides` without those by which `resume=<run>` makes Hydra take that run's config."""
    added = {SAVED_REST, *(f"{group}={SAVED}" for group in GROUPS)}
    return [override for override in overrides if override not in added]


def key_of(override: str) -> str:
    """The key of `key=value`, without the signs that add or delete it.

    >>> key_of("+decay.mult=0.5")
    'decay.mult'
    """
    return override.partition("=")[0].lstrip("+~")


def given_value(key: str, overrides: Sequence[str]) -> str:
    """The value that `overrides` give `key`, `?` if they do not."""
    values = [text.partition("=")[2] for text in overrides if key_of(text) == key]
    return values[-1] if values else "?"


def parse_overrides(overrides: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
    """Dotted keys with their values, and the groups in which a choice is made. Raises `ConfigError` for deletions."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    values: dict[str, Any] = {}
    chosen: set[str] = set()
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = override.key_or_group, override.value()
        if override.is_delete():
            raise ConfigError(f"~{key}", value, "nothing can be deleted from the config of a resumed run")
        values.update(flatten(value, f"{key}.") if isinstance(value, Mapping) else {key: value})
        if key in (*GROUPS, "recipe") and not isinstance(value, Mapping):
            chosen.add(key)
    return values, chosen


def keys_below(section: str, overrides: Sequence[str]) -> set[str]:
    """The first keys below `section` that `overrides` give."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    keys: set[str] = set()
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        value = override.value()
        if override.key_or_group == section and isinstance(value, dict):
            keys |= {str(key) for key in value}
        elif override.key_or_group.startswith(f"{section}."):
            keys.add(override.key_or_group.removeprefix(f"{section}.").split(".")[0])
    return keys
