"""Groupings `model -> [group]`: partitions of the named parameters, ordered from the head to the stem.

Two words are used the same way everywhere: a group's **index** counts from the head (0), its **depth** from the
stem (0). A grouping knows nothing about rates. Parameters count in the order of `named_parameters()`, walked from the
last to the first; a shared tensor counts once, under its first name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from .errors import ConfigError, UnknownNameError
from .options import check_options
from .patterns import matches, prefixes


class NamedGroup(NamedTuple):
    """A group's name and its parameters' names, head-most first."""

    name: str
    parameter_names: tuple[str, ...]


class Grouped(NamedTuple):
    """What a grouping returns: the groups from the head to the stem, and remarks for the plan's header."""

    groups: tuple[NamedGroup, ...]
    notes: tuple[str, ...] = ()


Grouping = Callable[[nn.Module], "Grouped | Iterable[NamedGroup | tuple[str, Sequence[str]]]"]


def head_to_stem(model: nn.Module) -> list[str]:
    """Names of the parameters, the last registered first."""
    return [name for name, _ in model.named_parameters()][::-1]


def per_parameter(model: nn.Module) -> Grouped:
    """Each named parameter is a group of its own.

    timm's resnet18 has 62: `fc.bias`, `fc.weight`, `layer4.1.bn2.bias`, …, `conv1.weight`.
    """
    return Grouped(tuple(NamedGroup(name, (name,)) for name in head_to_stem(model)))


def top_module(model: nn.Module) -> Grouped:
    """One group for each top-level module, ordered by first appearance from the head.

    timm's resnet18 has 7: fc, layer4, layer3, layer2, layer1, bn1, conv1. A module that reappears joins its first
    appearance.
    """
    return Grouped(_collected((name.split(".")[0], name) for name in head_to_stem(model)))


def depth_index(model: nn.Module, *, source: str = "auto", example_input: object = None) -> Grouped:
    """One group for each depth of the network, the deepest (the head) first.

    `source` says where depth comes from: `timm` (the model's own `group_matcher`), `execution` (the order in which a
    forward pass uses the parameters), `registration`, or `auto`, the first of these that the model allows.
    `example_input` (a tensor, tuple or dict) is for models whose input cannot be guessed.
    """
    from .depth import find_depths  # not at the top: it may need timm

    depths = find_depths(model, source, example_input)
    by_depth: dict[int, list[str]] = {}
    for name in head_to_stem(model):
        by_depth.setdefault(depths.by_name[name], []).append(name)
    ordered = [tuple(by_depth[depth]) for depth in sorted(by_depth, reverse=True)]
    groups = tuple(NamedGroup(name, names) for name, names in zip(_readable(ordered), ordered, strict=True))
    return Grouped(groups, (f"depth from {depths.source}", *depths.notes))


def by_name(model: nn.Module, *, patterns: Mapping[str, str | list[str]]) -> Grouped:
    """Groups by name: `patterns` maps a group's name to its pattern (or list of them), in order from the head.

    The first group that matches a parameter takes it; a parameter that none matches is an error unless one pattern is
    `"*"`, and so is a group left without parameters.
    """
    key = "grouping.patterns"
    if not patterns:
        raise ConfigError(key, "{}", "needs at least one group, e.g. {head: fc, body: '*'}")
    names = head_to_stem(model)
    found: dict[str, list[str]] = {group: [] for group in patterns}
    unmatched = []
    for name in names:
        for group, written in patterns.items():
            if any(matches(p, name) for p in ([written] if isinstance(written, str) else written)):
                found[group].append(name)
                break
        else:
            unmatched.append(name)
    for group, taken in found.items():
        if not taken:
            written = patterns[group]
            wanted = [written] if isinstance(written, str) else written
            if any(matches(p, name) for p in wanted for name in names):
                raise ConfigError(f"{key}.{group}", written, "all it matches is taken by the groups before it")
            raise UnknownNameError(f"{key}.{group}", written, prefixes(names), "the pattern matches no parameter")
    if unmatched:
        shown = ", ".join(unmatched[:5]) + (", …" if len(unmatched) > 5 else "")
        raise ConfigError(key, dict(patterns), f"no pattern matches {len(unmatched)} parameters: {shown}; add '*'")
    return Grouped(tuple(NamedGroup(group, tuple(taken)) for group, taken in found.items()))


GROUPINGS: dict[str, Callable[..., Grouped]] = {
    "per_parameter": per_parameter,
    "top_module": top_module,
    "depth_index": depth_index,
    "by_name": by_name,
}


def group(model: nn.Module, grouping: str | Grouping, options: Mapping[str, object]) -> Grouped:
    """The partition of `model`'s parameters by a grouping's name, or by a callable of one's own.

    Raises `ConfigError` for an unknown name or option, a model without parameters, and for a callable whose groups are
    not a partition; the names at fault are listed.
    """
    if not any(True for _ in model.named_parameters()):
        raise ConfigError("model", type(model).__name__, "has no parameters")
    if callable(grouping):
        result = grouping(model, **options)
    elif grouping in GROUPINGS:
        function = GROUPINGS[grouping]
        result = function(model, **check_options(function, options, "grouping"))
    else:
        raise UnknownNameError("grouping", grouping, GROUPINGS, "no such grouping")
    if not isinstance(result, Grouped):
        result = Grouped(tuple(NamedGroup(str(name), tuple(names)) for name, names in result))
    _check_partition(model, result.groups)
    return result


def _check_partition(model: nn.Module, groups: Sequence[NamedGroup]) -> None:
    """Partition law: every parameter in exactly one group, no group empty, no two of one name."""
    expected = {name for name, _ in model.named_parameters()}
    seen: dict[str, str] = {}
    for name, members in groups:
        if not members:
            raise ConfigError("grouping", name, "the group is empty")
        for member in members:
            if member not in expected:
                raise UnknownNameError("grouping", member, expected, f"group {name} has a parameter the model lacks")
            if member in seen:
                raise ConfigError("grouping", member, f"the parameter is in two groups, {seen[member]} and {name}")
            seen[member] = name
    if missing := sorted(expected - seen.keys()):
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise ConfigError("grouping", shown, f"{len(missing)} parameters are in no group")
    names = [name for name, _ in groups]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError("grouping", twice, "two groups have this name")


def _collected(pairs: Iterable[tuple[str, str]]) -> tuple[NamedGroup, ...]:
    groups: dict[str, list[str]] = {}
    for group_name, name in pairs:
        groups.setdefault(group_name, []).append(name)
    return tuple(NamedGroup(name, tuple(members)) for name, members in groups.items())


def _readable(groups: Sequence[tuple[str, ...]]) -> list[str]:
    """A name for each depth that a person recognises: the longest common module path, else `stem`, `head`, `depth7`.

    A path that would name two depths, or that covers parameters of another one, is not used.
    """
    count = len(groups)
    names = []
    for index, members in enumerate(groups):
        path = common_path(members)
        others = (name for other in groups if other is not members for name in other)
        if path and not any(matches(path, name) for name in others):
            names.append(path)
        else:
            depth = count - 1 - index
            names.append("stem" if depth == 0 and count > 1 else "head" if index == 0 else f"depth{depth}")
    return names


def common_path(names: Sequence[str]) -> str:
    """The longest module path that all parameter `names` share, or ''.

    >>> common_path(["layer4.1.conv1.weight", "layer4.1.bn1.bias"])
    'layer4.1'
    """
    split = [name.split(".")[:-1] or [name] for name in names]
    shared = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
