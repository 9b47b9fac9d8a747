"""Records one forward pass of a copy of a network: which operation takes which parameter, and how data flow.

The copy's tensors are on the meta device, so nothing is computed and the network is not changed; a network whose
control flow depends on computed values runs once more with real numbers and a small input. Operations are recorded by a
`TorchDispatchMode`, which also sees parameters that are used outside their own module's `forward`. Tensors are
identified by their storage, so a view of a parameter counts as that parameter.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from lwexp.formatting import one_line

from .inputs import Input, arguments, as_input, guesses
from .thresholds import QUICK_INPUTS, REAL_PASS_WEIGHTS
from .twin import Twin, is_tensor, make_twin, numel, storage_key

_KINDS = {"cat": "join", "stack": "join"} | dict.fromkeys(
    ("mm", "addmm", "bmm", "baddbmm", "addbmm", "convolution", "embedding", "linear"), "multiply"
)
ANOTHER_INPUT = "give one as example_input (a tensor, tuple or mapping), or data that fit the model"


class ForwardError(Exception):
    """The forward pass fails for every input that was tried; `reason` is the first failure."""

    def __init__(self, tried: Sequence[str], reason: str) -> None:
        """Join the two into one line."""
        shown = ", ".join(tried[:8]) + (f", … ({len(tried)} in all)" if len(tried) > 8 else "")
        super().__init__(f"tried {shown} ({reason})")
        self.tried, self.reason = tuple(tried), reason


@dataclass(frozen=True)
class Operation:
    """The inputs (`takes`) and outputs (`gives`) of an operation as storage keys, and the names of its parameters.

    `kind` is "join" for a concatenation, "multiply" for matrix products, convolutions and embeddings, else empty;
    `size` is the number of elements of its largest input that is not a parameter.
    """

    takes: tuple[int, ...]
    gives: tuple[int, ...]
    parameters: tuple[str, ...]
    kind: str = ""
    size: int = 0


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


def trace(
    model: nn.Module,
    first_names: Mapping[int, str],
    example_input: object | None = None,
    *,
    quick: bool = False,
) -> Trace:
    """The forward pass of `model` in evaluation mode; `first_names`: id of a parameter -> the name to record it under.

    `example_input`: a tensor, a tuple of positional or a mapping of keyword arguments; None: inputs that fit the
    network's first layers are tried. `quick`: only the first few of those, and no pass with real numbers where meta
    tensors fail. `model` and the random number generators are not changed.
    Raises `ForwardError` where every input fails.
    """
    inputs = guesses(model) if example_input is None else [("example_input", *arguments(example_input))]
    inputs = inputs[:QUICK_INPUTS] if quick else inputs
    reasons: dict[str, str] = {}
    again: list[Input] = []
    for given in inputs:
        try:
            return _run(model, first_names, given, torch.device("meta"))
        except Exception as error:  # anything a network raises for a wrong input: reported to the user
            reasons[given[0]] = _reason(error)
            # A wrong shape fails again; what meta tensors do not support, real ones may.
            if isinstance(error, NotImplementedError) or "meta" in str(error).lower():
                again.append(given)
    small = not quick and sum(map(numel, model.parameters())) <= REAL_PASS_WEIGHTS
    for given in again if small else ():
        try:
            return _run(model, first_names, given, torch.device("cpu"))
        except Exception as error:  # as above
            reasons[given[0]] = _reason(error)
    raise ForwardError(list(reasons), next(iter(reasons.values())))


def _reason(error: Exception) -> str:
    return one_line(error, 140, kind=True)


def _run(model: nn.Module, first_names: Mapping[int, str], given: Input, device: torch.device) -> Trace:
    text, args, kwargs = given
    copied = make_twin(model, first_names, device)
    twin, recorder = copied.model, _Recorder(copied, device, Trace(tried=text))
    paths = {id(module): path for path, module in twin.named_modules()}
    for module in twin.modules():
        module.register_forward_pre_hook(lambda m, _: recorder.enter(paths[id(m)]))
        module.register_forward_hook(lambda m, _, __: recorder.leave(paths[id(m)]))
    args, kwargs = tree_map(lambda x: as_input(x, device) if isinstance(x, torch.Tensor) else x, (args, kwargs))
    recorder.trace.inputs = frozenset(recorder.key(x) for x in tree_leaves((args, kwargs)) if is_tensor(x))
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")  # the user did not start this pass
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.no_grad())
        if any(type(module).__name__ == "OptimizedModule" for module in twin.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(recorder)
        output = forward_pass(twin.eval(), args, kwargs)
    leaves = [x for x in tree_leaves(_as_dict(output)) if is_tensor(x)]
    recorder.trace.outputs = frozenset(recorder.key(x) for x in leaves)
    return recorder.trace


def forward_pass(twin: nn.Module, args: Any, kwargs: Any) -> Any:
    """The forward pass alone, so that benchmarks can time it apart from its preparation."""
    return twin(*args, **kwargs)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operation; other tensors that meet a meta tensor are moved to the meta device."""

    def __init__(self, twin: Twin, device: torch.device, empty: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names, self.lazy, self.device, self.trace = dict(twin.names), twin.lazy, device, empty
        self.kept: dict[int, Any] = {}  # storages seen, kept alive so that no key is reused
        self.open: dict[str, int] = {}

    def key(self, tensor: torch.Tensor) -> int:
        key = storage_key(tensor)
        if key not in self.kept:
            self.kept[key] = tensor.untyped_storage()
        return key

    def enter(self, path: str) -> None:
        if path not in self.trace.spans:
            self.open.setdefault(path, len(self.trace.operations))

    def leave(self, path: str) -> None:
        if path in self.open:
            self.trace.spans[path] = (self.open.pop(path), len(self.trace.operations) - 1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = _tensors((args, kwargs))
        taken = [x for x in tensors if is_tensor(x)]
        keys = [self.key(x) for x in taken]
        written = [self.key(x) for x in _written(func, args, kwargs)]
        if self.device.type == "meta" and any(x.is_meta for x in taken):
            if not all(x.is_meta for x in tensors):
                args, kwargs = tree_map(_to_meta, (args, kwargs))
            if kwargs.get("device") is not None:
                kwargs["device"] = self.device
        result = func(*args, **kwargs)
        given = [*written, *(self.key(x) for x in _tensors(result) if is_tensor(x))]
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
        self.trace.operations.append(Operation(flows, tuple(given), tuple(used), kind, size))
        return result


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


def _as_dict(output: Any) -> Any:
    """A dataclass as a dict of its fields, since pytree does not look into it."""
    return vars(output) if is_dataclass(output) and not isinstance(output, Mapping) else output
