"""Tensors of which each process holds a part: the part, the whole, and back.

A tensor that is whole in each process is its own part and its own whole, so nothing here asks which it is first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, asked without importing what makes them."""
    return hasattr(tensor, "full_tensor")


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of it, the same memory."""
    part: Tensor = getattr(tensor, "_local_tensor", tensor)
    return part


def whole(tensor: Tensor) -> Tensor:
    """All of it. Where it is sharded, all processes must ask."""
    if not is_sharded(tensor):
        return tensor
    full: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return full


def all_whole(values: Any, *, keep: bool) -> Any:
    """Nested mappings and lists with all tensors whole, those that were sharded on the CPU and only if `keep`."""
    if isinstance(values, Tensor):
        if not is_sharded(values):
            return values
        full = whole(values.detach())
        return full.cpu() if keep else None
    if isinstance(values, Mapping):
        return {key: all_whole(value, keep=keep) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(all_whole(value, keep=keep) for value in values)
    return values


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole `tensor`, that of the first process, as `like` is sharded; as it is where `like` is whole.

    All processes must ask.
    """
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    on_device = tensor.detach().to(like.device_mesh.device_type)
    return distribute_tensor(on_device, like.device_mesh, like.placements)
