"""Readable names of groups: the longest common module path, `stem`, `head`, or the largest module of the group."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_RNN_LAYER = re.compile(r"\A(?:weight|bias)_[a-z]+_l(\d+)(?:_reverse)?\Z")  # as torch names those of nn.LSTM, nn.GRU
_Path = tuple[str, ...]


def group_names(groups: Sequence[Sequence[str]], prefix: str = "") -> list[str]:
    """A name for each of `groups` (the parameters' names, from the head to the stem); no two are alike.

    In this order: the longest module path that all parameters of a group share and no other group uses (`layer4.1`,
    `lstm.layer2`); at the ends `stem` and `head`; the largest module that belongs to the group alone (`blocks.11`,
    although the group has the last norm too); `depth7`. The `prefix` of a wrapper is removed.

    >>> group_names([["fc.weight"], ["blocks.1.a", "norm.a", "blocks.1.b"], ["blocks.0.a", "pos", "conv.weight"]])
    ['fc', 'blocks.1', 'stem']
    """
    paths = [[_path(name.removeprefix(prefix)) for name in members] for members in groups]
    owner: dict[_Path, int] = {}
    for i, members in enumerate(paths):
        for path in members:
            for end in range(1, len(path) + 1):
                node = path[:end]
                owner[node] = i if owner.get(node, i) == i else -1
    names: list[str] = []
    taken: set[str] = set()
    for i, members in enumerate(paths):
        depth = len(groups) - 1 - i
        found = [_shared(members, owner, i)]
        largest = _largest(members, owner, i)
        block = i == 0 and len(groups) > 1 and _numberless(largest) == _numberless(_largest(paths[1], owner, 1))
        if 0 < depth < len(groups) - 1 or block:  # a network without a head ends with a block
            found.append(largest)
        elif len(groups) > 1:
            found.append("stem" if depth == 0 else "head")
        names.append(next((name for name in found if name and name not in taken), f"depth{depth}"))
        taken.add(names[-1])
    return _unique(names)


def common_path(names: Sequence[str]) -> str:
    """The longest module path that all parameter `names` share, or ''.

    >>> common_path(["layer4.1.conv1.weight", "layer4.1.bn1.bias"])
    'layer4.1'
    """
    return ".".join(_common([tuple(name.split(".")) for name in names]))


def _path(name: str) -> _Path:
    """The path of a parameter; a layer of an RNN counts as a module."""
    *modules, last = (part for part in name.split(".") if part != "_orig_mod")
    layer = _RNN_LAYER.match(last)
    return (*modules, f"layer{layer[1]}", last) if layer else (*modules, last)


def _common(paths: Sequence[_Path]) -> _Path:
    shared: list[str] = []
    for parts in zip(*(path[:-1] or path for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return tuple(shared)


def _shared(paths: Sequence[_Path], owner: dict[_Path, int], group: int) -> str:
    """The common path, if no other group has parameters below it; else an empty string."""
    path = _common(paths)
    if not path or owner[path] != group:
        return ""
    rnn = len(path) > 1 and all(_RNN_LAYER.match(other[-1]) for other in paths) and owner[path[:-1]] == group
    return ".".join(path[:-1] if rnn else path)  # the only layer of an RNN is the RNN


def _largest(paths: Sequence[_Path], owner: dict[_Path, int], group: int) -> str:
    """The path of the module with the most parameters among those that belong to this group alone."""
    parts: Counter[_Path] = Counter()
    for path in reversed(paths):  # of two of equal size, the one registered first
        own = (path[:end] for end in range(1, len(path) + 1) if owner[path[:end]] == group)
        parts[next(own, path)] += 1
    part = parts.most_common(1)[0][0]
    return _shared([path for path in paths if path[: len(part)] == part], owner, group)


def _numberless(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _unique(names: Sequence[str]) -> list[str]:
    """`names`, with a number appended to repeated ones."""
    found: dict[str, None] = {}
    for name in names:
        number, candidate = 1, name
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found[candidate] = None
    return list(found)
