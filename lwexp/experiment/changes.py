"""How the configs of a run and of the command that resumes it differ, and whether that changes results."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lwexp.config.defaults import CONF, defaults
from lwexp.config.keys import GROUPS, USER_KEYED, changes_numbers, flatten
from lwexp.errors import ConfigError
from lwexp.formatting import few

log = logging.getLogger(__name__)

LENGTH = ("epochs", "max_steps")  # `length.py` says whether another one changes the numbers so far
_REMAP = "checkpoint.remap=true resumes with the new"


def changes(before: Mapping[str, Any], now: Mapping[str, Any], *, remap: bool, advice: str = _REMAP) -> list[str]:
    """The options in which `now` differs from the run's config `before`, as `key=value`; both are plain and redacted.

    Raises `ConfigError`, which ends with `advice`, for one that changes the numbers, unless `remap`; the length of the
    training alone is no such.
    """
    old, new = _flat(with_defaults(before)), _flat(with_defaults(now))
    differing = [key for key in [*new, *(key for key in old if key not in new)] if old.get(key) != new.get(key)]
    relevant = [key for key in differing if changes_numbers(key)]
    if not remap and not set(relevant) <= set(LENGTH):
        shown = [f"{key} was {_shown(old.get(key))}, is {_shown(new.get(key))}" for key in relevant]
        why = f"the run was made with other values: {few(shown, 4)}; {advice}"
        raise ConfigError(relevant[0], _shown(new.get(relevant[0])), why)
    for key in ("threads", "deterministic", "compile", "channels_last"):
        if key in differing:
            log.warning("%s=%s differs from the run's: the last bits of its numbers may too", key, _shown(new[key]))
    return [f"{key}={_shown(new.get(key))}" for key in differing if key not in ("resume", "checkpoint.allow_targets")]


def is_other_length(before: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether the configs `before` and `values` train for another number of epochs or steps."""
    old = with_defaults(before)
    return any(old.get(key) != values.get(key) for key in LENGTH)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys; a mapping of the user's own keys as the list of its items, since their order counts."""
    flat = flatten(values, keep=USER_KEYED)
    for key in USER_KEYED:
        if isinstance(flat.get(key), Mapping):
            flat[key] = [[str(name), value] for name, value in flatten(flat[key]).items()]
    if flat.get("loss.name") == "CrossEntropyLoss":
        flat["loss.name"] = "auto"  # the default of earlier versions, which fits only data for which auto means it
    return flat


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, also of an earlier version of lwexp, with the defaults of the keys that it did not have."""
    complete = defaults() | dict(values)
    for key, value in defaults().items():
        if isinstance(value, dict) and isinstance(values.get(key), Mapping) and key not in USER_KEYED:
            complete[key] = {**value, **values[key]}
    for group in GROUPS:
        section = complete.get(group)
        name = str(section.get("kind") or section.get("name")) if isinstance(section, Mapping) else ""
        if isinstance(section, Mapping) and name.isidentifier() and (CONF / group / f"{name}.yaml").is_file():
            complete[group] = {**defaults(f"{group}/{name}"), **section}
    return complete


def _shown(value: Any) -> str:
    """`value` as it is typed, shortened."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
