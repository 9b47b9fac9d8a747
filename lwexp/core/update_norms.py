"""How far one optimizer step moves each group of a plan: norms of gradients, weights, updates and of the way so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from .arriving import Arriving
from .dtensor import local_shard
from .plan import Plan

MEASURES = ("gradient_norm", "weight_norm", "update_ratio", "distance")  # of each group, in a row of `UpdateNorms.read`


class UpdateNorms:
    """Measures an optimizer step: `before` it, `after` it, and `read` when the device has come so far.

    For each group with the weights w, as one vector, their starting values w0 and the gradient g that the optimizer
    uses (unscaled, accumulated, clipped):

        gradient_norm = ‖g‖        weight_norm = ‖w‖ before the step
        update_ratio  = ‖Δw‖ / ‖w‖    distance = ‖w - w0‖ / ‖w0‖ after the step

    Parameters without a gradient count as 0. A ratio is NaN where its denominator is 0 or `start` is not known.

    Between `before` and `after` the device holds one copy of the weights in the optimizer; `start` stays on the host.
    """

    def __init__(self, plan: Plan, total_norms: Callable[[Tensor], Tensor] = lambda norms: norms) -> None:
        """`total_norms`: norms of full tensors from those of this rank's shards, as of FSDP; all ranks then call alike.

        `plan` is bound to its parameters. Raises `ConfigError` if it is not.
        """
        self._total_norms = total_norms
        parameters = plan._bound
        self.moving = {name: parameters[name] for g in plan.groups for name in g.optimizer_names}
        self._frozen = [parameters[n] for g in plan.groups for n in g.parameter_names if n not in self.moving]
        place = {name: i for i, name in enumerate(self.moving)}
        resting = (n for g in plan.groups for n in g.parameter_names if n not in self.moving)
        place |= {name: len(self.moving) + i for i, name in enumerate(resting)}
        self._members = [[place[name] for name in g.parameter_names] for g in plan.groups]
        self._start: list[Tensor] | None = None
        self._start_norms: list[float] = []
        self._copies: list[Tensor] = []
        self._first: Tensor | None = None  # norms of gradients and weights, until the step is done

    @torch.no_grad()
    def set_start(self, start: Mapping[str, Tensor]) -> None:
        """Measure distances from the weights `start`, by parameter name; sharded as the parameters are.

        They stay on the host, where their memory is pinned if the parameters are on a GPU.
        """
        self._start = []
        for name, parameter in self.moving.items():
            tensor = local_shard(start[name]).detach()
            if tensor.device.type != "cpu" or tensor.data_ptr() == local_shard(parameter).data_ptr():
                tensor = tensor.to("cpu", copy=True)
            self._start.append(tensor.pin_memory() if _device(self.moving).type == "cuda" else tensor)
        device = _device(self.moving)
        parts = _norms(self._start), _norms([local_shard(p).detach() for p in self._frozen])
        self._start_norms = self._grouped(self._total_norms(torch.cat([part.to(device) for part in parts])).cpu())

    @torch.no_grad()
    def before(self, *, skipped: bool = False) -> None:
        """The optimizer is about to step: every gradient is as it uses it; `skipped`: it uses none."""
        weights = [local_shard(p).detach() for p in self.moving.values()]
        resting = [local_shard(p).detach() for p in self._frozen]
        grads = [None if skipped else p.grad for p in self.moving.values()]
        gradients = [None if grad is None else _dense(local_shard(grad)) for grad in grads]
        found = iter(_norms([g for g in gradients if g is not None]))
        zero = torch.zeros((), dtype=_wide(weights), device=_device(self.moving))
        of_gradients = torch.stack([zero if g is None else next(found).to(zero) for g in gradients])
        self._first = torch.cat([of_gradients, _norms([*weights, *resting]).to(zero)])
        self._copies = [weight.clone() for weight in weights]

    @torch.no_grad()
    def after(self) -> Arriving:
        """The optimizer has stepped; nothing waits for the device."""
        assert self._first is not None, "`before` comes first"
        weights = [local_shard(p).detach() for p in self.moving.values()]
        torch._foreach_sub_(self._copies, weights)
        parts = [self._first, _norms(self._copies).to(self._first)]
        if self._start is not None:
            for copy, start in zip(self._copies, self._start, strict=True):
                copy.copy_(start, non_blocking=True)
            torch._foreach_sub_(self._copies, weights)
            parts.append(_norms(self._copies).to(self._first))
        self._copies, self._first = [], None
        return Arriving(self._total_norms(torch.cat(parts)))

    def read(self, arriving: Arriving) -> list[tuple[float, ...]]:
        """The `MEASURES` of each group, [groups][4], as `after` has left them; waits for them to arrive."""
        norms, count = arriving.read(), len(self.moving)
        weights_end = 2 * count + len(self._frozen)
        gradients, weights = self._grouped(norms[:count]), self._grouped(norms[count:weights_end])
        updates = self._grouped(norms[weights_end : weights_end + count])
        if self._start is None:
            distances = [math.nan] * len(weights)
        else:
            ways = self._grouped(norms[weights_end + count :])
            distances = [_ratio(way, start) for way, start in zip(ways, self._start_norms, strict=True)]
        ratios = [_ratio(update, weight) for update, weight in zip(updates, weights, strict=True)]
        return list(zip(gradients, weights, ratios, distances, strict=True))

    def _grouped(self, norms: Tensor) -> list[float]:
        """The norm of each group from those of its tensors; tensors beyond the end of `norms` count as 0."""
        squares = norms.double().square().tolist()
        return [math.sqrt(sum(squares[i] for i in members if i < len(squares))) for members in self._members]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """The L2 norm of each tensor, [tensors]; of 16-bit values in float32."""
    real = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
    if not real:
        return torch.empty(0)
    found = torch._foreach_norm(real, 2, dtype=_wide(real))
    return torch.stack([norm.to(found[0].device) for norm in found])


def _wide(tensors: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if any(t.dtype in (torch.float64, torch.complex128) for t in tensors) else torch.float32


def _device(parameters: Mapping[str, nn.Parameter]) -> torch.device:
    return next(iter(parameters.values())).device


def _dense(tensor: Tensor) -> Tensor:
    return tensor.coalesce().values() if tensor.is_sparse else tensor
