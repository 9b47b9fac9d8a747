"""Numbers that are none (NaN, infinity), found before they reach the weights and named by the group they are in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lwexp.core.dtensor import local_shard
from lwexp.core.plan import Plan

Choice = Literal["stop", "skip"]
MOST_SKIPPED = 20  # optimizer steps in a row that may be left out


def gradient_norms(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The L2 norm of each parameter's gradient, float [parameters]: finite if all its numbers are; 0 where it is None.

    A gradient whose squares add up to more than a float holds has the norm infinity, too. Of one that is shared out
    among processes, the norm of this process's part.
    """
    gradients = [_dense(local_shard(p.grad)) for p in parameters if p.grad is not None]
    found = iter(torch._foreach_norm(gradients) if gradients else ())
    zero = torch.zeros((), device=parameters[0].device)
    return torch.stack([zero if p.grad is None else next(found).to(zero) for p in parameters])


def bad_group(plan: Plan, rates: Sequence[float], tensor_of: Callable[[nn.Parameter], Tensor | None]) -> str | None:
    """`<label> (rate …)` of the first group, from the head on, where `tensor_of` a parameter is not finite."""
    for label, group, rate in zip(plan.labels, plan.groups, rates, strict=True):
        for name in group.parameter_names:
            tensor = tensor_of(plan._parameters[name])
            if tensor is not None and not all_finite([_dense(tensor)]):
                return f"{label} (rate {rate:g})"
    return None


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no value in any of `tensors` is NaN or infinite, with one look at each and one wait for the device."""
    floating = [t for t in tensors if t.is_floating_point() or t.is_complex()]
    return not floating or bool(torch.stack([torch.isfinite(t).all() for t in floating]).all())


def _dense(tensor: Tensor) -> Tensor:
    return tensor.coalesce().values() if tensor.is_sparse else tensor
