"""The flow of data through units: how many blocks the data have passed when they reach each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from .parameters import Names, is_matrix, shape_of, size_of
from .recorder import Operation, Trace
from .units import Unit

_NONE = frozenset[int]()


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
    """Propagates through the operations of a trace the number of blocks on the longest path from the input.

    `level[i]` is that number for a block (1 for the first), `entry[i]` the highest level of the data that enter another
    unit in its first call, `size[i]` the number of their elements, `made[i]` that of its result, `joins[i]` the level
    at which the result of a layer outside the blocks is first used, `reached[i]` the highest level of all when the unit
    is first used, `fed_by[i]` the layers whose results enter it first. `ends` are the layers that feed an output and no
    other layer.
    """

    def __init__(self, units: Sequence[Unit], names: Names, trace: Trace, flat: bool) -> None:
        """Follow the data of `trace`; `flat`: raw parameters that are used as layers are blocks."""
        self.units, self.names, self.trace, self.flat = units, names, trace, flat
        self.matrix = [any(is_matrix(names.tensors[name]) for name in unit.names) for unit in units]
        self.of: dict[str, list[int]] = {}
        for i, unit in enumerate(units):
            for name in unit.names:
                self.of.setdefault(name, []).append(i)
        self.level: dict[int, int] = {}
        self.entry: dict[int, int] = {}
        self.size: dict[int, int] = {}
        self.made: dict[int, int] = {}
        self.joins: dict[int, int] = {}
        self.reached: dict[int, int] = {}
        self.first_use: dict[int, int] = {}
        self.first_kind: dict[int, str] = {}
        self.fed_by: dict[int, frozenset[int]] = {}
        self._spans = [self._spans_of(unit) for unit in units]
        self._fed: set[int] = set()
        # By storage: the number of blocks its data have passed, the last of these blocks, and the layers that they come
        # from and that could be output layers; units whose parameters it was computed from, without data; layers
        # outside the blocks whose result has met no other data yet.
        self._data: dict[int, tuple[int, frozenset[int], frozenset[int]]] = dict.fromkeys(
            trace.inputs, (0, _NONE, _NONE)
        )
        self._pending: dict[int, frozenset[int]] = {}
        self._alone: dict[int, frozenset[int]] = {}
        self.highest = 0
        for index, operation in enumerate(trace.operations):
            self._follow(index, operation)
        self.ends = _NONE.union(*(self._data[key][2] for key in trace.outputs if key in self._data)) - self._fed

    def weighty(self, i: int) -> bool:
        """Whether unit `i` is a layer with a weight matrix, not a norm, token or position table."""
        return self.matrix[i] and (self.units[i].module or self.first_kind.get(i) == "multiply")

    def block(self, i: int) -> bool:
        """Whether unit `i` is a block; in a flat network, also a raw parameter that is used as a layer."""
        return self.units[i].block or (self.flat and not self.units[i].module and self.weighty(i))

    def gain(self, i: int) -> bool:
        """Whether unit `i` is a raw parameter that scales the data, such as attention vectors of a graph network."""
        return not self.units[i].module and self.first_kind.get(i) == "scale"

    def shapes(self, i: int) -> tuple[Any, ...]:
        """The shapes of the parameters of unit `i`."""
        return tuple(shape_of(self.names.tensors[name]) for name in self.units[i].names)

    def _users(self, index: int, operation: Operation) -> set[int]:
        """Units whose parameters the operation takes; of units that share one, the one that is being called."""
        users = set()
        for name in operation.parameters:
            sharing = self.of[name]
            if len(sharing) > 1:
                sharing = [i for i in sharing if self.at_work(i, index)] or sharing
            users.add(sharing[0])
        return users

    def at_work(self, i: int, index: int) -> bool:
        """Whether operation `index` belongs to the first call of unit `i` (of its module, for a layer of an RNN)."""
        return any(start <= index <= end for start, end in self._spans[i])

    def _spans_of(self, unit: Unit) -> list[tuple[int, int]]:
        """First and last operation of the first calls of the modules of `unit`; of a list, of its elements."""
        paths = (unit.path.rpartition(".")[0],) if issubclass(unit.kind, nn.RNNBase) else (unit.path, *unit.merged)
        spans = [self.trace.spans[path] for path in paths if path in self.trace.spans]
        if spans or not issubclass(unit.kind, (nn.ModuleList, nn.ModuleDict)):
            return spans
        return [span for path, span in self.trace.spans.items() if path.rpartition(".")[0] == unit.path]

    def _follow(self, index: int, operation: Operation) -> None:
        users = self._users(index, operation) if operation.parameters else set()
        for i in users:
            self.reached.setdefault(i, self.highest)
        users = users.union(*[self._pending[key] for key in operation.takes if key in self._pending])
        taken = [self._data[key] for key in operation.takes if key in self._data]
        if not taken:
            self._pending.update(dict.fromkeys(operation.gives, frozenset(users)) if users else {})
            return
        incoming, made_by, feeding = taken[0]
        if len(taken) > 1:
            incoming = max(level for level, _, _ in taken)
            made_by = _NONE.union(*(makers for level, makers, _ in taken if level == incoming))
            feeding = _NONE.union(*(layers for _, _, layers in taken))
        outgoing, makers_met = incoming, made_by
        for i in sorted(users, key=self.block, reverse=True):
            if i not in self.first_kind:
                self.first_use[i], self.first_kind[i], self.size[i] = index, operation.kind, operation.size
                # A bias that is a raw parameter belongs to the weight that it is used with.
                self.fed_by[i], self.entry[i] = feeding, incoming if self.matrix[i] else outgoing
            elif incoming > self.entry[i] and self.at_work(i, index):
                self.entry[i], self.reached[i] = incoming, max(incoming, self.reached[i])
            if i not in self.made or self.at_work(i, index):
                self.made[i] = operation.made
            if self.block(i):
                # A second path into a block may be the longer one (cross-attention to an encoder); a second call
                # of the same block does not make it deeper.
                before = self.level.get(i, 0)
                later = incoming > before or (incoming == before and made_by - {i})
                if i not in self.level or (later and self.at_work(i, index)):
                    self.level[i] = incoming + 1
                if self.level[i] >= outgoing:
                    made_by = frozenset({i}) if self.level[i] > outgoing else made_by | {i}
                    outgoing = self.level[i]
        layers = frozenset(i for i in users if self.weighty(i))
        # Data that a block makes at this very time are met in the block, so before it.
        inside = incoming > 0 and any(self.at_work(i, index) for i in makers_met)
        self._wait(operation, layers, incoming - inside, len(taken) > 1)
        source = feeding - self._fed
        if layers:
            # What was used earlier does not follow: a decoder that is fed with its own output.
            latest = max(self.first_use[i] for i in layers)
            self._fed |= {i for i in source - layers if self.first_use[i] <= latest}
            source = layers
        self.highest = max(self.highest, outgoing)
        for key in operation.gives:
            level, makers, _ = self._data.get(key, (0, _NONE, _NONE))
            self._data[key] = (outgoing, made_by, source) if outgoing >= level else (level, makers, source)
            self._pending.pop(key, None)

    def _wait(self, operation: Operation, layers: frozenset[int], incoming: int, meeting: bool) -> None:
        """Note where the result of a layer outside the blocks meets other data: a skip connection, a modulation."""
        waiting = _NONE.union(*(self._alone[key] for key in operation.takes if key in self._alone)) - self.joins.keys()
        if layers or meeting:
            for i in waiting - layers:
                self.joins.setdefault(i, incoming)
            waiting &= layers
        waiting |= {i for i in layers if not self.block(i) and i not in self.joins}
        if waiting:
            self._alone.update(dict.fromkeys(operation.gives, waiting))
