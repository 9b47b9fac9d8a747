"""The depth of every parameter of any network: 0 for the stem, one more for each block, the head last.

Three sources, best first: the model's own description (timm's `group_matcher`), the order in which one forward pass
first uses the parameters, and, as a last resort, the order in which the modules were registered. The last two order
*units* (blocks of repeated containers, kept whole), never raw parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .errors import ConfigError, UnknownNameError

SOURCES = ("auto", "timm", "execution", "registration")


@dataclass(frozen=True)
class Depths:
    """`by_name`: the depth of every name of `model.named_parameters()`; 0 = stem, no gaps, the head last.

    `source` is what the depths come from: "timm", "execution" or "registration". `notes` are lines for a reader:
    parameters that the model's own description misses and where they were put, why a source was not the first choice,
    parameters that are never used.
    """

    by_name: Mapping[str, int]
    source: str
    notes: tuple[str, ...]


def find_depths(model: nn.Module, source: str = "auto", example_input: object | None = None) -> Depths:
    """The depth of every parameter of `model`, which stays as it is; works on the CPU, on CUDA and on the meta device.

    `source`: "timm" (the model's `group_matcher`), "execution", "registration", or "auto": the model's own description
    where it has one, else execution, else registration. `example_input`: what the forward pass is tried with, a
    tensor, a tuple of positional or a mapping of keyword arguments; null: guessed.

    Raises `UnknownNameError` for another source, `ConfigError` where the source cannot tell.
    """
    if source not in SOURCES:
        raise UnknownNameError("grouping.source", source, SOURCES, "no such source of depths")
    inner, prefix = _unwrapped(model)
    names = _Names.of(inner)
    if source in ("auto", "timm"):
        described, why = _described(inner, names)
        if described is not None:
            return _renamed(_from_description(inner, names, described), prefix, model)
        if source == "timm":
            raise ConfigError("grouping.source", source, f"{why}; take auto, execution or registration")
    note = "depth is the order in which modules were registered, which may not be the order in which they are used"
    return _renamed(Depths(_depths_of_units(inner, names, names.order), "registration", (note,)), prefix, model)


# --- names ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Names:
    """`first`: id of a parameter -> its first name; `every`: first name -> all names; `order`: first name -> index."""

    first: Mapping[int, str]
    every: Mapping[str, list[str]]
    order: Mapping[str, int]
    tensors: Mapping[str, nn.Parameter]

    @classmethod
    def of(cls, model: nn.Module) -> _Names:
        first: dict[int, str] = {}
        every: dict[str, list[str]] = {}
        tensors: dict[str, nn.Parameter] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            own = first.setdefault(id(parameter), name)
            every.setdefault(own, []).append(name)
            tensors.setdefault(own, parameter)
        return cls(first, every, {name: i for i, name in enumerate(every)}, tensors)


def _unwrapped(model: nn.Module) -> tuple[nn.Module, str]:
    """The network inside `torch.compile`, `DataParallel`, DDP and `AveragedModel`, and the prefix of its names."""
    prefix = ""
    while True:
        children = dict(model.named_children())
        kind = type(model).__name__
        if kind == "OptimizedModule" and "_orig_mod" in children:
            model, prefix = children["_orig_mod"], f"{prefix}_orig_mod."
        elif kind in ("DataParallel", "DistributedDataParallel", "AveragedModel") and "module" in children:
            model, prefix = children["module"], f"{prefix}module."
        else:
            return model, prefix


def _renamed(depths: Depths, prefix: str, model: nn.Module) -> Depths:
    """`depths` under the names that `model` itself uses, in its order."""
    by_name = {name: depths.by_name[name.removeprefix(prefix)] for name, _ in model.named_parameters()}
    return Depths(by_name, depths.source, depths.notes)


def _shown(names: Iterable[str], limit: int = 6) -> str:
    """`names` for a note: parameters of one module together, a long list cut."""
    modules: dict[str, list[str]] = {}
    for name in names:
        module, _, last = name.rpartition(".")
        modules.setdefault(module, []).append(last)
    texts = []
    for module, lasts in modules.items():
        dotted = f"{module}." if module else ""
        texts.append(f"{dotted}{lasts[0]}" if len(lasts) == 1 else f"{dotted}{{{','.join(lasts)}}}")
    return ", ".join(texts[:limit]) + (f", … ({len(texts)} in all)" if len(texts) > limit else "")


# --- the model's own description -----------------------------------------------------------------------------------


def _described(model: nn.Module, names: _Names) -> tuple[dict[str, int] | None, str]:
    """Depth by first name as timm's `group_matcher` has it, without those it misses; else null and why not."""
    matcher_of = getattr(model, "group_matcher", None)
    if not callable(matcher_of):
        return None, "the model has no group_matcher"
    try:
        matcher = matcher_of(coarse=False)
        # A compiled or parametrized module inside the model must not hide its parameters from the patterns.
        plain = {name: name.replace("_orig_mod.", "") for tied in names.every.values() for name in tied}
        found = {plain_name for plain_name in plain.values() if _matched(matcher, plain_name)}
        from timm.models._manipulate import group_with_matcher

        depth: dict[str, int] = group_with_matcher(((name, None) for name in found), matcher, reverse=True)
    except Exception as error:  # whatever a model's own description may raise: reported, and another source is taken
        return None, f"the model's group_matcher fails ({type(error).__name__}: {error})"
    described = {}
    for name, tied in names.every.items():
        depths = [depth[plain[other]] for other in tied if plain[other] in depth]
        if depths:
            described[name] = min(depths)  # a shared tensor is as deep as its first use
    if not described:
        return None, "the model's group_matcher matches none of its parameters"
    return _consecutive(described), ""


def _matched(matcher: Any, name: str) -> bool:
    """Whether timm's `matcher` (patterns by group, or a function of the name) says anything about `name`."""
    if isinstance(matcher, Mapping):
        for spec in matcher.values():
            patterns = [] if spec is None else [spec] if isinstance(spec, str) else [pattern for pattern, _ in spec]
            if any(re.match(pattern, name) for pattern in patterns):
                return True
        return False
    ordinal = matcher(name)
    first = next(iter(ordinal), None) if isinstance(ordinal, Iterable) else ordinal
    return first is not None and first != float("inf")


def _from_description(model: nn.Module, names: _Names, described: Mapping[str, int]) -> Depths:
    """`described` completed: the classifier at the head, what else was missed where it is used."""
    head = max(described.values()) + 1
    classifier = _classifier(model, names)
    missed = [name for name in names.every if name not in described]
    others = [name for name in missed if name not in classifier]
    by_name = dict(described) | {name: head for name in missed if name in classifier}
    notes: list[str] = []
    if others:
        placed = _placed(others, described, head, names, names.order)
        by_name |= placed
        for depth in sorted(set(placed.values())):
            shown = _shown(name for name in others if placed[name] == depth)
            where = "after the last described block, so with the head" if depth == head else "where they come"
            notes.append(f"the model's own description misses {shown}: {where} (depth {depth}, registration order)")
    return Depths(_consecutive(by_name), "timm", tuple(notes))


def _classifier(model: nn.Module, names: _Names) -> set[str]:
    """First names of the classifier's parameters, by `get_classifier` or timm's `default_cfg`."""
    found: set[str] = set()
    get = getattr(model, "get_classifier", None)
    modules = get() if callable(get) else None
    for module in modules if isinstance(modules, (tuple, list)) else [modules]:
        if isinstance(module, nn.Module):
            found.update(names.first[id(parameter)] for parameter in module.parameters() if id(parameter) in names.first)
    config = getattr(model, "default_cfg", None)
    listed = config.get("classifier") if isinstance(config, Mapping) else None
    for path in [listed] if isinstance(listed, str) else listed or ():
        found.update(name for name in names.every if name == path or name.startswith(f"{path}."))
    return found


def _placed(
    missed: Iterable[str], described: Mapping[str, int], head: int, names: _Names, order: Mapping[str, int]
) -> dict[str, int]:
    """Depth of each of `missed` from its neighbours in `order` (first name -> index; smaller is earlier).

    Before the first block: 0. After the last described parameter of the last block: `head`. In between: the depth of
    the block that follows; of the one before, where both are the same or the parameter is a lone norm's.
    """
    known = sorted((order[name], depth) for name, depth in described.items() if name in order)
    last = max(described.values())
    placed = {}
    for name in missed:
        if name not in order:  # never used: beside whatever was registered before it
            placed[name] = head
            continue
        before = [depth for index, depth in known if index < order[name]]
        current = max(before, default=0)
        # Tokens of the stem may be used late: only what is at least as deep as the block before tells the place.
        after = next((depth for index, depth in known if index > order[name] and depth >= current), None)
        if after is None:
            placed[name] = head
        elif current == 0:
            placed[name] = 0
        else:
            placed[name] = current if names.tensors[name].dim() < 2 else min(after, last)
    return placed


def _consecutive(depths: Mapping[str, int]) -> dict[str, int]:
    """`depths` without gaps, from 0."""
    ranks = {depth: rank for rank, depth in enumerate(sorted(set(depths.values())))}
    return {name: ranks[depth] for name, depth in depths.items()}
