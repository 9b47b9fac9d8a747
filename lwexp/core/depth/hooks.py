"""Which forward hooks belong to a network: its copy keeps those, and not the ones that its user has registered."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def keep_hooks(model: nn.Module, copies: Mapping[int, Any]) -> None:
    """Give the copies of the modules of `model` (`copies`: by id of the original) the hooks that belong to it.

    These are torch's own, methods and inner functions of the network's classes, and functions of the installed package
    that one of its classes comes from: it may need them to collect its hidden states. What a script has registered
    would see tensors without values.
    """
    modules = list(model.modules())
    classes = {base for module in modules for base in type(module).__mro__}
    packages = {kind.__module__.partition(".")[0] for kind in classes}
    installed = {package for package in packages if _is_installed(package)} | {"torch"}
    homes = {(kind.__module__, kind.__qualname__) for kind in classes}
    for module in modules:
        twin = copies[id(module)]
        for table in HOOKS:
            own = getattr(module, table)
            kept = {key: _rebound(hook, copies) for key, hook in own.items() if _belongs(hook, installed, homes)}
            hooks = getattr(twin, table)
            hooks.clear()
            hooks.update(kept)


def _belongs(hook: Any, installed: set[str], homes: set[tuple[str, str]]) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    function = hook.__func__ if isinstance(hook, MethodType) else hook
    if not isinstance(function, FunctionType):
        function = type(hook)
    home, name = function.__module__ or "", function.__qualname__
    return home.partition(".")[0] in installed or any(
        home == place and name.startswith(f"{kind}.") for place, kind in homes
    )


def _is_installed(package: str) -> bool:
    path = getattr(sys.modules.get(package), "__file__", None) or ""
    return "site-packages" in path or "dist-packages" in path


def _rebound(hook: Any, copies: Mapping[int, Any]) -> Any:
    """`hook` with the copies in place of the modules that it holds."""
    if isinstance(hook, functools.partial):
        return functools.partial(
            _rebound(hook.func, copies),
            *(copies.get(id(held), held) for held in hook.args),
            **{key: copies.get(id(held), held) for key, held in hook.keywords.items()},
        )
    if isinstance(hook, MethodType):
        return MethodType(hook.__func__, copies.get(id(hook.__self__), hook.__self__))
    if isinstance(hook, FunctionType) and hook.__closure__:
        cells = tuple(CellType(copies.get(id(cell.cell_contents), cell.cell_contents)) for cell in hook.__closure__)
        made = FunctionType(hook.__code__, hook.__globals__, hook.__name__, hook.__defaults__, cells)
        made.__kwdefaults__ = hook.__kwdefaults__
        return made
    return hook
