"""The module tree of a network: which containers are lists of blocks, which modules consist of such lists.

A *block list* is a container most of whose weights are in children with several weight matrices each (the blocks); a
*stage* consists mostly of block lists. The shares are in `thresholds.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from .parameters import is_matrix, shape_of, size_of
from .thresholds import (
    BULK_WEIGHT_SHARE,
    COMPOSITE_MATRICES,
    IDENTICAL_SIBLINGS,
    LIST_CHILD_SHARE,
    LIST_WEIGHT_SHARE,
    REPEATED_CHILDREN,
    STAGE_WEIGHT_SHARE,
)

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Structure:
    """Sizes, block lists and stages in the module tree of a model."""

    def __init__(self, model: nn.Module, described: Mapping[str, Mapping[str, int]] | None = None) -> None:
        """Visit every module of `model` once; `described`: path of a module -> depths by its own description."""
        self.model = model
        self.described = {id(model.get_submodule(path)): depths for path, depths in (described or {}).items()}
        kinds = (nn.Embedding, nn.EmbeddingBag)
        modules = list(model.modules())
        self.tables = {id(p) for module in modules if isinstance(module, kinds) for p in module.parameters()}
        self.own: dict[int, list[nn.Parameter]] = {}
        self.children: dict[int, list[nn.Module]] = {}
        self.size: dict[int, int] = {}
        self.matrices: dict[int, int] = {}
        self.shapes: dict[int, tuple[Any, ...]] = {}
        self._measure(model)
        self.list_classes: set[type] = set()
        self.block_classes: set[type] = set()
        self.blocks: set[int] = set()
        self.parallel: set[int] = set()
        self.stems: set[int] = set()
        self.towers: set[int] = set()
        self.classes = Counter(type(module) for module in modules)
        self.repeated: set[tuple[type, str]] = set()
        self.place: dict[int, tuple[type, str]] = {}
        self.various: set[int] = set()
        self.wrappers = set(self._wrappers())
        for module in modules:
            if self.children[id(module)] and id(module) not in self.wrappers:
                self._learn(module)
        self._listed: dict[tuple[int, bool], int] = {}
        around = {*self.wrappers, id(self.core)}
        # of one class all are opened or none: two towers of different sizes
        self.bulk_classes = {type(module) for module in modules if self.is_bulk(module) and id(module) not in around}

    def close(self, parallel: Iterable[int], stems: Iterable[int]) -> None:
        """Treat the modules with these ids as units: blocks of parallel parts, or stems."""
        self.parallel.update(parallel)
        self.stems.update(stems)
        self._listed.clear()

    def open(self, towers: Iterable[int]) -> None:
        """Open the modules with these ids: networks side by side, not blocks."""
        self.towers.update(towers)
        self._listed.clear()

    def _wrappers(self) -> Iterable[int]:
        """Ids of the modules around the network proper: each holds one module with parameters, and none of its own."""
        self.core = self.model
        while (inner := self.inner(self.core)) is not None and self.children[id(inner)]:
            yield id(self.core)
            self.core = inner

    def inner(self, module: nn.Module) -> nn.Module | None:
        """The only child of `module` with parameters, where `module` has none of its own."""
        children = {id(child): child for child in self.children[id(module)] if self.size[id(child)]}
        return next(iter(children.values())) if len(children) == 1 and not self.own[id(module)] else None

    def is_bulk(self, module: nn.Module) -> bool:
        """Whether `module` holds most of the weights."""
        return self.size[id(module)] > BULK_WEIGHT_SHARE * self.size[id(self.model)]

    def is_container(self, module: nn.Module) -> bool:
        """Whether `module` is a container, or a module around one and nothing else."""
        inner = module
        while not isinstance(inner, CONTAINERS) and (held := self.inner(inner)) is not None:
            inner = held
        return isinstance(inner, CONTAINERS)

    def is_layer(self, module: nn.Module) -> bool:
        """Whether `module` is a layer of torch, such as attention, whatever it is made of."""
        torch_own = type(module).__module__.startswith("torch.nn.") and not isinstance(module, CONTAINERS)
        return torch_own and not self.listed(module, False)

    def _measure(self, module: nn.Module) -> None:
        """Number of weights, number of modules that own a weight matrix, and shapes, of `module` and its submodules.

        An embedding table counts as one weight: its size depends on the vocabulary, not on the blocks.
        """
        own = self.own[id(module)] = list(module.parameters(recurse=False))
        children = self.children[id(module)] = list(module.children())
        size = sum([1 if id(parameter) in self.tables else size_of(parameter) for parameter in own])
        matrices = module.num_layers if isinstance(module, nn.RNNBase) else int(any(map(is_matrix, own)))
        shapes: list[Any] = list(map(shape_of, own))
        for child in children:
            if id(child) not in self.size:
                self._measure(child)
            size, matrices = size + self.size[id(child)], matrices + self.matrices[id(child)]
            shapes.append(hash((type(child), self.shapes[id(child)])))
        self.size[id(module)], self.matrices[id(module)], self.shapes[id(module)] = size, matrices, tuple(shapes)

    def _learn(self, module: nn.Module) -> None:
        """Learn classes of lists and of blocks from repetitions among the children of `module`."""
        composite = [child for child in self.children[id(module)] if self.composite(child)]
        if not isinstance(module, CONTAINERS):
            classes = Counter(type(child) for child in composite if not isinstance(child, CONTAINERS))
            if (
                max(classes.values(), default=0) >= REPEATED_CHILDREN or type(module) in classes
            ):  # recursive: a tree of smaller trees
                self.list_classes.add(type(module))
            for name, child in module.named_children():
                if isinstance(child, CONTAINERS):
                    self.place[id(child)] = (type(module), name)
                    kinds = [type(element) for element in self.children[id(child)] if self.composite(element)]
                    if len(set(kinds)) < len(kinds):
                        self.repeated.add((type(module), name))
        elif (
            len({self.build(child) for child in composite}) > 1
        ):  # stages; blocks that are containers have equal builds
            self.various.update(id(child) for child in composite)
        # Children of equal class and shapes are a stack of blocks, even if they hold lists; stages differ in width.
        alike = Counter((type(child), self.shapes[id(child)]) for child in composite)
        for child in composite:
            number = alike[type(child), self.shapes[id(child)]]
            if isinstance(child, (nn.ModuleList, nn.ModuleDict)):  # not called itself: only if its parts differ
                if number > 1 and isinstance(module, CONTAINERS) and self._differ(child):
                    self.blocks.add(id(child))
            elif number >= IDENTICAL_SIBLINGS:
                self.blocks.add(id(child))
                if not isinstance(child, CONTAINERS):
                    self.block_classes.add(type(child))

    def _differ(self, module: nn.Module) -> bool:
        """Whether no two children of `module` are alike: the parts of a block, such as attention and feed-forward."""
        parts = [(type(child), self.shapes[id(child)]) for child in self.children[id(module)] if self.size[id(child)]]
        return len(set(parts)) == len(parts) > 1

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        """The parameters of `module` and its submodules; a shared one may occur twice."""
        found = list(self.own[id(module)])
        for child in self.children[id(module)]:
            found += self.parameters(child)
        return found

    def composite(self, module: nn.Module) -> bool:
        """Whether several modules in `module` own a weight matrix."""
        return self.matrices[id(module)] >= COMPOSITE_MATRICES

    def build(self, module: nn.Module) -> object:
        """The class of `module`; of a container, also the builds of its children."""
        if not isinstance(module, CONTAINERS):
            return type(module)
        return type(module), tuple(self.build(child) for child in self.children[id(module)] if self.size[id(child)])

    def is_block(self, module: nn.Module) -> bool:
        """Whether `module` is a unit: it is repeated identically, or its elements work in parallel."""
        if id(module) in self.wrappers or id(module) in self.towers:
            return False
        return id(module) in self.blocks or id(module) in self.parallel or type(module) in self.block_classes

    def is_list(self, module: nn.Module, in_list: bool) -> bool:
        """Whether `module` is a list of blocks; `in_list`: it belongs to an element of another one."""
        if self.is_block(module):
            return False
        if isinstance(module, nn.RNNBase):
            return module.num_layers > 1 or not in_list  # a single one belongs to the element of a list that holds it
        children = [child for child in self.children[id(module)] if self.size[id(child)]]
        if not children:
            return False
        composite = [child for child in children if self.composite(child)]
        if not isinstance(module, CONTAINERS):
            return type(module) in self.list_classes and bool(composite)
        composite = self.elements(module)
        distinct = len(composite) > 1 and len({type(child) for child in composite}) == len(composite)
        if in_list and distinct and self.place.get(id(module)) not in self.repeated and id(module) not in self.various:
            return False  # the parts of one block, such as attention and feed-forward
        held = sum(self.size[id(child)] for child in composite)
        most = held > LIST_WEIGHT_SHARE * self.size[id(module)]
        return most and len(composite) >= LIST_CHILD_SHARE * len(children)

    def elements(self, module: nn.Module) -> list[nn.Module]:
        """The children of a list that may be blocks: composite ones, and others of the same class as one of these."""
        children = self.children[id(module)]
        classes = {type(child) for child in children if self.composite(child)} - set(CONTAINERS)
        return [
            child
            for child in children
            if self.composite(child) or (self.matrices[id(child)] and type(child) in classes)
        ]

    def listed(self, module: nn.Module, in_list: bool) -> int:
        """How many of the weights of `module` are in lists of blocks."""
        key = id(module), in_list
        if key not in self._listed:
            if self.is_block(module):
                self._listed[key] = 0
            elif self.is_list(module, in_list):
                self._listed[key] = self.size[id(module)]
            else:
                self._listed[key] = sum([self.listed(child, in_list) for child in self.children[id(module)]])
        return self._listed[key]

    def is_uniform(self, module: nn.Module) -> bool:
        """Whether the blocks of a list have equal builds."""
        return len({self.build(child) for child in self.children[id(module)] if self.composite(child)}) == 1

    def is_stage(self, module: nn.Module, in_list: bool) -> bool:
        """Whether most of the weights of `module` are in lists of blocks."""
        return self.listed(module, in_list) > STAGE_WEIGHT_SHARE * self.size[id(module)]

    def opened_stages(self, elements: Iterable[nn.Module], in_stage: bool) -> set[type]:
        """Classes of those `elements` of one list that are stages; beside a plain block in a stage there are none."""
        plain = [child for child in elements if not isinstance(child, CONTAINERS) and self.composite(child)]
        classes = {
            type(child)
            for child in plain
            if not self.is_block(child) and (self.is_list(child, True) or self.is_stage(child, True))
        }
        return set() if in_stage and any(type(child) not in classes for child in plain) else classes
