"""One forward pass of a copy of a network, without data: which operation takes which parameter, and what flows where.

The copy has stand-ins on the meta device for its parameters, so that nothing is computed and nothing is changed; a
network whose course depends on computed values is run once more with real numbers and a small input. Operations are
recorded at the level of the dispatcher, which also sees parameters that no module's own `forward` uses. Tensors are
told apart by their storage, so that a view of a parameter is that parameter.
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, is_dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_REAL_WEIGHTS = 100_000_000  # a network with more weights is not run with real numbers
_KINDS = {"cat": "join", "stack": "join"} | dict.fromkeys(
    ("mm", "addmm", "bmm", "baddbmm", "addbmm", "convolution", "embedding", "linear"), "multiply"
)
_REAL_VALUES = 65_536  # smaller buffers keep their values, for a network that looks at them


class ForwardError(Exception):
    """No input that was tried gets through the network; `tried` describes the inputs, `reason` the first failure."""

    def __init__(self, tried: Sequence[str], reason: str) -> None:
        """Join the two into one line."""
        shown = ", ".join(tried[:8]) + (f", … ({len(tried)} in all)" if len(tried) > 8 else "")
        super().__init__(f"tried {shown} ({reason})")
        self.tried, self.reason = tuple(tried), reason


@dataclass(frozen=True)
class Operation:
    """What one operation takes and gives: storages that data flow through, and names of parameters.

    `kind` is "join" for a concatenation, "multiply" for matrix products, convolutions and look-ups, else empty; `size`
    is the number of elements of the largest tensor taken that is no parameter.
    """

    takes: tuple[int, ...]
    gives: tuple[int, ...]
    parameters: tuple[str, ...]
    kind: str = ""
    size: int = 0


@dataclass
class Trace:
    """A forward pass. `operations` in order; `spans`: module path -> first and last operation of its first call.

    `inputs` and `outputs` are the storages that came in and went out; `first_use`: name -> index of the first operation
    that takes the parameter or a view of it; `tried`: the input that got through, in words.
    """

    operations: list[Operation] = field(default_factory=list)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    first_use: dict[str, int] = field(default_factory=dict)
    tried: str = ""


def trace(model: nn.Module, first_names: Mapping[int, str], example_input: object | None = None) -> Trace:
    """The forward pass of `model` in evaluation mode; `first_names`: id of a parameter -> the name to record it under.

    `example_input`: a tensor, a tuple of positional or a mapping of keyword arguments; null: inputs that fit the
    network's first layers are tried. `model` and the random number generators stay as they are.
    Raises `ForwardError` where no input gets through.
    """
    inputs = _guesses(model) if example_input is None else [("example_input", *_arguments(example_input))]
    weights = sum(_numel(parameter) for parameter in model.parameters())
    reasons: dict[str, str] = {}
    again: list[_Input] = []
    for given in inputs:
        try:
            return _run(model, first_names, given, torch.device("meta"))
        except Exception as error:  # whatever a network raises at the wrong input: kept for the user
            reasons[given[0]] = _reason(error)
            # Wrong shapes stay wrong; what meta tensors cannot do, real ones may.
            if isinstance(error, NotImplementedError) or "meta" in str(error).lower():
                again.append(given)
    for given in again if weights <= _REAL_WEIGHTS else ():
        try:
            return _run(model, first_names, given, torch.device("cpu"))
        except Exception as error:  # as above
            reasons[given[0]] = _reason(error)
    raise ForwardError(list(reasons), next(iter(reasons.values())))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 120 else text[:117] + '...'}"


def _run(model: nn.Module, first_names: Mapping[int, str], given: _Input, device: torch.device) -> Trace:
    text, args, kwargs = given
    copied = _twin(model, first_names, device)
    twin, recorder = copied.model, _Recorder(copied, device, Trace(tried=text))
    paths = {id(module): path for path, module in twin.named_modules()}
    for module in twin.modules():
        module.register_forward_pre_hook(lambda m, _: recorder.enter(paths[id(m)]))
        module.register_forward_hook(lambda m, _, __: recorder.leave(paths[id(m)]))
    args, kwargs = tree_map(lambda x: _input(x, device) if isinstance(x, torch.Tensor) else x, (args, kwargs))
    recorder.trace.inputs = frozenset(recorder.key(x) for x in tree_leaves((args, kwargs)) if _is_tensor(x))
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")  # of a pass that is none of the user's
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.no_grad())
        if any(type(module).__name__ == "OptimizedModule" for module in twin.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(recorder)
        output = twin.eval()(*args, **kwargs)
    leaves = [x for x in tree_leaves(_plain(output)) if _is_tensor(x)]
    recorder.trace.outputs = frozenset(recorder.key(x) for x in leaves)
    return recorder.trace


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation; on the meta device, tensors that live elsewhere are replaced when they meet one there."""

    def __init__(self, twin: _Twin, device: torch.device, empty: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names, self.lazy, self.device, self.trace = dict(twin.names), twin.lazy, device, empty
        self.kept: dict[int, Any] = {}  # storages seen, kept alive so that no two get the same key
        self.open: dict[str, int] = {}

    def key(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        self.kept.setdefault(storage._cdata, storage)
        return int(storage._cdata)

    def enter(self, path: str) -> None:
        if path not in self.trace.spans:
            self.open.setdefault(path, len(self.trace.operations))

    def leave(self, path: str) -> None:
        if path in self.open:
            self.trace.spans[path] = (self.open.pop(path), len(self.trace.operations) - 1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        taken = [x for x in tree_leaves((args, kwargs)) if _is_tensor(x)]
        keys = [self.key(x) for x in taken]
        written = [self.key(x) for x in _written(func, args, kwargs)]
        if self.device.type == "meta" and any(x.is_meta for x in taken):
            args, kwargs = tree_map(_to_meta, (args, kwargs))
            if kwargs.get("device") is not None:
                kwargs["device"] = self.device
        result = func(*args, **kwargs)
        given = [*written, *(self.key(x) for x in tree_leaves(result) if _is_tensor(x))]
        for key, x in zip(keys, taken, strict=True):
            if id(x) in self.lazy:  # has got its shape, and its storage, by now
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


# --- the copy ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Twin:
    """`names`: storage of a stand-in -> parameter; `lazy`: id of a stand-in that has no storage yet -> parameter.

    `kept` are all stand-ins, alive so that no other tensor gets the address of one.
    """

    model: nn.Module
    names: Mapping[int, str]
    lazy: Mapping[int, str]
    kept: tuple[torch.Tensor, ...]


def _twin(model: nn.Module, first_names: Mapping[int, str], device: torch.device) -> _Twin:
    """A copy of `model` with other tensors, sharing nothing that a forward pass may change."""
    real = device.type != "meta"
    stands: dict[int, Any] = {}
    names: dict[int, str] = {}
    lazy: dict[int, str] = {}
    owners: dict[int, str] = {}
    for parameter in model.parameters():
        name = first_names[id(parameter)]
        stands[id(parameter)] = stand = _stand_in(parameter, device, values=real)
        if isinstance(parameter, UninitializedParameter):
            lazy[id(stand)] = name
        else:
            owners.setdefault(parameter.untyped_storage()._cdata, name)
            names[stand.untyped_storage()._cdata] = name
    for module in model.modules():
        for tensor in _held(module):
            if id(tensor) in stands:
                continue
            plain = not isinstance(tensor, UninitializedBuffer)
            values = real or (plain and tensor.numel() <= _REAL_VALUES)
            stands[id(tensor)] = stand = _stand_in(tensor, device, values)
            if plain and tensor.untyped_storage()._cdata in owners:  # a view that was made beforehand
                names[stand.untyped_storage()._cdata] = owners[tensor.untyped_storage()._cdata]
    try:
        twin: nn.Module = copy.deepcopy(model, dict(stands))
    except Exception:  # something in it cannot be copied, such as a lock: that part is shared
        twin = copy.deepcopy(model, stands | _uncopyable(model, stands))
    for module in twin.modules():  # hooks of the user's would see tensors without values; those of torch are needed
        module._forward_hooks.clear()
        for key, hook in list(module._forward_pre_hooks.items()):
            owner = getattr(hook, "__module__", None) or type(hook).__module__
            if not owner.startswith("torch.nn"):
                del module._forward_pre_hooks[key]
    return _Twin(twin, names, lazy, tuple(stands.values()))


def _uncopyable(model: nn.Module, stands: Mapping[int, Any]) -> dict[int, Any]:
    """Attributes of modules in `model` that refuse to be copied, by id."""
    found: dict[int, Any] = {}
    own = set(nn.Module().__dict__)  # parameters, buffers, modules and hooks are looked at one by one
    for module in model.modules():
        for attribute, value in module.__dict__.items():
            if attribute in own or isinstance(value, (int, float, str, type(None))):
                continue
            try:
                copy.deepcopy(value, cast(Any, ChainMap({id(module): module}, found, cast(Any, stands))))
            except Exception:  # whatever a foreign object's copying raises
                found[id(value)] = value
    return found


def _held(module: nn.Module) -> Iterator[torch.Tensor]:
    """Tensors that `module` holds besides its parameters: buffers, plain attributes, lists and dicts of them."""
    yield from (buffer for buffer in module._buffers.values() if buffer is not None)
    for value in module.__dict__.values():
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (x for x in value if isinstance(x, torch.Tensor))
        elif isinstance(value, dict):
            yield from (x for x in value.values() if isinstance(x, torch.Tensor))


def _stand_in(tensor: torch.Tensor, device: torch.device, values: bool) -> torch.Tensor:
    """A tensor like `tensor`, with its values where it has them and they are asked for."""
    if isinstance(tensor, UninitializedParameter):
        options: dict[str, Any] = {"device": device, "dtype": tensor.dtype}
        return UninitializedParameter(requires_grad=False, **options)
    if isinstance(tensor, UninitializedBuffer):
        options = {"device": device, "dtype": tensor.dtype}
        return cast(torch.Tensor, UninitializedBuffer(requires_grad=False, **options))
    plain = tensor.detach()
    if values and not plain.is_meta:
        stand = plain.to("cpu", copy=True)
    elif values and device.type != "meta":
        stand = torch.zeros_like(plain, device=device)
    else:
        stand = torch.empty_like(plain, device="meta")
    return nn.Parameter(stand, requires_grad=False) if isinstance(tensor, nn.Parameter) else stand


def _numel(parameter: torch.Tensor) -> int:
    return 0 if isinstance(parameter, UninitializedParameter) else parameter.numel()


def _is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor with a storage to tell it by."""
    lazy = isinstance(value, (UninitializedParameter, UninitializedBuffer))
    return isinstance(value, torch.Tensor) and not lazy and value.layout == torch.strided


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors that an operation changes in place, such as a table of outputs that is filled row by row."""
    if not func._schema.is_mutable:
        return []
    values = [
        args[i] if i < len(args) else kwargs.get(argument.name)
        for i, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return [x for x in tree_leaves(values) if _is_tensor(x)]


def _to_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and not value.is_meta:
        return torch.empty_like(value, device="meta")
    return value


def _plain(output: Any) -> Any:
    """`output` with dataclasses opened, so that the tensors in it are found."""
    return vars(output) if is_dataclass(output) and not isinstance(output, Mapping) else output


# --- inputs --------------------------------------------------------------------------------------------------------

_Input = tuple[str, tuple[Any, ...], dict[str, Any]]
_SIZES = (224, 64, 32, 128, 256, 384)


def _input(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy of an input; whole numbers keep their values, for a network that looks at them (lengths, masks)."""
    if device.type == "meta" and (tensor.is_floating_point() or tensor.is_complex() or tensor.is_meta):
        return torch.empty_like(tensor, device="meta")
    return torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor.detach().to("cpu", copy=True)


def _arguments(example: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), {str(key): value for key, value in example.items()}
    return (tuple(example) if isinstance(example, (tuple, list)) else (example,)), {}


def _guesses(model: nn.Module) -> list[_Input]:
    """Inputs that may fit `model`, best first: what it says itself, then what its layers take."""
    found: list[_Input] = []
    dummy = getattr(model, "dummy_inputs", None)  # as the models of `transformers` have
    if isinstance(dummy, Mapping) and getattr(model, "main_input_name", "input_ids") in dummy:
        found.append(("dummy_inputs", (), dict(dummy)))
    channels: dict[type, list[int]] = {kind: _channels(model, kind) for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)}
    vocabularies = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
    tokens = torch.arange(32, device="cpu").reshape(2, 16) % max(1, min(vocabularies, default=1))
    images_first = any(channels.values())
    if vocabularies and not images_first:
        found.append(_for_all(model, f"token ids {list(tokens.shape)}", tokens))
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for shape in _shapes(model, channels):
        # On the meta device: in a forward pass with real numbers it is all zeros.
        found.append(_for_all(model, f"{list(shape)}", torch.empty(shape, dtype=dtype, device="meta")))
    if vocabularies and images_first:
        found.append(_for_all(model, f"token ids {list(tokens.shape)}", tokens))
    return found


def _for_all(model: nn.Module, text: str, tensor: torch.Tensor) -> _Input:
    """`tensor` for every positional argument that `model` needs, but for lengths and masks of sequences."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given = inspect.signature(model.forward).parameters.values()
    names = [p.name.lower() for p in given if p.kind in kinds and p.default is inspect.Parameter.empty][1:]
    values, texts = [tensor], [text]
    for name in names:
        if "len" in name and tensor.dim() > 1:
            values.append(torch.full((tensor.shape[0],), tensor.shape[1], device="cpu"))
            texts.append("lengths")
        elif "mask" in name:
            values.append(torch.ones(tensor.shape[:2], dtype=torch.bool, device="cpu"))
            texts.append("a mask")
        else:
            values.append(tensor)
            texts.append(text)
    return " and ".join(texts), tuple(values), {}


def _shapes(model: nn.Module, channels: Mapping[type, list[int]]) -> list[tuple[int, ...]]:
    """Shapes of inputs, best first: the size in timm's config or in the patch embedding, then by kind of layer."""
    found: list[tuple[int, ...]] = []
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else None
    if size:
        embedded = getattr(getattr(model, "patch_embed", None), "img_size", None)
        for side in [embedded, size[1:]]:
            counts = [*channels[nn.Conv2d][:1], size[0]]
            found += [(2, count, *side) for count in counts if isinstance(side, (tuple, list))]
    for count in channels[nn.Conv2d][:4]:
        found += [(2, count, side, side) for side in _SIZES]
    for count in channels[nn.Conv3d][:2]:
        found += [(2, count, 16, side, side) for side in (64, 112, 224)]
    for count in channels[nn.Conv1d][:3]:
        found += [(2, count, 64), (2, count, 1024), (2, count, 16_000)]
        found += [(2, 16_000)] if count == 1 else []
    for width in _widths(model)[:4]:
        found += [(2, 16, width), (2, width)]
        side = math.isqrt(width)
        found += [(2, 1, side, side)] if side * side == width and side > 4 else []
    return list(dict.fromkeys(found)) or [(2, 16), (2, 16, 16), (2, 3, 64, 64)]


def _channels(model: nn.Module, kind: type[nn.Module]) -> list[int]:
    """Numbers of channels that a convolution of `kind` takes: of the first one registered, the usual, then all."""
    counts = [int(cast(Any, module).in_channels) for module in model.modules() if isinstance(module, kind)]
    likely = dict.fromkeys([counts[0], 3, 1, *sorted(set(counts))]) if counts else {}
    return [count for count in likely if count]  # 0: lazy, not known yet


def _widths(model: nn.Module) -> list[int]:
    """Numbers of features that layers of `model` take, in the order of registration."""
    widths: dict[int, None] = {}
    for module in model.modules():
        for attribute in ("input_size", "embed_dim", "in_features", "normalized_shape", "num_features"):
            width = getattr(module, attribute, None)
            if isinstance(width, tuple) and len(width) == 1:
                width = width[0]
            if isinstance(width, int) and width > 0:
                widths[width] = None
                break
    return list(widths)
