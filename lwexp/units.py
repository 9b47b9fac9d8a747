"""The units of a network: blocks of repeated containers, kept whole, and what stands beside them.

A *block list* is a container most of whose weights are in children with several weight matrices each (the blocks); a
*stage* is made mostly of block lists. The model, stages and block lists are opened; what is found inside and not opened
is a unit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from .parameters import Names, is_matrix, size_of

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
Within = tuple[tuple[int, int], ...]  # pairs (id of a list, index of the element)


@dataclass(frozen=True)
class Unit:
    """Parameters that share a depth; `block`: it is one of a list of blocks; `kind`: class of the module.

    `build`: equal for modules of several layers that are built alike; `within`: which element of which lists inside
    blocks it belongs to.
    """

    path: str
    names: Sequence[str]
    block: bool
    kind: type
    build: object = None
    within: Within = ()

    @property
    def module(self) -> bool:
        """Whether it is a module (or a layer of an RNN), not a parameter of a module that was opened."""
        return self.kind is not nn.Parameter


class Structure:
    """What the module tree of a model tells: sizes, block lists, stages."""

    def __init__(self, model: nn.Module) -> None:
        """Look at every module of `model` once."""
        self.model = model
        self.size: dict[int, int] = {}
        self.matrices: dict[int, int] = {}
        self.shapes: dict[int, tuple[Any, ...]] = {}
        self._measure(model)
        self.list_classes: set[type] = set()
        self.block_classes: set[type] = set()
        self.blocks: set[int] = set()
        self.parallel: set[int] = set()
        self.repeated: set[tuple[type, str]] = set()
        self.place: dict[int, tuple[type, str]] = {}
        for module in model.modules():
            self._learn(module)
        self._listed: dict[int, int] = {}

    def close(self, parallel: Iterable[int]) -> None:
        """Keep the modules with these ids whole."""
        self.parallel.update(parallel)
        self._listed.clear()

    def _measure(self, module: nn.Module) -> None:
        """Number of weights, of modules that own a weight matrix, and all shapes, of `module` and everything in it."""
        own = list(module.parameters(recurse=False))
        size = sum(size_of(parameter) for parameter in own)
        matrices = module.num_layers if isinstance(module, nn.RNNBase) else int(any(map(is_matrix, own)))
        shapes: list[Any] = [None if isinstance(p, UninitializedParameter) else tuple(p.shape) for p in own]
        for child in module.children():
            if id(child) not in self.size:
                self._measure(child)
            size, matrices = size + self.size[id(child)], matrices + self.matrices[id(child)]
            shapes.append(hash((type(child), self.shapes[id(child)])))
        self.size[id(module)], self.matrices[id(module)], self.shapes[id(module)] = size, matrices, tuple(shapes)

    def _learn(self, module: nn.Module) -> None:
        """Classes that hold blocks, and classes that are blocks, by the repetitions among the children of `module`."""
        composite = [child for child in module.children() if self.composite(child)]
        if not isinstance(module, CONTAINERS):
            classes = Counter(type(child) for child in composite if not isinstance(child, CONTAINERS))
            if max(classes.values(), default=0) >= 3 or type(module) in classes:  # a tree holds smaller trees
                self.list_classes.add(type(module))
            for name, child in module.named_children():
                if isinstance(child, CONTAINERS):
                    self.place[id(child)] = (type(module), name)
                    kinds = [type(element) for element in child.children() if self.composite(element)]
                    if len(set(kinds)) < len(kinds):
                        self.repeated.add((type(module), name))
        # Three alike, to the last shape, are a stack of blocks, whatever lists they hold; stages differ in width.
        alike = Counter((type(child), self.shapes[id(child)]) for child in composite)
        for child in composite:
            if alike[type(child), self.shapes[id(child)]] >= 3:
                self.blocks.add(id(child))
                if not isinstance(child, CONTAINERS):
                    self.block_classes.add(type(child))

    def composite(self, module: nn.Module) -> bool:
        """Whether several modules of `module` own a weight matrix."""
        return self.matrices[id(module)] >= 2

    def build(self, module: nn.Module) -> object:
        """What `module` is: its class, of a container also what that holds."""
        if not isinstance(module, CONTAINERS):
            return type(module)
        return type(module), tuple(self.build(child) for child in module.children() if self.size[id(child)])

    def is_block(self, module: nn.Module) -> bool:
        """Whether `module` stays whole: it is repeated as it is, or what it lists works side by side."""
        return id(module) in self.blocks or id(module) in self.parallel or type(module) in self.block_classes

    def is_list(self, module: nn.Module, in_list: bool) -> bool:
        """Whether `module` is a list of blocks; `in_list`: it belongs to an element of another one."""
        if self.is_block(module):
            return False
        if isinstance(module, nn.RNNBase):
            return True
        children = [child for child in module.children() if self.size[id(child)]]
        composite = [child for child in children if self.composite(child)]
        if not isinstance(module, CONTAINERS):
            return type(module) in self.list_classes and bool(composite)
        distinct = len(composite) > 1 and len({type(child) for child in composite}) == len(composite)
        if in_list and distinct and self.place.get(id(module)) not in self.repeated:
            return False  # the parts of one block, such as attention and feed-forward
        held = sum(self.size[id(child)] for child in composite)
        return 2 * held > self.size[id(module)] and 2 * len(composite) >= len(children)

    def listed(self, module: nn.Module, in_list: bool) -> int:
        """How many of the weights of `module` are in lists of blocks."""
        if id(module) not in self._listed:
            if self.is_block(module):
                self._listed[id(module)] = 0
            elif self.is_list(module, in_list):
                self._listed[id(module)] = self.size[id(module)]
            else:
                self._listed[id(module)] = sum(self.listed(child, in_list) for child in module.children())
        return self._listed[id(module)]

    def units(self, names: Names, flat: bool = False) -> list[Unit]:
        """The units in registration order. `flat`: containers and the bulk of the model are opened too, however few
        blocks they have, and every layer with a weight matrix is a block."""
        found: list[Unit] = []
        seen: set[int] = set()

        def add(path: str, parameters: Sequence[nn.Parameter], **of_unit: Any) -> None:
            own = dict.fromkeys(names.first[id(parameter)] for parameter in parameters)
            if own:
                found.append(Unit(path, tuple(own), **of_unit))

        def visit(module: nn.Module, path: str, in_list: bool, element: bool, within: Within) -> None:
            if id(module) in seen:
                return
            seen.add(id(module))
            if isinstance(module, nn.RNNBase):
                for layer in range(module.num_layers):
                    pattern = re.compile(rf"_l{layer}(_|\Z)")
                    own = [p for n, p in module.named_parameters() if pattern.search(n)]
                    add(f"{path}.{layer}", own, block=True, kind=type(module), within=within)
                return
            is_list = self.is_list(module, in_list)
            whole = module is not self.model and self.is_block(module)
            leaf = not any(self.size[id(child)] for child in module.children())
            large = 2 * self.size[id(module)] > self.size[id(self.model)]
            bulk = flat and self.composite(module) and (isinstance(module, CONTAINERS) or large)
            stage = 2 * self.listed(module, in_list or element) > self.size[id(module)]
            root = module is self.model and not (leaf and type(module).__module__.startswith("torch.nn."))
            if root or (not whole and (is_list or stage or bulk or isinstance(module, nn.ModuleList))):
                for name, parameter in module.named_parameters(recurse=False):
                    add(f"{path}.{name}" if path else name, [parameter], block=False, kind=nn.Parameter)
                # A container beside containers of blocks holds a block, though that may have a single weight matrix.
                blocks = [child for child in module.children() if is_list and self.composite(child)]
                stages = tuple({type(child) for child in blocks if isinstance(child, CONTAINERS)})
                for i, (name, child) in enumerate(module.named_children()):
                    chosen = is_list and (self.composite(child) or (self.matrices[id(child)] and type(child) in stages))
                    inner = (*within, (id(module), i)) if chosen and in_list else within
                    visit(child, f"{path}.{name}" if path else name, in_list or is_list, bool(chosen), inner)
            else:
                composite, parameters = self.composite(module), list(module.parameters())
                block = element or (whole and composite) or (flat and any(map(is_matrix, parameters)))
                build = self.build(module) if composite else None
                add(path, parameters, block=block, kind=type(module), build=build, within=within)

        visit(self.model, "", False, False, ())
        # What is built like a block is one, wherever it stands: the middle of a U-Net.
        builds = {unit.build for unit in found if unit.block} - {None}
        return [replace(unit, block=unit.block or unit.build in builds) for unit in found]
