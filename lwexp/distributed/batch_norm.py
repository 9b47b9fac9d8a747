"""Synchronized batch norm: statistics over the global batch, of which each rank has a shard.

By hand on the CPU and for any class derived from `_BatchNorm`: torch's `SyncBatchNorm` runs on GPUs only and replaces
modules, so timm's norms with a built-in activation would lose it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode


def synchronize_batch_norms(model: nn.Module) -> None:
    """Synchronize every batch norm of `model` in place, subclasses included (timm's apply an activation as well).

    Modules, parameters and buffers stay the same objects. A norm in eval mode is not affected.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = functools.partial(_synchronize, module.forward)  # type: ignore[method-assign]


def _synchronize(forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    with _GlobalBatch():
        return forward(*arguments, **options)


class _GlobalBatch(TorchFunctionMode):
    """Intercepts `torch.nn.functional.batch_norm`."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`; in training, mean and variance are over the shards of all ranks.

    The variance is the mean square of the centered values, as torch computes it on the CPU.
    """
    if not training:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    if x.device.type == "cuda":
        from torch.distributed import get_world_size, group
        from torch.nn.modules._functions import SyncBatchNorm

        fused: Tensor = SyncBatchNorm.apply(
            x, weight, bias, running_mean, running_var, eps, momentum, group.WORLD, get_world_size()
        )
        return fused
    reduced = [d for d in range(x.ndim) if d != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    values = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    count = values.new_tensor([values.numel() // values.shape[1]])
    sums = _AllReduce.apply(torch.cat([values.sum(reduced), count]))
    total = sums[-1].detach()
    mean = sums[:-1] / total
    centered = values - mean.view(shape)
    var = _AllReduce.apply(centered.square().sum(reduced)) / total
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (total / (total - 1))).to(running_var.dtype), momentum)
    normalized = centered * torch.rsqrt(var + eps).view(shape)
    if weight is not None:
        normalized = normalized * weight.view(shape)
    if bias is not None:
        normalized = normalized + bias.view(shape)
    result: Tensor = normalized.to(x.dtype)
    return result


class _AllReduce(torch.autograd.Function):
    """Differentiable all-reduce (sum); the gradient is all-reduced as well."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        """All ranks pass the same shape."""
        return _sum_over_ranks(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The sum of all ranks' gradients."""
        return _sum_over_ranks(gradient)


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    from torch.distributed import all_reduce

    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    all_reduce(total)
    return total
