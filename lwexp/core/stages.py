"""Where published layer decays draw the borders of depth groups: several blocks in one, the last norm, downsampling.

Blocks and stages are read from the groups' names: `stages.2.blocks.5` is block 5 of the stage `stages.2.blocks`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from torch import nn

from .group_names import group_names
from .kinds import Kinds
from .options import at_least

_Groups = list[tuple[str, ...]]
_BLOCK = re.compile(r"(.*?)(\d+)(?:\.\D+)?")  # the last number of a name is the block's


def regrouped(
    model: nn.Module,
    groups: Sequence[tuple[str, ...]],
    prefix: str,
    *,
    blocks: int,
    last_norm: Literal["block", "head"],
    between_stages: Literal["next", "previous"],
) -> _Groups:
    """`groups` of parameter names, from the head to the stem, with other borders, as `depth_index` explains.

    `prefix` is that of a wrapper. Raises `ConfigError` for a number of `blocks` below 1.
    """
    at_least("grouping.blocks", blocks, 1)
    found = [*groups]
    names = group_names(found, prefix)
    order = {name: i for i, (name, _) in enumerate(model.named_parameters())}
    if last_norm == "head" and len(found) > 2 and _stage(names[0]) != _stage(names[1]):
        found = _norm_to_head(found, f"{prefix}{names[1]}.", order, {*Kinds.of(model).names.get("norm", ())})
    if between_stages == "previous":
        found = _to_previous(found, [f"{prefix}{name}." for name in names], [_stage(name) for name in names], order)
    return found if blocks == 1 else _joined(found, [_stage(name) for name in names], blocks)


def _stage(name: str) -> str | None:
    """The stage of a block's name, None for what is no block."""
    match = _BLOCK.fullmatch(name)
    return match[1] if match else None


def _norm_to_head(groups: _Groups, block: str, order: dict[str, int], norms: set[str]) -> _Groups:
    """The norms that come after all that is inside the last `block` join the head, unless other layers do so too."""
    head, last, *others = groups
    end = max((order[name] for name in last if name.startswith(block)), default=None)
    after = tuple(name for name in last if end is not None and order[name] > end)
    if not after or not norms.issuperset(after):
        return groups
    return [(*head, *after), tuple(name for name in last if name not in after), *others]


def _to_previous(groups: _Groups, paths: list[str], stages: list[str | None], order: dict[str, int]) -> _Groups:
    """What comes before the first block of a stage joins the last block of the stage before it."""
    found = [*groups]
    for i in range(len(groups) - 1):
        if stages[i] is None or stages[i + 1] is None or stages[i] == stages[i + 1]:
            continue
        start = min((order[name] for name in groups[i] if name.startswith(paths[i])), default=None)
        before = tuple(name for name in groups[i] if start is not None and order[name] < start)
        found[i] = tuple(name for name in found[i] if name not in before)
        found[i + 1] = (*before, *found[i + 1])
    return found


def _joined(groups: _Groups, stages: list[str | None], blocks: int) -> _Groups:
    """So many `blocks` of a stage as one group, counted from its first; the head and the stem stay apart."""
    found: _Groups = [groups[-1]]
    number = 0  # of the block in its stage
    for i in reversed(range(len(groups) - 1)):
        is_head = i == 0 and (len(groups) < 2 or stages[0] != stages[1])
        same = stages[i] is not None and i + 1 < len(groups) - 1 and stages[i] == stages[i + 1] and not is_head
        number = number + 1 if same else 0
        if number % blocks:
            found[-1] = (*groups[i], *found[-1])
        else:
            found.append(groups[i])
    return found[::-1]
