"""Records the operations of a forward pass: which take which parameter, and how data flow from one to the next.

Operations are seen by a `TorchDispatchMode`, also those that use a parameter outside its own module's `forward`.
Tensors are identified by their storage, so a view of a parameter counts as that parameter.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from .twin import Twin, is_tensor, storage_key

_KINDS = (
    {"cat": "join", "stack": "join"}
    | dict.fromkeys(("mm", "addmm", "bmm", "baddbmm", "addbmm", "convolution", "embedding", "linear"), "multiply")
    | {"mul": "scale"}
)
_NOT_WALKED = (str, bytes, int, float, complex, type, FunctionType, ModuleType, nn.Module)


class OutOfTimeError(BaseException):
    """The forward pass takes too long; no `Exception`, which networks may catch."""


@dataclass(frozen=True)
class Operation:
    """The inputs (`takes`) and outputs (`gives`) of an operation as storage keys, and the names of its parameters.

    `kind` is "join" for a concatenation, "multiply" for matrix products, convolutions and embeddings, "scale" for an
    elementwise product, else empty;
    `size` is the number of elements of its largest input that is not a parameter, `made` that of its largest output.
    """

    takes: tuple[int, ...]
    gives: tuple[int, ...]
    parameters: tuple[str, ...]
    kind: str = ""
    size: int = 0
    made: int = 0


@dataclass
class Trace:
    """A forward pass. `operations` in order; `spans`: module path -> first and last operation of its first call.

    `inputs` and `outputs` are the storage keys of the network's inputs and outputs; `first_use`: name -> index of the
    first operation that takes the parameter or a view of it; `tried`: a description of the input.
    """

    operations: list[Operation] = field(default_factory=list)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    first_use: dict[str, int] = field(default_factory=dict)
    tried: str = ""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operation into `trace`; tensors that meet a meta tensor are moved to the meta device.

    The user's own tensors, which a closure may still hold, are replaced by placeholders, so that nothing changes them.
    """

    def __init__(self, twin: Twin, device: torch.device, trace: Trace, deadline: float) -> None:
        """Expect the tensors of `twin`; after `deadline` (of the monotonic clock) operations raise `OutOfTimeError`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.names, self.lazy, self.originals = dict(twin.names), twin.lazy, twin.originals
        self.device, self.trace, self.deadline = device, trace, deadline
        self.kept: dict[int, Any] = {}  # storages seen, kept alive so that no key is reused
        self.open: dict[str, int] = {}

    def key(self, tensor: torch.Tensor) -> int:
        """The storage key of `tensor`, which stays its own."""
        key = storage_key(tensor)
        if key not in self.kept:
            self.kept[key] = tensor.untyped_storage()
        return key

    def enter(self, path: str) -> None:
        """Note the call of a module."""
        if path not in self.trace.spans:
            self.open.setdefault(path, len(self.trace.operations))

    def leave(self, path: str) -> None:
        """Note the end of a call."""
        if path in self.open:
            self.trace.spans[path] = (self.open.pop(path), len(self.trace.operations) - 1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and record it."""
        if time.monotonic() > self.deadline:
            raise OutOfTimeError
        kwargs = kwargs or {}
        tensors = _tensors((args, kwargs))
        taken = [x for x in tensors if is_tensor(x)]
        keys = [self.key(x) for x in taken]
        written = [self.key(x) for x in _written(func, args, kwargs)]
        if self.originals and not self.originals.keys().isdisjoint(keys):
            args, kwargs = tree_map(self._placeholder, (args, kwargs))
            tensors = _tensors((args, kwargs))
        if self.device.type == "meta" and any(x.is_meta for x in tensors):
            if not all(x.is_meta for x in tensors):
                args, kwargs = tree_map(_to_meta, (args, kwargs))
            if kwargs.get("device") is not None:
                kwargs["device"] = self.device
        result = func(*args, **kwargs)
        results = [x for x in _tensors(result) if is_tensor(x)]
        given = [*written, *map(self.key, results)]
        for key, x in zip(keys, taken, strict=True) if self.lazy else ():
            if id(x) in self.lazy:  # initialized by now, so it has a storage
                self.names[key] = self.lazy[id(x)]
        used = dict.fromkeys(self.names[key] for key in keys if key in self.names)
        index = len(self.trace.operations)
        for name in used:
            self.trace.first_use.setdefault(name, index)
        flows = tuple(dict.fromkeys(key for key in keys if key not in self.names))
        kind = _KINDS.get(func.overloadpacket.__name__, "")
        size = max((x.numel() for key, x in zip(keys, taken, strict=True) if key not in self.names), default=0)
        made = max((x.numel() for x in results), default=0)
        self.trace.operations.append(Operation(flows, tuple(given), tuple(used), kind, size, made))
        return result

    def _placeholder(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not is_tensor(value):
            return value
        twin = self.originals.get(storage_key(value))
        if twin is None or twin.shape == value.shape:
            return value if twin is None else twin
        return torch.empty_like(value, device="meta") if self.device.type == "meta" else value.detach().cpu().clone()


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in `value`, also in containers and in attributes of objects, such as dataclasses."""
    stack, seen = [value], set()
    while stack:
        held = stack.pop()
        if isinstance(held, torch.Tensor):
            yield held
        elif held is None or isinstance(held, _NOT_WALKED) or id(held) in seen:
            continue
        seen.add(id(held))
        if isinstance(held, Mapping):
            stack += held.values()
        elif isinstance(held, (list, tuple, set, frozenset)):
            stack += held
        stack += getattr(held, "__dict__", {}).values()
        stack += [getattr(held, name, None) for name in getattr(type(held), "__slots__", ()) if isinstance(name, str)]


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors that an operation modifies in place, such as an output table that is filled row by row."""
    if not func._schema.is_mutable:
        return []
    values = [
        args[i] if i < len(args) else kwargs.get(argument.name)
        for i, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return [x for x in _tensors(values) if is_tensor(x)]


def _tensors(value: Any) -> list[torch.Tensor]:
    """The tensors among an operation's arguments or results: alone, in lists, or by keyword."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    found = []
    for part in value:
        if isinstance(part, torch.Tensor):
            found.append(part)
        elif isinstance(part, (list, tuple, dict)):
            found += _tensors(part)
    return found


def _to_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and not value.is_meta:
        return torch.empty_like(value, device="meta")
    return value
