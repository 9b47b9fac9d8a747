"""The depth of units: the number of blocks that the data have passed when they reach each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from typing import Any

from .execution import Operation, Trace
from .parameters import Names, is_matrix, renumber, shape_of, size_of
from .structure import Structure
from .thresholds import FEW_LEVELS, FEW_WEIGHT_SHARE, PARALLEL_SHARE, POOLING_RATIO, STEM_BLOCK_SHARE, STEM_WEIGHT_RATIO
from .units import Unit, find_units


def depths_of_units(structure: Structure, names: Names, trace: Trace | None) -> tuple[dict[str, int], list[str]]:
    """Depth by first name, and the names that `trace` never uses; without a trace, in the order of registration."""
    flat = False
    while True:
        units = find_units(structure, names, flat)
        flow = Flow(units, names, trace or chain(units, names), flat)
        parallel = flow.parallel() - structure.parallel
        stems = {id(structure.model.get_submodule(path)) for path in flow.stems()} - structure.stems
        if parallel or stems:
            structure.close(parallel, stems)
        elif not flat and flow.few_blocks(structure.tables):
            flat = True
        else:
            break
    depth = flow.depths()
    unused = [] if trace is None else [name for name in names.every if name not in trace.first_use]
    by_name: dict[str, int] = {}
    for i, unit in enumerate(units):
        for name in unit.names if i in depth else ():
            by_name[name] = min(depth[i], by_name.get(name, depth[i]))  # a tied tensor: where it is used first
    previous = 0
    outputs = {flow.shapes(i)[-1:] for i in flow.heads}
    for i, unit in enumerate(units):  # never used: with the heads if shaped like one, else with its predecessor
        if i not in depth:
            like = flow.weighty(i) and flow.shapes(i)[-1:] in outputs
            depth[i] = max(depth.values(), default=0) if like else previous
            for name in unit.names:
                by_name.setdefault(name, depth[i])
        previous = depth[i]
    return renumber(by_name), unused


def chain(units: Sequence[Unit], names: Names) -> Trace:
    """The trace of a network that uses its units one after the other, in the order of registration.

    The last units of equal shapes (two heads) are parallel.
    """
    trace, place = Trace(inputs=frozenset([0])), 0
    shapes = [
        [tuple(names.tensors[name].shape) for name in unit.names if size_of(names.tensors[name])] for unit in units
    ]
    tail = len(units) - 1
    while tail > 0 and shapes[tail - 1] == shapes[-1] and not units[tail].block:
        tail -= 1
    outputs = []
    for i, unit in enumerate(units):
        trace.operations.append(Operation((place,), (i + 1,), tuple(unit.names), "multiply" if unit.module else ""))
        trace.first_use.update(dict.fromkeys(unit.names, i))
        if i < tail:
            place = i + 1
        else:
            outputs.append(i + 1)
    trace.outputs = frozenset(outputs)
    return trace


class Flow:
    """The flow of data through units: the number of blocks on the longest path from the input to each block.

    `level[i]` is that number for a block (1 for the first), `entry[i]` the level of the data that first enter another
    unit, `size[i]` the number of their elements, `reached[i]` the highest level of all when the unit is first used,
    `heads` the output layers: units with a weight matrix that feed an output and no other such unit.
    """

    def __init__(self, units: Sequence[Unit], names: Names, trace: Trace, flat: bool) -> None:
        """Propagate levels along the operations of `trace`."""
        self.units, self.names, self.trace, self.flat = units, names, trace, flat
        self.matrix = [any(is_matrix(names.tensors[name]) for name in unit.names) for unit in units]
        self.of: dict[str, list[int]] = {}
        for i, unit in enumerate(units):
            for name in unit.names:
                self.of.setdefault(name, []).append(i)
        self.level: dict[int, int] = {}
        self.entry: dict[int, int] = {}
        self.size: dict[int, int] = {}
        self.reached: dict[int, int] = {}
        self.first_kind: dict[int, str] = {}
        self.fed_by: dict[int, frozenset[int]] = {}
        self.fed: set[int] = set()
        self._run()

    def weighty(self, i: int) -> bool:
        """Whether unit `i` is a layer with a weight matrix, not a norm, token or position table."""
        return self.matrix[i] and (self.units[i].module or self.first_kind.get(i) == "multiply")

    def shapes(self, i: int) -> tuple[Any, ...]:
        """The shapes of the parameters of unit `i`."""
        return tuple(shape_of(self.names.tensors[name]) for name in self.units[i].names)

    def _users(self, index: int, operation: Operation) -> set[int]:
        """Units whose parameters the operation takes; of units that share one, the one that is being called."""
        users = set()
        for name in operation.parameters:
            sharing = self.of[name]
            if len(sharing) > 1:
                sharing = [i for i in sharing if self._at_work(i, index)] or sharing
            users.add(sharing[0])
        return users

    def _at_work(self, i: int, index: int) -> bool:
        """Whether operation `index` belongs to the first call of unit `i`."""
        start, end = self.trace.spans.get(self.units[i].path, (-1, -1))
        return start <= index <= end

    def _run(self) -> None:
        # By storage: the number of blocks its data have passed, the last of these blocks, and the layers that they come
        # from and that could be output layers.
        none = frozenset[int]()
        data = dict.fromkeys(self.trace.inputs, (0, none, none))
        pending: dict[int, frozenset[int]] = {}  # units whose parameters it was computed from, without data
        highest = 0
        for index, operation in enumerate(self.trace.operations):
            users = self._users(index, operation) if operation.parameters else set()
            for i in users:
                self.reached.setdefault(i, highest)
            users = users.union(*[pending[key] for key in operation.takes if key in pending])
            taken = [data[key] for key in operation.takes if key in data]
            if not taken:
                pending.update(dict.fromkeys(operation.gives, frozenset(users)) if users else {})
                continue
            incoming, made_by, feeding = taken[0]
            if len(taken) > 1:
                incoming = max(level for level, _, _ in taken)
                made_by = none.union(*(makers for level, makers, _ in taken if level == incoming))
                feeding = none.union(*(layers for _, _, layers in taken))
            outgoing, source = incoming, feeding - self.fed
            layers = set()
            for i in sorted(users):
                if i not in self.first_kind:
                    self.first_kind[i], self.fed_by[i], self.entry[i] = operation.kind, feeding, incoming
                    self.size[i] = operation.size
                if self.units[i].block:
                    # A second path into a block may be the longer one (cross-attention to an encoder); a second call
                    # of the same block does not make it deeper.
                    before = self.level.get(i, 0)
                    later = incoming > before or (incoming == before and made_by - {i})
                    if i not in self.level or (later and self._at_work(i, index)):
                        self.level[i] = incoming + 1
                    if self.level[i] >= outgoing:
                        made_by = frozenset({i}) if self.level[i] > outgoing else made_by | {i}
                        outgoing = self.level[i]
                if self.weighty(i):
                    layers.add(i)
            if layers:
                self.fed |= source - layers
                source = frozenset(layers)
            highest = max(highest, outgoing)
            for key in operation.gives:
                level, makers, _ = data.get(key, (0, none, none))
                data[key] = (outgoing, made_by, source) if outgoing >= level else (level, makers, source)
                pending.pop(key, None)
        ends = none.union(*(data[key][2] for key in self.trace.outputs if key in data)) - self.fed
        self.heads = self._heads(ends)

    def few_blocks(self, tables: Set[int]) -> bool:
        """Whether there are few levels, and blocks hold a minority of the weights except embeddings and heads."""
        if len(set(self.level.values())) > FEW_LEVELS:
            return False
        tensors = self.names.tensors
        size = [sum(size_of(tensors[n]) for n in unit.names if id(tensors[n]) not in tables) for unit in self.units]
        rest = sum(size[i] for i in range(len(size)) if i not in self.heads)
        blocks = sum(size[i] for i, unit in enumerate(self.units) if unit.block and i not in self.heads)
        return blocks < FEW_WEIGHT_SHARE * rest

    def parallel(self) -> set[int]:
        """Ids of lists inside blocks whose elements are parallel: parts of one block."""
        starts: dict[int, dict[int, int]] = {}
        for i, level in self.level.items():
            for owner, element in self.units[i].within:
                first = starts.setdefault(owner, {})
                first[element] = min(level, first.get(element, level))
        return {
            owner
            for owner, first in starts.items()
            if len(first) > 1 and len(set(first.values())) <= PARALLEL_SHARE * len(first)
        }

    def stems(self) -> set[str]:
        """Paths of light modules that data enter first and that begin with a layer outside their blocks: stems."""
        size = [sum(size_of(self.names.tensors[name]) for name in unit.names) for unit in self.units]
        blocks = Counter(path for unit in self.units if unit.block for path in _ancestors(unit.path))
        weights: Counter[str] = Counter()
        for i, unit in enumerate(self.units):
            weights.update(dict.fromkeys(_ancestors(unit.path), size[i]))
        first = [
            i for i, entry in self.entry.items()
            if entry == 0 and self.weighty(i) and not self.fed_by[i] and not self.units[i].block
        ]  # fmt: skip
        return {
            path
            for i in first
            for path in _ancestors(self.units[i].path)[1:]
            if 0 < blocks[path] < STEM_BLOCK_SHARE * blocks[""] and STEM_WEIGHT_RATIO * weights[path] < weights[""]
        }

    def _heads(self, ends: frozenset[int]) -> set[int]:
        heads = {i for i in ends if self.flat or not self.units[i].block}
        if not heads and len(ends) == 1:
            # A last block of a build that no other block has is the head, such as a classifier of two layers.
            (end,) = ends
            build = self.units[end].build
            if build and not any(unit.block and unit.build == build for i, unit in enumerate(self.units) if i != end):
                return {end}
        return heads

    def depths(self) -> dict[int, int]:
        """Depth of every unit that the trace uses; there may be gaps."""
        last = max((level for i, level in self.level.items() if i not in self.heads), default=0)
        # Tokens and position tables are inputs, even where they are used late, unless a network concatenates (or adds)
        # them at several levels: then each belongs to its stage.
        inputs = {i for i, unit in enumerate(self.units) if not unit.module and self.matrix[i] and not self.weighty(i)}
        places = {(self.first_kind[i] == "join", self.entry[i]) for i in inputs if i in self.entry}
        at_one_place = Counter(joins for joins, _ in places)
        blocks_in = Counter(path for unit in self.units if unit.block for path in _ancestors(unit.path))
        final: dict[str, int] = {}  # the level of the last block of a stage
        for i, level in self.level.items():
            for path in _ancestors(self.units[i].path):
                final[path] = max(level, final.get(path, 0))
        at_end = max((self.size[i] for i, level in self.level.items() if level == last), default=0)
        # A composite module between the last block and the output belongs to the head.
        tail = {
            i for i, entry in self.entry.items()
            if entry == last > 0 and self.heads and self.units[i].build and not self.units[i].block
            and not any(path in blocks_in for path in _ancestors(self.units[i].path)[1:])
        }  # fmt: skip
        after = self.heads | tail
        depths = {}
        for i, reached in self.reached.items():
            unit, place = self.units[i], min(reached, self.entry.get(i, reached))
            stage = next((path for path in _ancestors(unit.path)[::-1] if path in blocks_in), "")
            in_stage = 0 < blocks_in[stage] < blocks_in[""]
            closing = in_stage and final.get(stage, 0) <= place
            # Units after the pooling belong to the head, like units after a head.
            pooled = (
                place == last > 0 and not in_stage and not unit.block and POOLING_RATIO * self.size.get(i, 0) < at_end
            )
            if i in after or pooled or self.fed_by.get(i, frozenset()) & after:
                depths[i] = last + 1
            elif unit.block:
                depths[i] = self.level.get(i, reached + 1)
            elif i in inputs and at_one_place[self.first_kind.get(i) == "join"] == 1:
                depths[i] = 0
            elif self.matrix[i] and not closing and (place or (in_stage and self.fed_by.get(i))):
                depths[i] = min(place + 1, last)  # a layer before a block belongs to it, unless it ends a stage
            else:
                depths[i] = place
        return depths


def _ancestors(path: str) -> list[str]:
    """Paths of the modules that `path` is in, the model's own "" included."""
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(len(parts))]
