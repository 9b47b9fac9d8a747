"""The depth of units, from the flow of data: blocks by their level, other units by their neighbors, the head last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from typing import NamedTuple

from .confidence import find_doubts
from .flow import Flow, chain
from .parameters import Names, is_matrix, renumber, size_of
from .recorder import Trace
from .structure import Structure
from .thresholds import (
    BULK_WEIGHT_SHARE,
    FEW_BLOCK_SHARE,
    FEW_LEVELS,
    PARALLEL_SHARE,
    POOLING_RATIO,
    SHRINKING_RATIO,
    STEM_BLOCK_SHARE,
    STEM_WEIGHT_RATIO,
)
from .units import find_units, merge_rows


class Placed(NamedTuple):
    """Depth by first name, the names that the trace never uses, and why the order may be wrong."""

    by_name: dict[str, int]
    unused: list[str]
    doubts: list[str]


def depths_of_units(structure: Structure, names: Names, trace: Trace | None) -> Placed:
    """The depths of all parameters; without a trace, in the order of registration."""
    flat = False
    while True:
        units = find_units(structure, names, flat)
        if trace is not None:
            units = merge_rows(units, names, trace.first_use)
        flow = Flow(units, names, trace or chain(units, names), flat)
        heads = find_heads(flow)
        parallel = parallel_lists(flow) - structure.parallel
        stems = {id(structure.model.get_submodule(path)) for path in stem_paths(flow)} - structure.stems
        if parallel or stems:
            structure.close(parallel, stems)
        elif not flat and few_blocks(flow, heads, structure.tables):
            flat = True
        elif towers := find_towers(flow, structure) - structure.towers:
            structure.open(towers)
        else:
            break
    depth = _with_unused(flow, heads, _place(flow, heads))
    unused = [] if trace is None else [name for name in names.every if name not in trace.first_use]
    by_name: dict[str, float] = {}
    for i, unit in enumerate(units):
        for name in unit.names if i in flow.reached else ():
            by_name[name] = min(depth[i], by_name.get(name, depth[i]))  # a tied tensor: where it is used first
    for i, unit in enumerate(units):
        for name in unit.names:
            by_name.setdefault(name, depth[i])
    doubts = [] if trace is None else find_doubts(flow, depth, structure.tables)
    return Placed(renumber(by_name), unused, doubts)


def few_blocks(flow: Flow, heads: Set[int], tables: Set[int]) -> bool:
    """Whether there are few levels, and blocks hold no majority of weights or layers, without embeddings and heads."""
    if len(set(flow.level.values())) > FEW_LEVELS:
        return False
    tensors = flow.names.tensors
    weights: Counter[bool] = Counter()
    layers: Counter[bool] = Counter()
    for i, unit in enumerate(flow.units):
        own = {name: tensors[name] for name in unit.names if id(tensors[name]) not in tables and i not in heads}
        weights[unit.block] += sum(map(size_of, own.values()))
        layers[unit.block] += len({name.rpartition(".")[0] for name, tensor in own.items() if is_matrix(tensor)})
    return any(held[True] <= FEW_BLOCK_SHARE * (held[True] + held[False]) for held in (weights, layers))


def find_towers(flow: Flow, structure: Structure) -> set[int]:
    """Ids of alike modules side by side that hold most of the weights: networks, not blocks."""
    alike: dict[object, list[int]] = {}
    for i, unit in enumerate(flow.units):
        if unit.build and i in flow.entry and not unit.merged:
            alike.setdefault(unit.build, []).append(i)
    for same in alike.values():
        modules = [structure.model.get_submodule(flow.units[i].path) for i in same]
        size = sum(structure.size[id(module)] for module in modules)
        levels = {flow.level.get(i, flow.entry[i]) for i in same}
        if len(same) > 1 == len(levels) and size > BULK_WEIGHT_SHARE * structure.size[id(structure.model)]:
            return {id(module) for module in modules if not structure.is_layer(module)}
    return set()


def parallel_lists(flow: Flow) -> set[int]:
    """Ids of lists inside blocks whose elements are parallel: parts of one block."""
    starts: dict[int, dict[int, int]] = {}
    for i, level in flow.level.items():
        for owner, element in flow.units[i].within:
            first = starts.setdefault(owner, {})
            first[element] = min(level, first.get(element, level))
    return {
        owner
        for owner, first in starts.items()
        if len(first) > 1 and len(set(first.values())) <= PARALLEL_SHARE * len(first)
    }


def stem_paths(flow: Flow) -> set[str]:
    """Paths of light modules that data enter first and that begin with a layer outside their blocks: stems."""
    size = [sum(size_of(flow.names.tensors[name]) for name in unit.names) for unit in flow.units]
    blocks = Counter(path for unit in flow.units if unit.block for path in ancestors(unit.path))
    weights: Counter[str] = Counter()
    for i, unit in enumerate(flow.units):
        weights.update(dict.fromkeys(ancestors(unit.path), size[i]))
    first = [
        i
        for i, entry in flow.entry.items()
        if entry == 0 and flow.weighty(i) and not flow.fed_by[i] and not flow.block(i)
    ]
    return {
        path
        for i in first
        for path in ancestors(flow.units[i].path)[1:]
        if 0 < blocks[path] < STEM_BLOCK_SHARE * blocks[""] and STEM_WEIGHT_RATIO * weights[path] < weights[""]
    }


def find_heads(flow: Flow) -> set[int]:
    """The output layers: units with a weight matrix that feed an output and no other such unit."""
    lists: dict[str, set[int]] = {}
    for i, unit in enumerate(flow.units):
        if unit.block and i in flow.level:
            lists.setdefault(unit.path.rpartition(".")[0], set()).add(i)
    # A list each of whose elements ends is a list of heads.
    listed = set().union(*(own for own in lists.values() if len(own) > 1 and own <= flow.ends))
    heads = {i for i in flow.ends if flow.flat or i in listed or not flow.block(i)}
    if not heads and len(flow.ends) == 1:
        # A last block of a build that no other block has is the head, such as a classifier of two layers.
        (end,) = flow.ends
        build = flow.units[end].build
        if build and not any(unit.block and unit.build == build for i, unit in enumerate(flow.units) if i != end):
            return {end}
    return heads


def _place(flow: Flow, heads: Set[int]) -> dict[int, float]:
    """Depth of every unit that the trace uses; there may be gaps."""
    units = flow.units
    last = max((level for i, level in flow.level.items() if i not in heads), default=0)
    # Tokens and position tables are inputs, even where they are used late, unless a network concatenates (or adds)
    # them at several levels: then each belongs to its stage.
    layer = {i for i in flow.reached if flow.matrix[i] and not flow.gain(i)}
    inputs = {i for i in layer if not units[i].module and not flow.weighty(i)}
    places = {(flow.first_kind[i] == "join", flow.entry[i]) for i in inputs if i in flow.entry}
    at_one_place = Counter(joins for joins, _ in places)
    blocks_in = Counter(path for unit in units if unit.block for path in ancestors(unit.path))
    final: dict[str, int] = {}  # the level of the last block of a stage
    made: dict[str, int] = {}  # and the number of elements that it makes
    for i, level in sorted(flow.level.items(), key=lambda item: item[1]):
        for path in ancestors(units[i].path):
            final[path], made[path] = level, flow.made[i]
    at_end = max((flow.size[i] for i, level in flow.level.items() if level == last), default=0)
    # A composite module between the last block and the output belongs to the head.
    tail = {
        i for i, entry in flow.entry.items()
        if entry == last > 0 and heads and units[i].build and not units[i].block
        and not any(0 < blocks_in[path] < blocks_in[""] for path in ancestors(units[i].path))
    }  # fmt: skip
    # So do layers of the head's kind between these two, such as a classifier of several linear layers.
    after = heads | tail
    while (
        more := {
            i
            for head in after
            for i in flow.fed_by.get(head, ())
            if units[i].kind is units[head].kind
            and flow.entry[i] == last > 0
            and flow.weighty(i)
            and not flow.block(i)
            and not any(0 < blocks_in[path] < blocks_in[""] for path in ancestors(units[i].path))
        }
        - after
    ):
        after |= more
    depths: dict[int, float] = {}
    for i, reached in flow.reached.items():
        unit, place = units[i], min(reached, flow.entry.get(i, reached))
        stage = next((path for path in ancestors(unit.path)[::-1] if path in blocks_in), "")
        in_stage, numbered = 0 < blocks_in[stage] < blocks_in[""], stage[-1:].isdigit()
        if flow.weighty(i) and not in_stage:
            place = max(place, flow.joins.get(i, 0))
        # Down-sampling (not a gate, which has pooled) at the end of one of several stages belongs to the next one.
        size = flow.made.get(i, 0)
        shrinks = numbered and SHRINKING_RATIO * size <= made.get(stage, 0) <= POOLING_RATIO * size
        closing = in_stage and final.get(stage, 0) <= place and not shrinks
        # Units after the pooling belong to the head, like units after a head.
        pooled = place == last > 0 and not in_stage and not unit.block and POOLING_RATIO * flow.size.get(i, 0) < at_end
        if i in after or pooled or flow.fed_by.get(i, frozenset()) & after:
            depths[i] = last + 1
        elif flow.block(i):
            depths[i] = flow.level.get(i, reached + 1)
        elif i in inputs and at_one_place[flow.first_kind.get(i) == "join"] == 1 and not (in_stage and numbered):
            depths[i] = 0
        elif i in layer and not closing and (place or (in_stage and _fed_from_outside(flow, i, stage))):
            depths[i] = min(place + 1, last)  # a layer before a block belongs to it, unless it ends a stage
        else:
            depths[i] = place
    return depths


def _fed_from_outside(flow: Flow, i: int, stage: str) -> bool:
    """Whether data of a layer outside `stage` reach unit `i` through layers in it."""
    feeding = flow.fed_by.get(i, frozenset()) - {i}
    inside = {
        j for j in feeding if flow.units[j].path.startswith(f"{stage}.") and flow.first_use[j] < flow.first_use[i]
    }
    return bool(feeding - inside) or any(_fed_from_outside(flow, j, stage) for j in inside)


def _with_unused(flow: Flow, heads: Set[int], depths: dict[int, float]) -> dict[int, float]:
    """Also of units that are never used: a head if shaped like one, else with the unit registered before it.

    An unused block of a list of which others are used has a depth of its own (networks of random depth).
    """
    outputs = {flow.shapes(i)[-1:] for i in heads}
    lists = {unit.path.rpartition(".")[0] for i, unit in enumerate(flow.units) if i in depths and unit.block}
    complete, previous = dict(depths), 0.0
    for i, unit in enumerate(flow.units):
        if i not in complete:
            if flow.weighty(i) and flow.shapes(i)[-1:] in outputs:
                complete[i] = max(depths.values(), default=0)
            elif unit.block and unit.path.rpartition(".")[0] in lists:
                later = [depth for depth in depths.values() if depth > previous]
                complete[i] = (previous + min(later, default=previous + 1)) / 2
            else:
                complete[i] = previous
        previous = complete[i]
    return complete


def ancestors(path: str) -> list[str]:
    """Paths of the modules that `path` is in, the model's own "" included."""
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(len(parts))]
