"""Objects named by a dotted path, `_target_` in the config: imported, or refused with what is wrong with the path.

By hand, since `hydra.utils.get_object` says neither which part of the path is missing nor what is near it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from lwexp.errors import ConfigError, nearest
from lwexp.formatting import one_line


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
    if isinstance(found, (ModuleType, nn.Module)) or not callable(found):
        raise ConfigError(key, path, f"is a {type(found).__name__}, not a {what}")
    return found  # type: ignore[no-any-return]
