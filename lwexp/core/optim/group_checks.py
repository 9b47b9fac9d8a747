"""Checks of the options that some param groups have of their own: torch takes any key and looks at no value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch.optim import Optimizer

from lwexp.errors import ConfigError, UnknownOptionError
from lwexp.formatting import one_line

GroupOptions = Mapping[str, Mapping[str, Any]]  # pattern -> options
_FOR_ALL = ("foreach", "fused", "capturable", "differentiable")


def check_option(key: str, value: Any, usual: Iterable[str], optimizer: str) -> None:
    """Raise `ConfigError` unless the option `key` is among the `usual` ones of groups, and may differ between them."""
    option = key.rpartition(".")[2]
    value = list(value) if isinstance(value, tuple) else value
    if option in _FOR_ALL:
        raise ConfigError(key, value, f"is the same for all groups; set it as an option of {optimizer}")
    choices = [name for name in usual if name not in ("lr", *_FOR_ALL)]
    if option not in choices:
        raise UnknownOptionError(key, value, choices, f"{optimizer} has no such option")


def check_groups(
    groups: Iterable[Mapping[str, Any]],
    group_options: GroupOptions,
    build: Callable[[dict[str, Any], dict[str, Any]], Optimizer | Exception],
) -> None:
    """Raise `ConfigError` for options of a group that the optimizer would refuse for all of its groups.

    `build(options, group)` makes the optimizer with further `options` over a group that has none of its own.
    """
    known = {option for written in group_options.values() for option in written}
    seen = set()
    for group in groups:
        own = {option: group[option] for option in group if option in known}
        if not own or (key := repr(sorted(own.items()))) in seen:
            continue
        seen.add(key)
        bare = {"params": group["params"], "lr": group["lr"]}
        refused = build(own, bare)
        if not isinstance(refused, Exception):
            continue
        for option in own:
            without = {other: each for other, each in own.items() if other != option}
            if len(own) == 1 or not isinstance(build(without, bare), Exception):
                break
        value = own[option]
        pattern = next((p for p, written in group_options.items() if written.get(option) == value), "*")
        shown = list(value) if isinstance(value, tuple) else value
        raise ConfigError(f"group_options.{pattern}.{option}", shown, f"is refused: {one_line(refused, None)}")
