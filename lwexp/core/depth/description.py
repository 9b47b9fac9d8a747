"""Depth as a network describes it itself: timm's `group_matcher`, completed by what it misses."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from .execution import ForwardError, trace
from .parameters import Names, format_names, is_matrix, renumber


def described_depths(model: nn.Module, names: Names) -> tuple[dict[str, int] | None, str]:
    """Depth by first name from timm's `group_matcher`, without the names it misses; else None and the reason."""
    matcher_of = getattr(model, "group_matcher", None)
    if not callable(matcher_of):
        return None, "the model has no group_matcher"
    try:
        matcher = matcher_of(coarse=False)
        # A compiled or parametrized module inside the model must not hide its parameters from the patterns.
        plain = {name: name.replace("_orig_mod.", "") for tied in names.every.values() for name in tied}
        found = {plain_name for plain_name in plain.values() if _matches(matcher, plain_name)}
        # Private to timm, tried with 1.0.31 (tests/core/test_private_interfaces.py).
        from timm.models._manipulate import group_with_matcher

        depth: dict[str, int] = group_with_matcher(((name, None) for name in found), matcher, reverse=True)
    except Exception as error:  # any error of the model's own code: reported, and another source is used
        return None, f"the model's group_matcher fails ({type(error).__name__}: {error})"
    described = {}
    for name, tied in names.every.items():
        depths = [depth[plain[other]] for other in tied if plain[other] in depth]
        if depths:
            described[name] = min(depths)  # a tied tensor has the depth of its first use
    if not described:
        return None, "the model's group_matcher matches none of its parameters"
    return renumber(described), ""


def described_parts(model: nn.Module, names: Names) -> dict[str, dict[str, int]]:
    """Modules inside `model` with a `group_matcher`, such as a timm backbone: path -> name in `model` -> depth."""
    parts: dict[str, dict[str, int]] = {}
    for path, module in model.named_modules():
        if not path or not callable(getattr(module, "group_matcher", None)):
            continue
        if any(path.startswith(f"{outer}.") for outer in parts):
            continue
        described, _ = described_depths(module, Names.of(module))
        if described:
            full = {names.first[id(module.get_parameter(name))]: depth for name, depth in described.items()}
            parts[path] = full
    return parts


def _matches(matcher: Any, name: str) -> bool:
    """Whether timm's `matcher` (patterns by group, or a function of the name) covers `name`."""
    if isinstance(matcher, Mapping):
        for spec in matcher.values():
            patterns = [] if spec is None else [spec] if isinstance(spec, str) else [pattern for pattern, _ in spec]
            if any(re.match(pattern, name) for pattern in patterns):
                return True
        return False
    ordinal = matcher(name)
    first = next(iter(ordinal), None) if isinstance(ordinal, Iterable) else ordinal
    return first is not None and first != float("inf")


def complete_depths(
    model: nn.Module,
    names: Names,
    described: Mapping[str, int],
    example_input: object | None,
    timeout: float,
) -> tuple[dict[str, int], tuple[str, ...]]:
    """`described` with the names it misses: the classifier at the head, others where they are used; notes on these."""
    head = max(described.values()) + 1
    classifier = _classifier(model, names)
    missed = [name for name in names.every if name not in described]
    others = [name for name in missed if name not in classifier]
    by_name = dict(described) | {name: head for name in missed if name in classifier}
    notes: list[str] = []
    if others:
        used: Mapping[str, int] = {}
        try:
            used = trace(model, names.first, example_input, timeout=timeout).first_use
        except ForwardError as error:
            notes.append(f"no forward pass got through, {error}")
        unused = [name for name in others if name not in used]
        placed = _place([name for name in others if name in used], described, head, names, used)
        placed |= _place(unused, described, head, names, names.order)
        by_name |= placed
        for depth, never in sorted({(placed[name], name not in used) for name in others}):
            shown = format_names(name for name in others if placed[name] == depth and (name not in used) == never)
            verb = "registered" if never else "first used"
            where = "after the last described block, so with the head" if depth == head else "there"
            if depth == 0:
                where = "before the first described block"
            extra = " (never used in the forward pass)" if never and used else ""
            notes.append(f"the model's own description misses {shown}{extra}: {verb} {where} (depth {depth})")
    return renumber(by_name), tuple(notes)


def _classifier(model: nn.Module, names: Names) -> set[str]:
    """First names of the classifier's parameters, by `get_classifier` or timm's `default_cfg`."""
    found: set[str] = set()
    get = getattr(model, "get_classifier", None)
    modules = get() if callable(get) else None
    for module in modules if isinstance(modules, (tuple, list)) else [modules]:
        if isinstance(module, nn.Module):
            found.update(names.first[id(p)] for p in module.parameters() if id(p) in names.first)
    config = getattr(model, "default_cfg", None)
    listed = config.get("classifier") if isinstance(config, Mapping) else None
    for path in [listed] if isinstance(listed, str) else listed or ():
        found.update(name for name in names.every if name == path or name.startswith(f"{path}."))
    return found


def _place(
    missed: Iterable[str], described: Mapping[str, int], head: int, names: Names, order: Mapping[str, int]
) -> dict[str, int]:
    """Depth of each of `missed` from its neighbors in `order` (first name -> index; smaller is earlier).

    Before the first block: 0. After the last described parameter of the last block: `head`. In between: the depth of
    the following block; of the preceding one where both are the same or the parameter belongs to a lone norm.
    """
    known = sorted((order[name], depth) for name, depth in described.items() if name in order)
    indices = [index for index, _ in known]
    # `deepest[i]`: the block reached before known[i]; `following[i]`: the first at or after i that is at least as deep.
    # Less deep ones, such as a class token used late, are ignored.
    deepest, following, ahead = [0], [], 0
    for _, depth in known:
        deepest.append(max(deepest[-1], depth))
    for i, current in enumerate(deepest):
        ahead = max(ahead, i)
        while ahead < len(known) and known[ahead][1] < current:
            ahead += 1
        following.append(known[ahead][1] if ahead < len(known) else None)
    layers = {name.rpartition(".")[0] for name, tensor in names.tensors.items() if is_matrix(tensor)}
    placed = {}
    for name in missed:
        i = bisect_left(indices, order[name])
        current, after = deepest[i], following[i]
        if after is None:
            placed[name] = head
        else:
            norm = name.rpartition(".")[0] not in layers
            placed[name] = current if current == 0 or norm else after
    return placed
