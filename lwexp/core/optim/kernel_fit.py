"""Which tensors torch's fused kernels can update: they fail for some and are silently wrong for others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lwexp.core.dtensor import local_shard

Group = Mapping[str, Any]  # a param group of an optimizer


class UnsupportedError(Exception):
    """The kernels cannot take what the optimizer holds as lists."""


class NoStateError(Exception):
    """The optimizer has no state yet; torch creates it in its first step."""


def suits_kernel(p: Tensor, gradient: Tensor, entry: Mapping[str, Any]) -> bool:
    """Whether parameter, gradient and state are dense, of one dtype and in the same order in memory.

    The kernels walk through all of them side by side and ignore strides.
    """
    tensors = [gradient, *(value for value in entry.values() if isinstance(value, Tensor) and value.ndim)]
    return _is_dense(p) and all(
        t.layout == torch.strided
        and t.dtype == p.dtype
        and (t.shape != p.shape or order(t.shape, t.stride()) == order(p.shape, p.stride()))
        for t in tensors
    )


def is_half_wrong(p: Tensor) -> bool:
    """Whether the fused SGD kernel is wrong for `p`: in torch 2.6 to 2.13 it is, for 16 bits on the CPU."""
    return p.dtype in (torch.bfloat16, torch.float16) and p.device.type == "cpu" and not _takes_half()


@cache
def _takes_half() -> bool:
    p, gradient, buffer = (torch.ones(64, dtype=torch.bfloat16) for _ in range(3))
    options: dict[str, Any] = {"dampening": 0.0, "nesterov": False, "maximize": False, "is_first_step": False}
    torch._fused_sgd_([p], [gradient], [buffer], lr=0.5, momentum=0.5, weight_decay=0.0, **options)
    return bool((p == 0.25).all() and (buffer == 1.5).all())


def tensor_guards(tensors: Sequence[Tensor]) -> Any:
    """torch's own guards: `guards.check(*others)` is True for tensors of the same dtypes, devices, sizes and strides.

    One call for all of them, in C++: a check of each in Python would cost as much as a kernel where they are small.
    """
    from torch._C._dynamo.guards import TensorGuards  # private; torch 2.6 to 2.14

    sizes, strides = [list(t.shape) for t in tensors], [list(t.stride()) for t in tensors]
    kind: Any = TensorGuards  # its annotations are wrong
    return kind(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)


def check(p: Tensor, group: Group, entry: Mapping[str, Any], buffers: Sequence[str | None]) -> None:
    """Raises `UnsupportedError` for what the kernels do not take, `NoStateError` for a parameter without state."""
    values = local_shard(p.data)
    gradient = values if p.grad is None else local_shard(p.grad)
    entry = {name: local_shard(value) if isinstance(value, Tensor) else value for name, value in entry.items()}
    if not group["fused"] or group.get("capturable") or group.get("differentiable") or isinstance(group["lr"], Tensor):
        raise UnsupportedError
    if not p.is_floating_point() or p.device.type not in ("cpu", "cuda") or gradient.dtype != p.dtype:
        raise UnsupportedError
    if "momentum" in group and is_half_wrong(p):
        raise UnsupportedError
    present = [entry[name] for name in buffers if name and entry.get(name) is not None]
    if any(
        type(t) is not Tensor or t.layout != torch.strided or t.device != p.device for t in (values, gradient, *present)
    ):
        raise UnsupportedError
    if not suits_kernel(values, gradient, entry):
        raise UnsupportedError
    if len(present) < len([*filter(None, buffers)]):
        raise NoStateError


def are_contiguous(tensors: Iterable[Tensor]) -> bool:
    """Whether the elements of all `tensors` are in memory as they are counted."""
    try:
        return all(map(Tensor.is_contiguous, tensors))
    except RuntimeError:  # a sparse tensor has no order
        return False


def are_in_order(tensors: Sequence[Tensor], strides: Sequence[Sequence[int]]) -> bool:
    """Whether the elements of all `tensors` are in the order in memory that `strides` give; it may have more."""
    try:
        return all(
            own == stride or order(tensor.shape, own) == order(tensor.shape, stride)
            for tensor, own, stride in zip(tensors, map(Tensor.stride, tensors), strides, strict=False)
        )
    except RuntimeError:  # a sparse tensor has no order
        return False


def order(shape: Sequence[int], strides: Sequence[int]) -> list[int]:
    """The strides of dimensions with more than one element; others do not matter."""
    return [stride for size, stride in zip(shape, strides, strict=True) if size > 1]


def _is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill a piece of memory without gaps, in any order of the dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True
