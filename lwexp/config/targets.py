"""Objects named by a dotted path, `_target_` in the config: imported, or refused with what is wrong with the path.

By hand, since `hydra.utils.get_object` says neither which part of the path is missing nor what is near it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lwexp.errors import ConfigError, UnknownOptionError, nearest
from lwexp.formatting import one_line

from .schema import CallbackConfig
from .section import OpenSection


def import_object(path: str, key: str, what: str) -> Callable[..., Any]:
    """The class or function at the dotted `path`, looked for in Python's path and the current folder.

    `what` says in an error what was wanted; raises `ConfigError` on `key`.
    """
    if path == "???":
        raise ConfigError(key, path, "must be given")
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(key, path, "must be a dotted path, e.g. my_module.my_function")
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))  # console scripts lack it; it stays, for what the module imports later
    importlib.invalidate_caches()
    found: Any = None
    for end, part in enumerate(parts):
        before, prefix = ".".join(parts[:end]), ".".join(parts[: end + 1])
        if end and hasattr(found, part):
            found = getattr(found, part)
            continue
        try:
            found = importlib.import_module(prefix)
        except Exception as error:
            if not isinstance(error, ModuleNotFoundError) or not f"{prefix}.".startswith(f"{error.name}."):
                raise ConfigError(key, path, f"importing {prefix} fails: {one_line(error, kind=True)}") from error
            if not end:
                raise ConfigError(key, path, f"no module {prefix} is installed or in the current folder") from None
            names = [name for name in dir(found) if not name.startswith("_")]
            raise ConfigError(key, path, f"{before} has no {part}; {nearest(part, names)}") from None
    from torch import nn

    if isinstance(found, (ModuleType, nn.Module)) or not callable(found):
        raise ConfigError(key, path, f"is a {type(found).__name__}, not a {what}")
    return found  # type: ignore[no-any-return]


def import_with(
    target: str, options: Mapping[str, Any], section: str, what: str, below: str = ""
) -> Callable[..., Any]:
    """What `target` names, whose arguments `options`, the keys `below` the `section`, must be."""
    found = import_object(target, f"{section}._target_", what)
    parameters = inspect.signature(found).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name, value in options.items():
            if name not in parameters and value is not None:
                what = f"{target} has no such argument"
                raise UnknownOptionError(f"{section}{below}.{name}", value, parameters, what)
    return found


def named_partial(function: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """`function` with its `options` bound, under its own name."""
    bound = functools.partial(function, **options)
    functools.update_wrapper(bound, function)
    return bound


def callback(section: CallbackConfig, name: str) -> Any:
    """The object that `callbacks.<name>` describes. Raises `ConfigError` for what its class refuses."""
    return build(section, f"callbacks.{name}", "class")


def build(section: OpenSection, key: str, what: str) -> Any:
    """The object that the section at `key` describes: an instance, or a function with its options bound.

    `what` says in an error what was wanted. Raises `ConfigError` for what a class refuses.
    """
    found = import_with(str(section.target), section.options, key, what)
    if not isinstance(found, type):
        return named_partial(found, section.options) if section.options else found
    return _made(found, str(section.target), section.options, key)


def own_object(target: str, options: Mapping[str, Any], section: str, what: str, below: str = "") -> Any:
    """What the class or function `target` makes of `options`. Raises `ConfigError`; else as `import_with`."""
    return _made(import_with(target, options, section, what, below), target, options, section)


def _made(found: Callable[..., Any], target: str, options: Mapping[str, Any], key: str) -> Any:
    try:
        return found(**options)
    except Exception as error:  # code of the user's may raise anything
        raise ConfigError(key, target, f"cannot be made: {one_line(error, kind=True)}") from error
