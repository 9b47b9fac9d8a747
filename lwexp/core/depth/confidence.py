"""Signs that an order found by execution may be wrong, for one line in the plan's notes."""

from __future__ import annotations

from collections.abc import Mapping, Set

from .flow import Flow
from .parameters import size_of
from .thresholds import UNUSED_SHARE

_SHOWN = 3


def find_doubts(flow: Flow, depths: Mapping[int, float], tables: Set[int]) -> list[str]:
    """Why the `depths` of units by the record of a forward pass may be in wrong order; empty where nothing tells so.

    - Many weights were never used: they were placed by their neighbors (an input that is only a part of the inputs).
    - Layers were used, but no data of the input reached them: their flow was not seen.
    - A layer feeds only an output, yet is not at the end: outputs at several depths.
    - A layer takes the result of a deeper one.
    """
    tensors, units = flow.names.tensors, flow.units
    doubts = []
    size = {name: 1 if id(tensor) in tables else size_of(tensor) for name, tensor in tensors.items()}
    unused = sum(size[name] for name in tensors if name not in flow.trace.first_use)
    if unused > UNUSED_SHARE * sum(size.values()):
        doubts.append(f"{unused / sum(size.values()):.0%} of the weights were not used in the forward pass")
    layers = [i for i in flow.reached if flow.matrix[i] and units[i].module]
    if unreached := [units[i].path for i in layers if i not in flow.entry]:
        doubts.append(f"no data of the input were seen to reach {_some(unreached)}")
    last = max(depths.values(), default=0)
    if early := [units[i].path for i in sorted(flow.ends) if depths[i] < last]:
        doubts.append(f"{_some(early)} feed an output, not the head")
    backward = [
        f"{units[j].path} to {units[i].path}"
        for i in layers
        for j in flow.fed_by.get(i, ())
        if i != j and depths[j] > depths[i] and flow.weighty(i) and not flow.at_work(j, flow.first_use[i])
    ]
    if backward:
        doubts.append(f"data flow from {_some(backward)}, which has the smaller depth")
    return doubts


def doubt_note(doubts: list[str], guessed: bool) -> str:
    """The doubts as a line of the plan."""
    advice = "give example_input, or compare" if guessed else "compare"
    return f"unsure of the order of depths: {'; '.join(doubts)}; {advice} with grouping.source=registration"


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:_SHOWN]) + (f", … ({len(paths)} in all)" if len(paths) > _SHOWN else "")
