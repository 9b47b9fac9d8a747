"""A copy of a network with stand-ins for its parameters, sharing nothing that a forward pass may change."""

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

from .parameters import is_lazy
from .thresholds import KEPT_BUFFER_VALUES

_PLAIN = {type(None), bool, int, float, str}
_TABLES = {dict, OrderedDict, set}


@dataclass(frozen=True)
class Twin:
    """`names`: storage of a stand-in -> parameter; `lazy`: id of a stand-in that has no storage yet -> parameter.

    `kept` are all stand-ins, alive so that no other tensor gets the address of one.
    """

    model: nn.Module
    names: Mapping[int, str]
    lazy: Mapping[int, str]
    kept: tuple[torch.Tensor, ...]


def make_twin(model: nn.Module, first_names: Mapping[int, str], device: torch.device) -> Twin:
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
            owners.setdefault(storage_key(parameter), name)
            names[storage_key(stand)] = name
    for module in model.modules():
        for tensor in _held(module):
            if id(tensor) in stands:
                continue
            plain = not isinstance(tensor, UninitializedBuffer)
            values = real or (plain and tensor.numel() <= KEPT_BUFFER_VALUES)
            stands[id(tensor)] = stand = _stand_in(tensor, device, values)
            if plain and storage_key(tensor) in owners:  # a view of a parameter, kept by the module
                names[storage_key(stand)] = owners[storage_key(tensor)]
    try:
        twin: nn.Module = _copied(model, dict(stands))
    except Exception:  # something in it cannot be copied, such as a lock: that part is shared
        twin = _copied(model, stands | _uncopyable(model, stands))
    for module in twin.modules():  # hooks of the user's would see tensors without values; those of torch are needed
        module._forward_hooks.clear()
        for key, hook in list(module._forward_pre_hooks.items()) if module._forward_pre_hooks else ():
            owner = getattr(hook, "__module__", None) or type(hook).__module__
            if not owner.startswith("torch.nn"):
                del module._forward_pre_hooks[key]
    return Twin(twin, names, lazy, tuple(stands.values()))


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """`copy.deepcopy`, which spends most of its time on what modules have in plenty: plain values and empty tables."""
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
            table[_copied(key, memo)] = _copied(held, memo)
    elif isinstance(value, nn.Module) and _copied_as_usual(kind) and "__deepcopy__" not in value.__dict__:
        twin: Any = kind.__new__(kind)
        memo[id(value)] = twin
        twin.__setstate__({key: _copied(held, memo) for key, held in value.__dict__.items()})
    else:
        return copy.deepcopy(value, memo)
    return memo[id(value)]


@cache
def _copied_as_usual(kind: type[nn.Module]) -> bool:
    """Whether `copy.deepcopy` makes a new object of `kind` and fills its attributes in, and does nothing else."""
    special = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")
    slots = any(getattr(base, "__slots__", ()) for base in kind.__mro__)
    return not slots and all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in special)


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
    elif plain.is_meta and plain.layout == torch.strided:  # of a meta tensor, `empty_like` is slow
        stand = torch.empty_strided(plain.size(), plain.stride(), dtype=plain.dtype, device="meta")
    else:
        stand = torch.empty_like(plain, device="meta")
    return nn.Parameter(stand, requires_grad=False) if isinstance(tensor, nn.Parameter) else stand


def numel(parameter: torch.Tensor) -> int:
    """Number of weights, 0 where it is not known yet."""
    return 0 if is_lazy(parameter) else parameter.numel()


def storage_key(tensor: torch.Tensor) -> int:
    """A number that a tensor shares with its views, as long as their storage is alive."""
    # Private to torch, tried with 2.6 to 2.15: `data_ptr` is 0 for every meta tensor.
    return int(tensor.untyped_storage()._cdata)


def is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor with a storage to tell it by."""
    if type(value) in (torch.Tensor, nn.Parameter):  # most are, and `isinstance` is slower
        return bool(value.layout == torch.strided)
    lazy = isinstance(value, (UninitializedParameter, UninitializedBuffer))
    return isinstance(value, torch.Tensor) and not lazy and value.layout == torch.strided
