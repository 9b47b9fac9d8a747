"""Sharded tensors (DTensor): the local shard, the full tensor, and sharding one tensor like another.

A plain tensor is its own shard and its own full tensor, so callers need not distinguish the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor; checked without importing `torch.distributed`."""
    return hasattr(tensor, "full_tensor")


def local_shard(tensor: Tensor) -> Tensor:
    """The shard that this rank holds; shares memory with `tensor`."""
    # torch 2.6 to 2.14: the public `to_local` records autograd, which costs at every step.
    shard: Tensor = getattr(tensor, "_local_tensor", tensor)
    return shard


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor. A collective where it is sharded: call it on all ranks."""
    if not is_sharded(tensor):
        return tensor
    full: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return full


def full_state(values: Any, *, keep: bool) -> Any:
    """Nested mappings and lists with full tensors in place of sharded ones: on the CPU if `keep`, else None."""
    if isinstance(values, Tensor):
        if not is_sharded(values):
            return values
        full = full_tensor(values.detach())
        return full.cpu() if keep else None
    if isinstance(values, Mapping):
        return {key: full_state(value, keep=keep) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(full_state(value, keep=keep) for value in values)
    return values


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Rank 0's full `tensor`, sharded like `like`; unchanged where `like` is not sharded.

    A collective where `like` is sharded: call it on all ranks.
    """
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    on_device = tensor.detach().to(like.device_mesh.device_type)
    return distribute_tensor(on_device, like.device_mesh, like.placements)


def wide(tensor: Tensor) -> Tensor:
    """`tensor` as float64, in which sums of many squares are exact enough; as float32 on Apple GPUs, which lack it."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()
