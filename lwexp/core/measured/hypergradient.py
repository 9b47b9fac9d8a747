"""The multiplier follows the gradient of the loss by itself, from steps that were made anyway.

Baydin, Cornish, Martinez Rubio, Schmidt and Wood: Online Learning Rate Adaptation with Hypergradient Descent, ICLR
2018, arXiv:1703.04782, which moves one rate. Here it is the factor from group to group, with any optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lwexp.core.dtensor import local_shard, shard_like, wide
from lwexp.core.options import at_least, between
from lwexp.errors import ConfigError

from .base import MeasuredDecay
from .profile import exponents

if TYPE_CHECKING:
    from torch import nn

    from lwexp.core.plan_table import PlanTable

    from .probe import Probe


@dataclass(kw_only=True)
class Hypergradient(MeasuredDecay):
    """scale[i] = m**index[i], where the multiplier m, at first `mult`, rises while gradients agree with the last step.

    A step of the optimizer changes the weights of group i by dw[i], in proportion to its rate lr * m**index[i]. So with
    g[i], the gradient after that step, the derivative of the loss by log(m) is sum(index[i] * g[i] . dw[i]). Divided by
    its largest possible value it is free of all scales, from -1 to 1:

        h = -sum(index[i] * g[i] . dw[i]) / sum(index[i] * ||g[i]|| * ||dw[i]||)

    and m is times exp(`hyper_lr` * mean of h) every `every_steps` steps, the mean being over those since the last time,
    within `min_mult` and `max_mult`. Late groups overshoot: m falls; all go on in one direction: m rises.

    h of a step is known with the next gradient, when the rates of that step are set: the multiplier follows one step
    later than in the paper. What the rates of earlier steps did by momentum is omitted, as in the paper. dw[i] is what
    the weights did, after clipping, weight decay and skipped steps. It takes the weights before the last step, which
    are as large as the network, and are in the checkpoints.
    """

    every_steps: int | None = 10
    mult: float = 0.95
    hyper_lr: float = 0.05
    min_mult: float = 0.5
    max_mult: float = 1.0

    needs: ClassVar[str] = "the gradients of its steps"
    observes: ClassVar[bool] = True

    _log_mult: float = field(init=False, repr=False)
    _before: dict[str, Tensor] = field(init=False, repr=False, default_factory=dict)  # weights, by parameter
    _loaded: bool = field(init=False, repr=False, default=False)  # the weights above are as a checkpoint has them
    _asked: bool = field(init=False, repr=False, default=False)  # whether the multiplier was asked for before
    _sums: Tensor | None = field(init=False, repr=False, default=None)  # float64 [2]: of h, and the number of steps

    def __post_init__(self) -> None:
        """Raise `ConfigError` for options out of range."""
        super().__post_init__()
        at_least("decay.hyper_lr", self.hyper_lr, 0)
        at_least("decay.min_mult", self.min_mult, 0, strictly=True)
        at_least("decay.max_mult", self.max_mult, self.min_mult)
        between("decay.mult", self.mult, self.min_mult, self.max_mult)
        self._log_mult = math.log(self.mult)

    @torch.no_grad()
    def observe(
        self, plan: PlanTable, parameters: Mapping[str, nn.Parameter], total: Callable[[Tensor], Tensor]
    ) -> None:
        """Compare the gradients of a step with the step before it, and keep the weights for the next."""
        rows = {
            n: i for i, g in enumerate(plan.groups) if g.measured for n in g.optimizer_names if n not in g.frozen_names
        }
        recalled = [name for name in rows if self._recall(name, parameters[name])]
        moved = {name: grad for name in recalled if (grad := parameters[name].grad) is not None}
        if moved:
            now = [local_shard(parameters[name].detach()) for name in moved]
            changes = torch._foreach_sub(now, [local_shard(self._before[name]) for name in moved])
            gradients = [grad.to_dense() if grad.is_sparse else local_shard(grad) for grad in moved.values()]
            h = agreement(gradients, changes, [rows[name] for name in moved], exponents(plan), total)
            counted = torch.stack([torch.where(h.isfinite(), h, 0.0), wide(h.isfinite())])
            self._sums = counted if self._sums is None else self._sums.to(counted.device) + counted
        self._loaded = False
        kept = [local_shard(self._before[name]) for name in rows]
        torch._foreach_copy_(kept, [local_shard(parameters[name].detach()) for name in rows])

    def _recall(self, name: str, p: nn.Parameter) -> bool:
        """Whether the weights before the last step are known; those of a checkpoint are sharded and laid out as `p`."""
        before = self._before.get(name)
        if before is None or before.shape != p.shape:
            self._before[name] = p.detach().clone()
            return False
        if self._loaded:
            self._before[name] = p.detach().clone()
            local_shard(self._before[name]).copy_(local_shard(shard_like(before, p)))
        return True

    def measure(self, probe: Probe) -> dict[int, float]:
        """Move the multiplier by what was observed since the last time. Raises `ConfigError` where nothing was."""
        if self._asked and not self._before:
            why = "observes nothing: call scheduler.observe_gradients(model) between backward and optimizer.step()"
            raise ConfigError("decay", "hypergradient", why)
        self._asked = True
        if self._sums is not None:
            sum_of_h, count = self._sums.tolist()
            moved = self._log_mult + self.hyper_lr * sum_of_h / max(count, 1.0)
            self._log_mult = min(max(moved, math.log(self.min_mult)), math.log(self.max_mult))
            self._sums = None
        mult, index = math.exp(self._log_mult), exponents(probe.plan)
        return {i: mult ** index[i] for i in probe.compared}

    def state_dict(self) -> dict[str, Any]:
        """The multiplier, the weights before the last step, and the sums since the last measurement."""
        return {"log_mult": self._log_mult, "before": dict(self._before), "sums": self._sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._log_mult, self._before, self._sums = state["log_mult"], dict(state["before"]), state["sums"]
        self._loaded = True


def agreement(
    gradients: Sequence[Tensor],
    changes: Sequence[Tensor],
    rows: Sequence[int],
    index: Sequence[int],
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Tensor:
    """h of `Hypergradient`, a scalar; NaN where nothing has moved. Nothing waits for the device.

    `gradients` and `changes` of the weights are of one parameter each, in the group of position `rows`; `index` of all
    groups. Of shards, `total` adds up sums over the processes.

    >>> g, dw = torch.tensor([1.0, 1.0]), torch.tensor([-0.1, 0.0])
    >>> round(agreement([g, g], [dw, dw], [0, 1], [0, 1]).item(), 6)
    0.707107
    """
    dots = [torch.dot(g.flatten(), dw.flatten()) for g, dw in zip(gradients, changes, strict=True)]
    norms = [*torch._foreach_norm([*gradients]), *torch._foreach_norm([*changes])]
    each = wide(torch.stack([*dots, *norms])).view(3, len(dots))
    each[1:].square_()
    sums = total(each.new_zeros(3, len(index)).index_add_(1, torch.tensor(rows, device=each.device), each))
    depth = sums.new_tensor([float(i) for i in index])
    return -(depth * sums[0]).sum() / (depth * (sums[1] * sums[2]).sqrt()).sum()
