"""Batch norms that normalise by the whole batch, of which each process has a part.

With the statistics of its part alone a network on several processes is another one than on a single process.
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


def synchronise_batch_norms(model: nn.Module) -> None:
    """Let every batch norm of `model`, also one of a class of its own (timm's have the activation in them), do so.

    Modules, parameters and buffers stay the same objects. What runs with its running statistics is left as it is.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = functools.partial(_synchronised, module.forward)  # type: ignore[method-assign]


def _synchronised(forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    with _WholeBatch():
        return forward(*arguments, **options)


class _WholeBatch(TorchFunctionMode):
    """Takes `torch.nn.functional.batch_norm` over, whoever calls it."""

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
    """`torch.nn.functional.batch_norm`, with the mean and variance over the batches of all processes in training.

    The variance is the mean square of what is left after the mean is taken away, as torch computes it on the CPU.
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
    others = [d for d in range(x.ndim) if d != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    values = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    count = values.new_tensor([values.numel() // values.shape[1]])
    sums = _Sum.apply(torch.cat([values.sum(others), count]))
    total = sums[-1].detach()
    mean = sums[:-1] / total
    centred = values - mean.view(shape)
    var = _Sum.apply(centred.square().sum(others)) / total
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (total / (total - 1))).to(running_var.dtype), momentum)
    normal = centred * torch.rsqrt(var + eps).view(shape)
    if weight is not None:
        normal = normal * weight.view(shape)
    if bias is not None:
        normal = normal + bias.view(shape)
    result: Tensor = normal.to(x.dtype)
    return result


class _Sum(torch.autograd.Function):
    """The sum over all processes; each one's gradient is the sum of all theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        """Of tensors of one shape."""
        return _summed(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Of the gradients."""
        return _summed(gradient)


def _summed(tensor: Tensor) -> Tensor:
    from torch.distributed import all_reduce

    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    all_reduce(total)
    return total
