"""The units of a network, which share a depth: whole blocks of repeated containers, and the modules beside them.

The model, stages and block lists are opened; a module inside that is not opened is a unit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from torch import nn

from .parameters import Names, is_matrix
from .structure import CONTAINERS, Structure
from .thresholds import COMPOSITE_MATRICES, REPEATED_CHILDREN

_NUMBERED = re.compile(r"(?:(?P<owner>.*)\.)?(?P<list>[^.]+?)\.?(?P<number>\d+)")
Within = tuple[tuple[int, int], ...]  # pairs (id of a list, index of the element)


@dataclass(frozen=True)
class Unit:
    """Parameters that share a depth; `block`: it is a block; `kind`: class of the module.

    `build`: equal for composite modules of the same structure; `within`: the lists inside blocks that it belongs to,
    and its element in each; `merged`: paths of the modules that are one block with that at `path`.
    """

    path: str
    names: Sequence[str]
    block: bool
    kind: type
    build: object = None
    within: Within = ()
    merged: Sequence[str] = ()

    @property
    def module(self) -> bool:
        """Whether it is a module (or a layer of an RNN), not a single parameter of an opened module."""
        return self.kind is not nn.Parameter


@dataclass(frozen=True)
class _Place:
    """Where a module is: below a list, an `element` of one, and whether it must be opened or must not."""

    path: str = ""
    in_list: bool = False
    element: bool = False
    within: Within = ()
    as_list: bool = False
    opened: bool | None = None

    def below(self, name: str, **changes: Any) -> _Place:
        """The place of a child."""
        path = f"{self.path}.{name}" if self.path else name
        return _Place(**{"path": path, "in_list": self.in_list, "within": self.within, **changes})


def find_units(structure: Structure, names: Names, flat: bool = False) -> list[Unit]:
    """The units in registration order.

    `flat`: containers and the bulk of the model are opened too, even without blocks, and every layer with a weight
    matrix is a block.
    """
    walk = _Walk(structure, names, flat)
    walk.visit(structure.model, _Place())
    # A unit of the same build as a block is one, too: the middle of a U-Net.
    builds = {unit.build for unit in walk.found if unit.block} - {None}
    return [unit if unit.block or unit.build not in builds else replace(unit, block=True) for unit in walk.found]


def merge_rows(units: Sequence[Unit], names: Names, first_use: Mapping[str, int]) -> list[Unit]:
    """`units`, in which elements of equally long lists that are used in turn (`a.0 b.0 a.1 b.1 …`) are one block each.

    Numbered attributes (`conv1`, `norm1`, …) count as lists.
    """
    starts = [min((first_use[name] for name in unit.names if name in first_use), default=-1) for unit in units]
    lists: dict[tuple[str, str], dict[int, int]] = {}  # (module, name of the list) -> number -> unit
    for i, unit in enumerate(units):
        parts = _NUMBERED.fullmatch(unit.path)
        if parts and starts[i] >= 0 and not issubclass(unit.kind, nn.RNNBase):
            lists.setdefault((parts["owner"] or "", parts["list"]), {})[int(parts["number"])] = i
    used = sorted(start for start in starts if start >= 0)
    rank = {start: place for place, start in enumerate(used)}

    def in_turn(tables: Sequence[Mapping[int, int]]) -> bool:
        rows = [sorted(rank[starts[table[number]]] for table in tables) for number in sorted(tables[0])]
        together = all(row[-1] - row[0] == len(row) - 1 for row in rows)
        return together and all(before[-1] < after[0] for before, after in pairwise(rows))

    clusters: list[tuple[str, list[dict[int, int]]]] = []
    for (owner, _), table in sorted(lists.items(), key=lambda item: starts[item[1][min(item[1])]]):
        for other, tables in clusters if len(table) >= REPEATED_CHILDREN else ():
            if other == owner and tables[0].keys() == table.keys() and in_turn([*tables, table]):
                tables.append(table)
                break
        else:
            clusters.append((owner, [table]))
    merged = list(units)
    for _, tables in clusters:
        for number in tables[0] if len(tables) > 1 else ():
            row = [units[i] for i in sorted(table[number] for table in tables)]
            row.sort(key=lambda unit: (unit.block, unit.module), reverse=True)
            matrices = sum(unit.module and any(is_matrix(names.tensors[name]) for name in unit.names) for unit in row)
            first = merged.index(row[0])
            merged[first] = replace(
                row[0],
                names=tuple(dict.fromkeys(name for unit in row for name in unit.names)),
                block=matrices >= COMPOSITE_MATRICES or any(unit.block for unit in row),
                build=tuple((unit.kind, unit.build) for unit in row),
                merged=tuple(unit.path for unit in row[1:]),
            )
            merged = [unit for unit in merged if unit not in row[1:]]
    return merged


class _Walk:
    """Traverses the module tree and collects units."""

    def __init__(self, structure: Structure, names: Names, flat: bool) -> None:
        self.structure, self.names, self.flat = structure, names, flat
        self.found: list[Unit] = []
        self.seen: set[int] = set()

    def visit(self, module: nn.Module, place: _Place) -> None:
        """Add `module` as a unit, or open it."""
        if id(module) in self.seen:
            return
        self.seen.add(id(module))
        if isinstance(module, nn.RNNBase):
            for layer in range(module.num_layers):
                pattern = re.compile(rf"_l{layer}(_|\Z)")
                own = [p for n, p in module.named_parameters() if pattern.search(n)]
                self._add(f"{place.path}.{layer}", own, block=True, kind=type(module), within=place.within)
        elif id(module) in self.structure.described:
            self._add_described(module, place)
        elif self._opens(module, place):
            self._open(module, place)
        else:
            tree = self.structure
            composite, parameters = tree.composite(module), tree.parameters(module)
            whole = module is not tree.model and tree.is_block(module)
            cell = any(isinstance(part, (nn.RNNBase, nn.RNNCellBase)) for part in module.modules())
            block = place.element or cell or (whole and composite) or (self.flat and any(map(is_matrix, parameters)))
            block = block and id(module) not in tree.stems
            build = tree.build(module) if composite else None
            self._add(place.path, parameters, block=block, kind=type(module), build=build, within=place.within)

    def _add_described(self, module: nn.Module, place: _Place) -> None:
        """A unit for each depth in the own description of `module`, and for each layer that it misses."""
        depths = self.structure.described[id(module)]
        by_depth: dict[int, list[nn.Parameter]] = {}
        for name, depth in depths.items():
            by_depth.setdefault(depth, []).append(self.names.tensors[name])
        for depth, parameters in sorted(by_depth.items()):
            self._add(place.path, parameters, block=depth > 0, kind=type(module), within=place.within)
        for name, layer in module.named_modules():
            rest = [p for p in layer.parameters(recurse=False) if self.names.first[id(p)] not in depths]
            self._add(place.below(name).path, rest, block=False, kind=type(layer))

    def _add(self, path: str, parameters: Sequence[nn.Parameter], **of_unit: Any) -> None:
        own = dict.fromkeys(self.names.first[id(parameter)] for parameter in parameters)
        if own:
            self.found.append(Unit(path, tuple(own), **of_unit))

    def _opens(self, module: nn.Module, place: _Place) -> bool:
        tree = self.structure
        if module is tree.core:
            leaf = not any(tree.size[id(child)] for child in tree.children[id(module)])
            return not (leaf and type(module).__module__.startswith("torch.nn."))
        if id(module) in tree.wrappers or id(module) in tree.towers:
            return True
        if tree.is_block(module) or id(module) in tree.stems:
            return False
        if place.opened is not None:
            return place.opened
        in_list = place.in_list or place.element
        large = (
            type(module) in tree.bulk_classes if self.flat else tree.is_bulk(module) and tree.listed(module, False) > 0
        )
        alone = self.flat and (tree.is_container(module) or tree.classes[type(module)] == 1)
        bulk = tree.composite(module) and not tree.is_layer(module) and ((large and not in_list) or alone)
        return (
            bulk or place.as_list or isinstance(module, (nn.ModuleList, nn.ParameterList, nn.ParameterDict))
            or tree.is_list(module, place.in_list) or tree.is_stage(module, in_list)
        )  # fmt: skip

    def _open(self, module: nn.Module, place: _Place) -> None:
        tree = self.structure
        for name, parameter in module.named_parameters(recurse=False):
            self._add(place.below(name).path, [parameter], block=False, kind=nn.Parameter)
        if id(module) in tree.wrappers or (not tree.is_list(module, place.in_list) and not place.as_list):
            children = tree.children[id(module)]
            # In a stage, modules beside its list of blocks are not opened, such as a composite down-sampling.
            block_lists = [c for c in children if place.element and isinstance(c, CONTAINERS) and tree.is_list(c, True)]
            alike = [child for child in block_lists if tree.is_uniform(child)]
            kept = {id(child) for child in alike or block_lists}
            for name, child in module.named_children():
                closed = bool(kept) and id(child) not in kept
                self.visit(child, place.below(name, opened=False if closed else None))
            return
        elements = tree.elements(module)
        if place.as_list and not any(map(tree.composite, elements)):
            elements = [child for child in tree.children[id(module)] if tree.matrices[id(child)]]
        containers = [child for child in elements if isinstance(child, CONTAINERS)]
        lists = any(tree.is_list(child, True) for child in containers)
        stages = tree.opened_stages(elements, place.in_list)
        chosen = {id(child) for child in elements}
        for i, (name, child) in enumerate(module.named_children()):
            # A container beside lists of blocks is a list of blocks, even if each has a single weight matrix.
            as_list = lists and isinstance(child, CONTAINERS) and any(
                tree.children[id(part)] for part in tree.children[id(child)] if tree.matrices[id(part)]
            )  # fmt: skip
            element = id(child) in chosen
            within = (*place.within, (id(module), i)) if element and place.in_list else place.within
            opened = None
            if element and not isinstance(child, CONTAINERS):
                opened = type(child) in stages
            self.visit(
                child, place.below(name, in_list=True, element=element, within=within, as_list=as_list, opened=opened)
            )
