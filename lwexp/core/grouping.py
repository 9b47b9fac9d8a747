"""Groupings `model -> [group]`: partitions of the named parameters, ordered from the head to the stem.

Two words are used the same way everywhere: a group's **index** counts from the head (0), its **depth** from the
stem (0). A grouping knows nothing about rates. Parameters count in the order of `named_parameters()`, walked from the
last to the first; a shared tensor counts once, under its first name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from typing import Literal, NamedTuple, TypedDict

from torch import nn

from lwexp.errors import ConfigError, UnknownNameError

from .depth.parameters import wrapper_prefix
from .depth.thresholds import TIMEOUT
from .group_names import group_names
from .kinds import Kinds
from .options import check_options
from .patterns import first_indices, prefixes

# Up to this number of parameters registration is compared with execution: tracing more takes seconds.
_COMPARED = 5000


class NamedGroup(NamedTuple):
    """A group's name and its parameters' names, from the head to the stem."""

    name: str
    parameter_names: tuple[str, ...]


class Grouped(NamedTuple):
    """What a grouping returns: the groups from the head to the stem, and notes for the plan's header."""

    groups: tuple[NamedGroup, ...]
    notes: tuple[str, ...] = ()


# A function of the model and, by keyword, of `grouping_options`.
Grouping = Callable[..., "Grouped | Iterable[NamedGroup | tuple[str, Sequence[str]]]"]
# For editors and type checkers: the keys of GROUPINGS, and all options that they have.
GroupingName = Literal["per_parameter", "top_module", "depth_index", "by_name"]


class GroupingOptions(TypedDict, total=False):
    """`grouping_options` of the groupings that have a name."""

    order: Literal["registration", "execution"]  # per_parameter, top_module
    source: str  # depth_index
    blocks: int
    last_norm: Literal["block", "head"]
    between_stages: Literal["next", "previous"]
    timeout: float
    example_input: object
    patterns: Mapping[str, str | list[str]]  # by_name


def head_to_stem(model: nn.Module) -> list[str]:
    """Names of the parameters, the last registered first."""
    return [name for name, _ in model.named_parameters()][::-1]


def per_parameter(
    model: nn.Module,
    *,
    order: Literal["registration", "execution"] = "registration",
    example_input: object = None,
    timeout: float = TIMEOUT,
) -> Grouped:
    """Each named parameter is a group of its own.

    timm's resnet18 has 62: `fc.bias`, `fc.weight`, `layer4.1.bn2.bias`, …, `conv1.weight`. `order`: the groups in
    order of registration, the last first, or of first use in a forward pass; a note says where the two contradict each
    other. `example_input` (a tensor, tuple or dict) is for models whose input cannot be guessed; `timeout`: seconds
    for the forward pass.
    """
    prefix = wrapper_prefix(model)
    names, notes = _order_names(model, order, example_input, timeout, lambda name: name)
    return Grouped(tuple(NamedGroup(name.removeprefix(prefix), (name,)) for name in names), notes)


def top_module(
    model: nn.Module,
    *,
    order: Literal["registration", "execution"] = "registration",
    example_input: object = None,
    timeout: float = TIMEOUT,
) -> Grouped:
    """One group for each top-level module, ordered by first appearance from the head.

    timm's resnet18 has 7: fc, layer4, layer3, layer2, layer1, bn1, conv1. A module that reappears joins its first
    appearance. `order`, `example_input` and `timeout` as for `per_parameter`; by execution, a module is placed where
    its first parameter is used.
    """
    prefix = wrapper_prefix(model)

    def top(name: str) -> str:
        return name.removeprefix(prefix).split(".")[0]

    names, notes = _order_names(model, order, example_input, timeout, top)
    groups = _collect((top(name), name) for name in (names[::-1] if order == "execution" else names))
    return Grouped(_reverse(groups) if order == "execution" else groups, notes)


def depth_index(
    model: nn.Module,
    *,
    source: str = "auto",
    blocks: int = 1,
    last_norm: Literal["block", "head"] = "block",
    between_stages: Literal["next", "previous"] = "next",
    example_input: object = None,
    timeout: float = TIMEOUT,
) -> Grouped:
    """One group for each depth of the network, the deepest (the head) first.

    `source` of the depths: `timm` (the model's own `group_matcher`), `execution` (the order in which a forward pass
    uses the parameters), `registration`, or `auto`, the first of these that is available for the model.
    `example_input` (a tensor, tuple or dict) is for models whose input cannot be guessed. `timeout`: seconds for the
    forward pass of a copy; `auto` then takes the order of registration, and says so.

    Published layer decays differ in three things: so many consecutive `blocks` of a stage are one group; the norm after
    the last block (`last_norm`) is in the group of that block or of the head; what is `between_stages`, as a
    downsampling layer, is with the block after it (`next`) or before it (`previous`).
    """
    from .depth import find_depths  # not at the top: it may need timm
    from .stages import regrouped

    depths = find_depths(model, source, example_input, timeout)
    by_depth: dict[int, list[str]] = {}
    for name in reversed([*depths.by_name]):
        by_depth.setdefault(depths.by_name[name], []).append(name)
    ordered = [tuple(by_depth[depth]) for depth in sorted(by_depth, reverse=True)]
    prefix = wrapper_prefix(model)
    ordered = regrouped(model, ordered, prefix, blocks=blocks, last_norm=last_norm, between_stages=between_stages)
    groups = tuple(NamedGroup(name, names) for name, names in zip(group_names(ordered, prefix), ordered, strict=True))
    return Grouped(groups, (f"depth from {depths.source}", *depths.notes))


def by_name(model: nn.Module, *, patterns: Mapping[str, str | list[str]]) -> Grouped:
    """Groups by name: `patterns` maps a group's name to its pattern (or list of them), in order from the head.

    The first group that matches a parameter gets it. Raises `ConfigError` for a parameter that no pattern matches (add
    `"*"` for the rest) and for a group without parameters.
    """
    key = "grouping.patterns"
    if not patterns:
        raise ConfigError(key, "{}", "needs at least one group, e.g. {head: fc, body: '*'}")
    names = head_to_stem(model)
    kinds = Kinds.of(model)
    wanted = {
        group: kinds.named([written] if isinstance(written, str) else written, f"{key}.{group}")
        for group, written in patterns.items()
    }
    owners = [group for group, own in wanted.items() for _ in own]
    first = first_indices([pattern for own in wanted.values() for pattern in own], names)
    found: dict[str, list[str]] = {group: [] for group in patterns}
    for name, index in first.items():
        found[owners[index]].append(name)
    for group, taken in found.items():
        if not taken:
            if first_indices(wanted[group], names):
                raise ConfigError(f"{key}.{group}", patterns[group], "groups before it match all of its parameters")
            raise UnknownNameError(
                f"{key}.{group}", patterns[group], prefixes(names), "the pattern matches no parameter"
            )
    unmatched = [name for name in names if name not in first]
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


def takes_input(grouping: object) -> bool:
    """Whether a grouping of this name traces a forward pass, and so takes an `example_input`."""
    return isinstance(grouping, str) and "example_input" in signature(GROUPINGS.get(grouping, by_name)).parameters


def group(model: nn.Module, grouping: str | Grouping, options: Mapping[str, object]) -> Grouped:
    """The partition of `model`'s parameters by a grouping's name or a callable.

    Raises `ConfigError` for an unknown name or option, a model without parameters, and a callable whose groups are not
    a partition, with the names of the parameters concerned.
    """
    if not any(True for _ in model.named_parameters()):
        raise ConfigError("model", type(model).__name__, "has no parameters")
    if not isinstance(grouping, str) and not callable(grouping):
        why = "must be a name or a callable model -> groups; its options are grouping_options={...}"
        raise ConfigError("grouping", grouping, why)
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
    """Raise `ConfigError` unless every parameter is in exactly one group, no group is empty and names are unique."""
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
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ConfigError("grouping", twice, "two groups have this name")


def _order_names(
    model: nn.Module, order: str, example_input: object, timeout: float, key: Callable[[str], str]
) -> tuple[list[str], tuple[str, ...]]:
    """Names from the head to the stem, and a note where registration contradicts execution; `key`: name -> group."""
    from .depth.order import contradiction_note, contradictions, stem_to_head

    if order == "execution":
        return stem_to_head(model, example_input, timeout)[::-1], ()
    names = head_to_stem(model)
    if len(names) > _COMPARED:
        return names, (
            f"registration was not compared with the order of use ({len(names):,} parameters); "
            "grouping.order=execution follows use",
        )
    groups = [members for _, members in _collect((key(name), name) for name in names)][::-1]
    pairs = contradictions(model, groups, example_input, timeout)
    return names, (contradiction_note(pairs),) if pairs else ()


def _reverse(groups: Iterable[NamedGroup]) -> tuple[NamedGroup, ...]:
    return tuple(NamedGroup(name, members[::-1]) for name, members in groups)[::-1]


def _collect(pairs: Iterable[tuple[str, str]]) -> tuple[NamedGroup, ...]:
    groups: dict[str, list[str]] = {}
    for group_name, name in pairs:
        groups.setdefault(group_name, []).append(name)
    return tuple(NamedGroup(name, tuple(members)) for name, members in groups.items())
