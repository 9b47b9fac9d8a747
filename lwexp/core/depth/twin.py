"""A copy of a network with placeholder tensors, sharing nothing that a forward pass may change."""

from __future__ import annotations

import copy
from collections import ChainMap, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from .hooks import HOOKS, keep_hooks
from .parameters import is_lazy
from .thresholds import KEPT_BUFFER_VALUES

_PLAIN = {type(None), bool, int, float, str}
_TABLES = {dict, OrderedDict, set}


@dataclass(frozen=True)
class Twin:
    """`names`: storage key of a placeholder, or of an original, -> parameter; `lazy`: id of one without storage.

    `originals`: storage key of a tensor of the network -> its placeholder; `kept` are all placeholders, kept alive so
    that no key or id is reused.
    """

    model: nn.Module
    names: Mapping[int, str]
    lazy: Mapping[int, str]
    originals: Mapping[int, torch.Tensor]
    kept: tuple[torch.Tensor, ...]


def make_twin(model: nn.Module, first_names: Mapping[int, str], device: torch.device) -> Twin:
    """A copy of `model` with other tensors, sharing nothing that a forward pass may change."""
    real = device.type != "meta"
    placeholders: dict[int, Any] = {}
    names: dict[int, str] = {}
    lazy: dict[int, str] = {}
    owners: dict[int, str] = {}
    originals: dict[int, torch.Tensor] = {}
    for parameter in model.parameters():
        name = first_names[id(parameter)]
        placeholders[id(parameter)] = placeholder = _placeholder(parameter, device, values=real)
        if isinstance(parameter, UninitializedParameter):
            lazy[id(placeholder)] = name
        else:
            owners.setdefault(storage_key(parameter), name)
            originals.setdefault(storage_key(parameter), placeholder)
            names[storage_key(placeholder)] = name
    for module in model.modules():
        for tensor in _tensors_of(module):
            if id(tensor) in placeholders:
                continue
            plain = not isinstance(tensor, UninitializedBuffer)
            values = real or (plain and tensor.numel() <= KEPT_BUFFER_VALUES)
            placeholders[id(tensor)] = placeholder = _placeholder(tensor, device, values)
            if plain and is_tensor(tensor):
                originals.setdefault(storage_key(tensor), placeholder)
                if storage_key(tensor) in owners:  # a view of a parameter, kept by the module
                    names[storage_key(placeholder)] = owners[storage_key(tensor)]
    memo = dict(placeholders)
    try:
        twin: nn.Module = _copy(model, memo)
    except Exception:  # something in it cannot be copied, such as a lock: that object is shared
        memo = placeholders | _uncopyable(model, placeholders)
        twin = _copy(model, memo)
    keep_hooks(model, memo)
    return Twin(twin, {**owners, **names}, lazy, originals, tuple(placeholders.values()))


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    """`copy.deepcopy` by hand for plain values, empty dicts and modules, where it spends most of its time."""
    kind: Any = type(value)
    if kind in _PLAIN:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in _TABLES and not value:
        memo[id(value)] = kind()
    elif kind is dict:
        table = memo[id(value)] = {}
        for key, held in value.items():
            table[_copy(key, memo)] = _copy(held, memo)
    elif isinstance(value, nn.Module) and _copies_by_attributes(kind) and "__deepcopy__" not in value.__dict__:
        twin: Any = kind.__new__(kind)
        memo[id(value)] = twin
        twin.__setstate__({key: _copied_attribute(key, held, memo) for key, held in value.__dict__.items()})
    else:
        return copy.deepcopy(value, memo)
    return memo[id(value)]


def _copied_attribute(key: str, held: Any, memo: dict[int, Any]) -> Any:
    if key == "_compiled_call_impl":  # of `module.compile()`: it calls the original
        return None
    if key in HOOKS:
        return OrderedDict()
    # `module.forward = torch.compile(module.forward)`: likewise
    original = getattr(held, "_torchdynamo_orig_callable", None) if key == "forward" else None
    return _copy(held if original is None else original, memo)


@cache
def _copies_by_attributes(kind: type[nn.Module]) -> bool:
    """Whether `copy.deepcopy` only creates an object of `kind` and sets its attributes."""
    special = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")
    slots = any(getattr(base, "__slots__", ()) for base in kind.__mro__)
    return not slots and all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in special)


def _uncopyable(model: nn.Module, placeholders: Mapping[int, Any]) -> dict[int, Any]:
    """Attributes of modules in `model` that cannot be copied, by id."""
    found: dict[int, Any] = {}
    own = set(nn.Module().__dict__)  # parameters, buffers, modules and hooks are handled above
    for module in model.modules():
        for attribute, value in module.__dict__.items():
            if attribute in own or isinstance(value, (int, float, str, type(None))):
                continue
            try:
                copy.deepcopy(value, cast(Any, ChainMap({id(module): module}, found, cast(Any, placeholders))))
            except Exception:  # anything that copying a user's object may raise
                found[id(value)] = value
    return found


def _tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """Tensors of `module` besides its parameters: buffers, plain attributes, lists and dicts of tensors."""
    yield from (buffer for buffer in module._buffers.values() if buffer is not None)
    for value in module.__dict__.values():
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (x for x in value if isinstance(x, torch.Tensor))
        elif isinstance(value, dict):
            yield from (x for x in value.values() if isinstance(x, torch.Tensor))


def _placeholder(tensor: torch.Tensor, device: torch.device, values: bool) -> torch.Tensor:
    """A tensor like `tensor`; with `values` and unless it is a meta tensor, with its values."""
    if isinstance(tensor, UninitializedParameter):
        options: dict[str, Any] = {"device": device, "dtype": tensor.dtype}
        return UninitializedParameter(requires_grad=False, **options)
    if isinstance(tensor, UninitializedBuffer):
        options = {"device": device, "dtype": tensor.dtype}
        return cast(torch.Tensor, UninitializedBuffer(requires_grad=False, **options))
    plain = tensor.detach()
    if values and not plain.is_meta:
        placeholder = plain.to("cpu", copy=True)
    elif values and device.type != "meta":
        placeholder = torch.zeros_like(plain, device=device)
    elif plain.is_meta and plain.layout == torch.strided:  # of a meta tensor, `empty_like` is slow
        placeholder = torch.empty_strided(plain.size(), plain.stride(), dtype=plain.dtype, device="meta")
    else:
        placeholder = torch.empty_like(plain, device="meta")
    return nn.Parameter(placeholder, requires_grad=False) if isinstance(tensor, nn.Parameter) else placeholder


def numel(parameter: torch.Tensor) -> int:
    """Number of weights; 0 for a lazy parameter."""
    return 0 if is_lazy(parameter) else parameter.numel()


def storage_key(tensor: torch.Tensor) -> int:
    """A number that a tensor shares with its views, as long as their storage is alive."""
    # Private to torch, tried with 2.6 to 2.14: `data_ptr` is 0 for every meta tensor.
    return int(tensor.untyped_storage()._cdata)


def is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor with a storage."""
    if type(value) in (torch.Tensor, nn.Parameter):  # most are, and `isinstance` is slower
        return bool(value.layout == torch.strided)
    lazy = isinstance(value, (UninitializedParameter, UninitializedBuffer))
    return isinstance(value, torch.Tensor) and not lazy and value.layout == torch.strided
