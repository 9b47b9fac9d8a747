"""Hydra's and OmegaConf's errors as errors of lwexp: one line with the key, the value and the nearest choices."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from lwexp.errors import ConfigError, LwexpError, UnknownNameError, UnknownOptionError, nearest
from lwexp.formatting import one_line

from . import recipes
from .defaults import CONF, documented
from .overrides import given_value, user_overrides
from .quoting import unparsed

T = TypeVar("T")


def or_mistake(action: Callable[[], T]) -> T | LwexpError:
    """The result of `action`, or the mistake in the config or the command line that it has met."""
    try:
        return action()
    except Exception as error:
        known = as_lwexp_error(error, sys.argv[1:])
        if known is None:
            raise
        return known


def as_lwexp_error(error: BaseException, arguments: Sequence[str]) -> LwexpError | None:
    """`error` as one of lwexp's if it is a mistake in the config or in the command line's `arguments`, else None."""
    if isinstance(error, LwexpError):
        return error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, name = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
        return UnknownNameError(group or "config", name, list(error.options), "no such choice")
    missing = re.search(r"Could not load '(\w+)/([^']+)'", str(error))
    if isinstance(error, MissingConfigException) and missing:  # in a list of choices
        choices = [path.stem for path in (CONF / missing[1]).glob("*.yaml")] or recipes.names()
        return UnknownNameError(missing[1], missing[2], choices, "no such choice")
    if isinstance(error, OverrideParseException):
        return unparsed(error.override, _known_keys())
    if isinstance(error, ConfigCompositionException):
        return _composition_error(error, arguments)
    if isinstance(error, ValueError) and "Config group override must be" in str(error):
        given = [text.partition("=") for text in arguments]
        key, _, value = next((g for g in given if (CONF / g[0]).is_dir() and not g[2].isidentifier()), given[0])
        return ConfigError(key, value, "must be the name of a choice")
    if isinstance(error, ValueError) and str(error).startswith("Unable to configure"):  # of the module logging
        logging = [text for text in arguments if re.match(r"\+*hydra[./](job|hydra)_logging", text)]
        key, _, value = (logging or ["hydra.job_logging=?"])[-1].partition("=")
        return ConfigError(key, value, f"Python's logging refuses this configuration: {_text(error)}")
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        reason = _text(error).partition(" full_key:")[0]
        reason = re.sub(r'^KeyError raised while resolving interpolation: "(.*)"$', r"\1", reason)
        return ConfigError(error.full_key, given_value(error.full_key, arguments), reason)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return ConfigError("config", " ".join(user_overrides(arguments)), _text(error))
    return None


def _composition_error(error: ConfigCompositionException, arguments: Sequence[str]) -> LwexpError:
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown and "No match in the defaults list" not in text:
        if unknown[1].startswith("hydra.sweeper.arms."):
            why = f"the study has no such arm; +{unknown[1]}=… adds one"
            return ConfigError(unknown[1], given_value(unknown[1], arguments), why)
        known = _keys_of_hydra(unknown[1], arguments) or _known_keys()
        return UnknownOptionError(unknown[1], given_value(unknown[1], arguments), known)
    missing = re.search(r"Could not delete from config\. '([^']+)'", text)
    if missing and missing[1].startswith("hydra.sweeper.arms."):
        return ConfigError("command line", f"~{missing[1]}", "the study has no such arm")
    if missing:
        known = _keys_of_hydra(missing[1], arguments) or _known_keys()
        why = f"there is nothing to omit; {nearest(missing[1], known)}"
        return ConfigError("command line", f"~{missing[1]}", why)
    twice = re.search(r"Multiple values for ([\w/]+)\. To override", text)
    if twice and f"+{twice[1]}" in {override.partition("=")[0] for override in arguments}:
        value = given_value(twice[1], arguments)
        return ConfigError(f"+{twice[1]}", value, f"is a group of choices already; write {twice[1]}={value}")
    several = re.search(r"(?:argument|parameters) '[+~]*([^'=]+)=", text)
    if several:
        why = "several values are for a sweep: add -m; a list is written [a,b]"
        return ConfigError(several[1], given_value(several[1], arguments), why)
    merging = re.search(r"Error merging override \+*([^=\s]+)=", text)
    if merging:
        value = given_value(merging[1], arguments)
        return ConfigError(merging[1], value, "is of the wrong type (list, mapping, single value)")
    return ConfigError("config", " ".join(user_overrides(arguments)), _text(error))


def _known_keys() -> list[str]:
    """What may stand on the left of `=`: the keys of config.yaml and the groups."""
    return [*(path.name for path in CONF.iterdir() if path.is_dir()), *documented()]


def _keys_of_hydra(key: str, arguments: Sequence[str]) -> list[str]:
    """Those of the chosen sweeper or launcher, if `key` is meant for it; none if that has no file in conf/."""
    part = re.match(r"hydra\.(sweeper|launcher)\.", key)
    if part is None:
        return []
    choice = f"hydra/{part[1]}/{given_value(f'hydra/{part[1]}', arguments).replace('?', 'grid')}"
    if not (CONF / f"{choice}.yaml").is_file():
        return []
    return [f"{part[0]}{name}" for name in documented(choice) if not name.startswith("_")]


def _text(error: BaseException) -> str:
    """The error's text with that of its cause, if it does not have it."""
    cause = error.__cause__
    text = f"{error} {cause}" if cause is not None and str(cause) not in str(error) else str(error)
    return one_line(text, limit=None)
