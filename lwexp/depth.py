"""The depth of every parameter of any network: 0 for the stem, one more for each block, the head last.

Three sources, best first: the model's own description (timm's `group_matcher`), the order in which one forward pass
first uses the parameters, and, as a last resort, the order in which the modules were registered. The last two order
*units* (blocks of repeated containers, kept whole), never raw parameters.

A *block list* is a container most of whose weights are in children with several weight matrices each (the blocks); a
*stage* is made mostly of block lists. The model, stages and block lists are opened; what is found inside and not opened
is a unit.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from .errors import ConfigError, UnknownNameError
from .execution import ForwardError, Operation, Trace, trace

_ANOTHER_INPUT = "give one as example_input (a tensor, tuple or mapping), or data that fit the model"
SOURCES = ("auto", "timm", "execution", "registration")


@dataclass(frozen=True)
class Depths:
    """`by_name`: the depth of every name of `model.named_parameters()`; 0 = stem, no gaps, the head last.

    `source` is what the depths come from: "timm", "execution" or "registration". `notes` are lines for a reader:
    parameters that the model's own description misses and where they were put, why a source was not the first choice,
    parameters that are never used.
    """

    by_name: Mapping[str, int]
    source: str
    notes: tuple[str, ...]


def find_depths(model: nn.Module, source: str = "auto", example_input: object | None = None) -> Depths:
    """The depth of every parameter of `model`, which stays as it is; works on the CPU, on CUDA and on the meta device.

    `source`: "timm" (the model's `group_matcher`), "execution", "registration", or "auto": the model's own description
    where it has one, else execution, else registration. `example_input`: what the forward pass is tried with, a
    tensor, a tuple of positional or a mapping of keyword arguments; null: guessed.

    Raises `UnknownNameError` for another source, `ConfigError` where the source cannot tell.
    """
    if source not in SOURCES:
        raise UnknownNameError("grouping.source", source, SOURCES, "no such source of depths")
    inner, prefix = _unwrapped(model)
    notes: list[str] = []
    names = _Names.of(inner)
    if source in ("auto", "timm"):
        described, why = _described(inner, names)
        if described is not None:
            return _renamed(_from_description(inner, names, described, example_input), prefix, model)
        if source == "timm":
            raise ConfigError("grouping.source", source, f"{why}; take auto, execution or registration")
        notes = [why] if hasattr(inner, "group_matcher") else []
    traced = None
    if source in ("auto", "execution"):
        try:
            traced = trace(inner, names.first, example_input)
        except ForwardError as error:
            if source == "execution":
                why = f"no forward pass, {error}; {_ANOTHER_INPUT}"
                raise ConfigError("grouping.source", source, why) from None
            notes.append(f"no forward pass got through, {error}; {_ANOTHER_INPUT}")
    by_name, unused = _depths_of_units(_Structure(inner), names, traced)
    for depth in sorted({by_name[name] for name in unused}):
        shown = _shown(name for name in unused if by_name[name] == depth)
        notes.append(f"never used in the forward pass, so with its like or its neighbour: {shown} (depth {depth})")
    if traced is None:
        notes.append("depth is the order in which modules were registered, which may not be the order of their use")
    return _renamed(Depths(by_name, "registration" if traced is None else "execution", tuple(notes)), prefix, model)


# --- names ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Names:
    """`first`: id of a parameter -> its first name; `every`: first name -> all names; `order`: first name -> index."""

    first: Mapping[int, str]
    every: Mapping[str, list[str]]
    order: Mapping[str, int]
    tensors: Mapping[str, nn.Parameter]

    @classmethod
    def of(cls, model: nn.Module) -> _Names:
        first: dict[int, str] = {}
        every: dict[str, list[str]] = {}
        tensors: dict[str, nn.Parameter] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            own = first.setdefault(id(parameter), name)
            every.setdefault(own, []).append(name)
            tensors.setdefault(own, parameter)
        return cls(first, every, {name: i for i, name in enumerate(every)}, tensors)


def _unwrapped(model: nn.Module) -> tuple[nn.Module, str]:
    """The network inside `torch.compile`, `DataParallel`, DDP and `AveragedModel`, and the prefix of its names.

    The classes are told by name, so that `torch._dynamo` need not be imported.
    """
    prefix = ""
    while True:
        children = dict(model.named_children())
        kind = type(model).__name__
        if kind == "OptimizedModule" and "_orig_mod" in children:
            model, prefix = children["_orig_mod"], f"{prefix}_orig_mod."
        elif kind in ("DataParallel", "DistributedDataParallel", "AveragedModel") and "module" in children:
            model, prefix = children["module"], f"{prefix}module."
        else:
            return model, prefix


def _renamed(depths: Depths, prefix: str, model: nn.Module) -> Depths:
    """`depths` under the names that `model` itself uses, in its order."""
    by_name = {name: depths.by_name[name.removeprefix(prefix)] for name, _ in model.named_parameters()}
    return Depths(by_name, depths.source, depths.notes)


def _shown(names: Iterable[str], limit: int = 6) -> str:
    """`names` for a note: parameters of one module together, a long list cut."""
    modules: dict[str, list[str]] = {}
    for name in names:
        module, _, last = name.rpartition(".")
        modules.setdefault(module, []).append(last)
    texts = []
    for module, lasts in modules.items():
        dotted = f"{module}." if module else ""
        texts.append(f"{dotted}{lasts[0]}" if len(lasts) == 1 else f"{dotted}{{{','.join(lasts)}}}")
    return ", ".join(texts[:limit]) + (f", … ({len(texts)} in all)" if len(texts) > limit else "")


# --- the model's own description -----------------------------------------------------------------------------------


def _described(model: nn.Module, names: _Names) -> tuple[dict[str, int] | None, str]:
    """Depth by first name as timm's `group_matcher` has it, without those it misses; else null and why not."""
    matcher_of = getattr(model, "group_matcher", None)
    if not callable(matcher_of):
        return None, "the model has no group_matcher"
    try:
        matcher = matcher_of(coarse=False)
        # A compiled or parametrized module inside the model must not hide its parameters from the patterns.
        plain = {name: name.replace("_orig_mod.", "") for tied in names.every.values() for name in tied}
        found = {plain_name for plain_name in plain.values() if _matched(matcher, plain_name)}
        from timm.models._manipulate import group_with_matcher

        depth: dict[str, int] = group_with_matcher(((name, None) for name in found), matcher, reverse=True)
    except Exception as error:  # whatever a model's own description may raise: reported, and another source is taken
        return None, f"the model's group_matcher fails ({type(error).__name__}: {error})"
    described = {}
    for name, tied in names.every.items():
        depths = [depth[plain[other]] for other in tied if plain[other] in depth]
        if depths:
            described[name] = min(depths)  # a shared tensor is as deep as its first use
    if not described:
        return None, "the model's group_matcher matches none of its parameters"
    return _consecutive(described), ""


def _matched(matcher: Any, name: str) -> bool:
    """Whether timm's `matcher` (patterns by group, or a function of the name) says anything about `name`."""
    if isinstance(matcher, Mapping):
        for spec in matcher.values():
            patterns = [] if spec is None else [spec] if isinstance(spec, str) else [pattern for pattern, _ in spec]
            if any(re.match(pattern, name) for pattern in patterns):
                return True
        return False
    ordinal = matcher(name)
    first = next(iter(ordinal), None) if isinstance(ordinal, Iterable) else ordinal
    return first is not None and first != float("inf")


def _from_description(
    model: nn.Module, names: _Names, described: Mapping[str, int], example_input: object | None
) -> Depths:
    """`described` completed: the classifier at the head, what else was missed where it is used."""
    head = max(described.values()) + 1
    classifier = _classifier(model, names)
    missed = [name for name in names.every if name not in described]
    others = [name for name in missed if name not in classifier]
    by_name = dict(described) | {name: head for name in missed if name in classifier}
    notes: list[str] = []
    if others:
        used: Mapping[str, int] = {}
        try:
            used = trace(model, names.first, example_input).first_use
        except ForwardError as error:
            notes.append(f"no forward pass got through, {error}; {_ANOTHER_INPUT}")
        unused = [name for name in others if name not in used]
        placed = _placed([name for name in others if name in used], described, head, names, used)
        placed |= _placed(unused, described, head, names, names.order)
        by_name |= placed
        for depth, never in sorted({(placed[name], name not in used) for name in others}):
            shown = _shown(name for name in others if placed[name] == depth and (name not in used) == never)
            verb = "registered" if never else "first used"
            where = "after the last described block, so with the head" if depth == head else "there"
            if depth == 0:
                where = "before the first described block"
            extra = " (never used in the forward pass)" if never and used else ""
            notes.append(f"the model's own description misses {shown}{extra}: {verb} {where} (depth {depth})")
    return Depths(_consecutive(by_name), "timm", tuple(notes))


def _classifier(model: nn.Module, names: _Names) -> set[str]:
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


def _placed(
    missed: Iterable[str], described: Mapping[str, int], head: int, names: _Names, order: Mapping[str, int]
) -> dict[str, int]:
    """Depth of each of `missed` from its neighbours in `order` (first name -> index; smaller is earlier).

    Before the first block: 0. After the last described parameter of the last block: `head`. In between: the depth of
    the block that follows; of the one before, where both are the same or the parameter is a lone norm's.
    """
    known = sorted((order[name], depth) for name, depth in described.items() if name in order)
    indices = [index for index, _ in known]
    # `deepest[i]`: the block reached before known[i]; `following[i]`: the first at or after i that is at least as deep.
    # Less deep ones, such as a class token used late, tell nothing about the place.
    deepest, following, ahead = [0], [], 0
    for _, depth in known:
        deepest.append(max(deepest[-1], depth))
    for i, current in enumerate(deepest):
        ahead = max(ahead, i)
        while ahead < len(known) and known[ahead][1] < current:
            ahead += 1
        following.append(known[ahead][1] if ahead < len(known) else None)
    layers = {name.rpartition(".")[0] for name, tensor in names.tensors.items() if _is_matrix(tensor)}
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


def _consecutive(depths: Mapping[str, int]) -> dict[str, int]:
    """`depths` without gaps, from 0."""
    ranks = {depth: rank for rank, depth in enumerate(sorted(set(depths.values())))}
    return {name: ranks[depth] for name, depth in depths.items()}


# --- units ---------------------------------------------------------------------------------------------------------

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_Within = tuple[tuple[int, int], ...]  # pairs (id of a list, index of the element)


@dataclass(frozen=True)
class _Unit:
    """Parameters that share a depth; `block`: it is one of a list of blocks; `kind`: class of the module.

    `build`: equal for modules of several layers that are built alike; `within`: which element of which lists inside
    blocks it belongs to.
    """

    path: str
    names: Sequence[str]
    block: bool
    kind: type
    build: object = None
    within: _Within = ()

    @property
    def module(self) -> bool:
        """Whether it is a module (or a layer of an RNN), not a parameter of a module that was opened."""
        return self.kind is not nn.Parameter


class _Structure:
    """What the module tree of a model tells: sizes, block lists, stages."""

    def __init__(self, model: nn.Module) -> None:
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
        size = sum(_size(parameter) for parameter in own)
        matrices = module.num_layers if isinstance(module, nn.RNNBase) else int(any(map(_is_matrix, own)))
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
        if not isinstance(module, _CONTAINERS):
            classes = Counter(type(child) for child in composite if not isinstance(child, _CONTAINERS))
            if max(classes.values(), default=0) >= 3 or type(module) in classes:  # a tree holds smaller trees
                self.list_classes.add(type(module))
            for name, child in module.named_children():
                if isinstance(child, _CONTAINERS):
                    self.place[id(child)] = (type(module), name)
                    kinds = [type(element) for element in child.children() if self.composite(element)]
                    if len(set(kinds)) < len(kinds):
                        self.repeated.add((type(module), name))
        # Three alike, to the last shape, are a stack of blocks, whatever lists they hold; stages differ in width.
        alike = Counter((type(child), self.shapes[id(child)]) for child in composite)
        for child in composite:
            if alike[type(child), self.shapes[id(child)]] >= 3:
                self.blocks.add(id(child))
                if not isinstance(child, _CONTAINERS):
                    self.block_classes.add(type(child))

    def composite(self, module: nn.Module) -> bool:
        """Whether several modules of `module` own a weight matrix."""
        return self.matrices[id(module)] >= 2

    def build(self, module: nn.Module) -> object:
        """What `module` is: its class, of a container also what that holds."""
        if not isinstance(module, _CONTAINERS):
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
        if not isinstance(module, _CONTAINERS):
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

    def units(self, names: _Names, flat: bool = False) -> list[_Unit]:
        """The units in registration order. `flat`: containers and the bulk of the model are opened too, however few
        blocks they have, and every layer with a weight matrix is a block."""
        found: list[_Unit] = []
        seen: set[int] = set()

        def add(path: str, parameters: Sequence[nn.Parameter], **of_unit: Any) -> None:
            own = dict.fromkeys(names.first[id(parameter)] for parameter in parameters)
            if own:
                found.append(_Unit(path, tuple(own), **of_unit))

        def visit(module: nn.Module, path: str, in_list: bool, element: bool, within: _Within) -> None:
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
            bulk = flat and self.composite(module) and (isinstance(module, _CONTAINERS) or large)
            stage = 2 * self.listed(module, in_list or element) > self.size[id(module)]
            root = module is self.model and not (leaf and type(module).__module__.startswith("torch.nn."))
            if root or (not whole and (is_list or stage or bulk or isinstance(module, nn.ModuleList))):
                for name, parameter in module.named_parameters(recurse=False):
                    add(f"{path}.{name}" if path else name, [parameter], block=False, kind=nn.Parameter)
                # A container beside containers of blocks holds a block, though that may have a single weight matrix.
                blocks = [child for child in module.children() if is_list and self.composite(child)]
                stages = tuple({type(child) for child in blocks if isinstance(child, _CONTAINERS)})
                for i, (name, child) in enumerate(module.named_children()):
                    chosen = is_list and (self.composite(child) or (self.matrices[id(child)] and type(child) in stages))
                    inner = (*within, (id(module), i)) if chosen and in_list else within
                    visit(child, f"{path}.{name}" if path else name, in_list or is_list, bool(chosen), inner)
            else:
                composite, parameters = self.composite(module), list(module.parameters())
                block = element or (whole and composite) or (flat and any(map(_is_matrix, parameters)))
                build = self.build(module) if composite else None
                add(path, parameters, block=block, kind=type(module), build=build, within=within)

        visit(self.model, "", False, False, ())
        # What is built like a block is one, wherever it stands: the middle of a U-Net.
        builds = {unit.build for unit in found if unit.block} - {None}
        return [replace(unit, block=unit.block or unit.build in builds) for unit in found]


def _size(parameter: nn.Parameter) -> int:
    return 1 if isinstance(parameter, UninitializedParameter) else parameter.numel()


def _is_matrix(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, UninitializedParameter) or parameter.dim() >= 2


def _depths_of_units(structure: _Structure, names: _Names, trace: Trace | None) -> tuple[dict[str, int], list[str]]:
    """Depth by first name, and the names that `trace` never uses; without a trace, units follow as registered."""
    flat = False
    while True:
        units = structure.units(names, flat)
        flow = _Flow(units, names, trace or _chain(units, names), flat)
        if parallel := flow.parallel() - structure.parallel:
            structure.close(parallel)
        elif not flat and flow.few_blocks():
            flat = True
        else:
            break
    depth = flow.depths()
    unused = [] if trace is None else [name for name in names.every if name not in trace.first_use]
    by_name: dict[str, int] = {}
    for i, unit in enumerate(units):
        for name in unit.names if i in depth else ():
            by_name[name] = min(depth[i], by_name.get(name, depth[i]))  # a shared tensor: where it is used first
    previous = 0
    outputs = {flow.shapes(i)[-1:] for i in flow.heads}
    for i, unit in enumerate(units):  # what is never used: beside its like, else beside what was registered before it
        if i not in depth:
            like = flow.weighty(i) and flow.shapes(i)[-1:] in outputs
            depth[i] = max(depth.values(), default=0) if like else previous
            for name in unit.names:
                by_name.setdefault(name, depth[i])
        previous = depth[i]
    return _consecutive(by_name), unused


def _chain(units: Sequence[_Unit], names: _Names) -> Trace:
    """The trace of a network that uses its units one after the other, as they are registered; the last ones that are
    alike (two heads) side by side."""
    trace, place = Trace(inputs=frozenset([0])), 0
    shapes = [[tuple(names.tensors[name].shape) for name in unit.names if _size(names.tensors[name])] for unit in units]
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


class _Flow:
    """Data flowing through units: which block comes after how many others on the longest way from the input.

    `level[i]` is that number for a block (1 for the first), `entry[i]` the level of the data that first meet another
    unit, `size[i]` the number of their elements, `reached[i]` the highest level of all when the unit is first touched,
    `heads` the output layers: units with a weight matrix that reach an output and no other such unit.
    """

    def __init__(self, units: Sequence[_Unit], names: _Names, trace: Trace, flat: bool) -> None:
        self.units, self.names, self.trace, self.flat = units, names, trace, flat
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
        """Whether unit `i` is a layer with a weight matrix, not a norm, a token or a table."""
        return self._matrix(i) and (self.units[i].module or self.first_kind.get(i) == "multiply")

    def shapes(self, i: int) -> tuple[Any, ...]:
        """The shapes of the parameters of unit `i`."""
        found = [self.names.tensors[name] for name in self.units[i].names]
        return tuple(None if isinstance(p, UninitializedParameter) else tuple(p.shape) for p in found)

    def _users(self, index: int, operation: Operation) -> set[int]:
        """Units that take part in the operation by their own parameters; of units that share one, the one at work."""
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
        level = dict.fromkeys(self.trace.inputs, 0)  # of the data in a storage
        makers = dict.fromkeys(self.trace.inputs, frozenset[int]())  # the blocks that brought it to that level
        pending: dict[int, frozenset[int]] = {}  # units that something was computed from without any data
        behind: dict[int, frozenset[int]] = {}  # layers that could be output layers
        highest = 0
        for index, operation in enumerate(self.trace.operations):
            users = self._users(index, operation)
            for i in users:
                self.reached.setdefault(i, highest)
            users = users.union(*(pending[key] for key in operation.takes if key in pending))
            levels = [level[key] for key in operation.takes if key in level]
            if not levels:
                pending.update(dict.fromkeys(operation.gives, frozenset(users)) if users else {})
                continue
            incoming = outgoing = max(levels)
            made_by = frozenset().union(*(makers[key] for key in operation.takes if level.get(key) == incoming))
            source = frozenset().union(*(behind[key] for key in operation.takes if key in behind)) - self.fed
            layers = set()
            for i in sorted(users):
                if i not in self.first_kind:
                    self.first_kind[i], self.fed_by[i], self.entry[i] = operation.kind, source, incoming
                    self.size[i] = operation.size
                if self.units[i].block:
                    # A second way into a block may be the longer one (a decoder's look at the encoder); a second call
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
                if outgoing >= level.get(key, 0):
                    level[key], makers[key] = outgoing, made_by
                behind[key] = source
                pending.pop(key, None)
        ends = frozenset().union(*(behind[key] for key in self.trace.outputs if key in behind)) - self.fed
        self.heads = self._heads(ends)

    def few_blocks(self) -> bool:
        """Whether blocks are few, and hold less than half of the weights besides embeddings and the head."""
        if len(set(self.level.values())) > 3:
            return False
        size = [sum(_size(self.names.tensors[name]) for name in unit.names) for unit in self.units]
        aside = {i for i, unit in enumerate(self.units) if issubclass(unit.kind, nn.Embedding)} | self.heads
        rest = sum(size[i] for i in range(len(size)) if i not in aside)
        return 2 * sum(size[i] for i, unit in enumerate(self.units) if unit.block and i not in aside) < rest

    def parallel(self) -> set[int]:
        """Ids of lists inside blocks whose elements do not follow one another: not blocks, but parts of one."""
        starts: dict[int, dict[int, int]] = {}
        for i, level in self.level.items():
            for owner, element in self.units[i].within:
                first = starts.setdefault(owner, {})
                first[element] = min(level, first.get(element, level))
        return {
            owner for owner, first in starts.items() if len(first) > 1 and 2 * len(set(first.values())) <= len(first)
        }

    def _heads(self, ends: frozenset[int]) -> set[int]:
        heads = {i for i in ends if self.flat or not self.units[i].block}
        if not heads and len(ends) == 1:
            # A block at the end is the head where it is of a kind of its own, such as a classifier of two layers.
            (end,) = ends
            build = self.units[end].build
            if build and not any(unit.block and unit.build == build for i, unit in enumerate(self.units) if i != end):
                return {end}
        return heads

    def depths(self) -> dict[int, int]:
        """Depth of every unit that the trace uses; there may be gaps."""
        last = max((level for i, level in self.level.items() if i not in self.heads), default=0)
        # Tokens and position tables are inputs, even where they join late; a network that concatenates (or adds) such
        # at several levels has them for each of its stages.
        inputs = {i for i, unit in enumerate(self.units) if not unit.module and self._matrix(i) and not self.weighty(i)}
        places = {(self.first_kind[i] == "join", self.entry[i]) for i in inputs if i in self.entry}
        at_one_place = Counter(joins for joins, _ in places)
        blocks_in = Counter(stage for unit in self.units if unit.block for stage in _ancestors(unit.path))
        at_end = max((self.size[i] for i, level in self.level.items() if level == last), default=0)
        depths = {}
        for i, reached in self.reached.items():
            unit, place = self.units[i], min(reached, self.entry.get(i, reached))
            in_stage = 0 < blocks_in[unit.path.rpartition(".")[0]] < blocks_in[""]
            # What comes after pooling is the head's, like what comes after the head.
            pooled = place == last > 0 and bool(self.heads) and not unit.block and 4 * self.size.get(i, 0) < at_end
            if i in self.heads or pooled or self.fed_by.get(i, frozenset()) & self.heads:
                depths[i] = last + 1
            elif unit.block:
                depths[i] = self.level.get(i, reached + 1)
            elif i in inputs and at_one_place[self.first_kind.get(i) == "join"] == 1:
                depths[i] = 0
            elif self._matrix(i) and (place or (in_stage and self.fed_by.get(i))):
                depths[i] = min(place + 1, last)  # what leads into a block belongs to it
            else:
                depths[i] = place
        return depths

    def _matrix(self, i: int) -> bool:
        return any(_is_matrix(self.names.tensors[name]) for name in self.units[i].names)


def _ancestors(path: str) -> list[str]:
    """Paths of the modules that `path` is in, the model's own "" included."""
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(len(parts))]
