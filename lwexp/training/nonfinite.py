"""Detects NaN and infinity in losses, gradients and weights before an update, and names the parameter group."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lwexp.core.dtensor import full_tensor, local_shard
from lwexp.core.plan import Plan
from lwexp.distributed.world import World
from lwexp.errors import RunError

from .checkpoint.files import CheckpointFiles
from .state import Learner, Progress

log = logging.getLogger(__name__)
Mode = Literal["stop", "skip"]
MAX_SKIPPED = 20  # consecutive optimizer steps that may be skipped


@dataclass
class NonFiniteGuard:
    """Stops a training on non-finite values, or lets it skip such steps, up to 20 consecutive ones.

    Its errors have the step, the group, its rate, the newest checkpoint and what may help.
    """

    mode: Mode
    learner: Learner
    progress: Progress
    clips: bool  # gradients are clipped already
    files: CheckpointFiles | None

    def check_loss(self, step: int, loss: float, rates: Sequence[float]) -> str | None:
        """The problem with the `loss` of a step, None if it is finite."""
        if math.isfinite(loss):
            return None
        head = self.learner.optimized_groups[0]
        where = f"the head ({self.learner.plan.labels[head]}) has the rate {rates[head]:g}"
        return f"the loss is {loss} at optimizer step {step}, where {where}"

    def check_gradients(
        self,
        step: int,
        loss: float,
        rates: Sequence[float],
        gradient_of: Callable[[nn.Parameter], Tensor | None] | None = None,
    ) -> str | None:
        """The problem with the gradients of a step, or with what `gradient_of` returns for a parameter."""
        group = bad_group(self.learner.plan, rates, gradient_of or _gradient)
        if group is None:
            return None
        return f"the gradient of group {group} is not finite at optimizer step {step}, where the loss is {loss:g}"

    def check_weights(self, world: World) -> None:
        """Raise `RunError` unless all weights and running statistics are finite in all processes."""
        learner = self.learner
        tensors = [local_shard(t) for t in (*learner.trainable, *_statistics(learner.model))]
        if any(world.agree(None, [not all_finite(tensors)])):
            group = bad_group(learner.plan, learner.scheduler.rates(), full_tensor)
            what = f"the weights of group {group} are" if group else "a running statistic of a norm is"
            self.stop(f"{what} not finite after optimizer step {self.progress.step - 1}")

    def settle(self, problem: str | None) -> None:
        """Count a skipped step, or raise `RunError` where no step, or no more steps, may be skipped."""
        if problem is None:
            self.progress.skipped = 0
            return
        if self.mode == "stop":
            self.stop(problem)
        self.progress.skipped += 1
        if self.progress.skipped == MAX_SKIPPED:
            self.stop(f"{MAX_SKIPPED} consecutive optimizer steps were skipped; {problem}")
        log.warning("%s; the step is skipped", problem)

    def stop(self, problem: str) -> None:
        """Raise `RunError` with the problem, the newest checkpoint and what may help."""
        saved = self.files.paths() if self.files is not None else []
        last = f"; the last good checkpoint is {saved[0]}" if saved else ""
        hints = ["a smaller lr"]
        hints += [] if self.clips else ["clip_grad_norm=1"]
        hints += ["nonfinite=skip"] if self.mode == "stop" else []
        choices = " or ".join([", ".join(hints[:-1]), hints[-1]]) if len(hints) > 1 else hints[0]
        raise RunError(f"{problem}{last}; {choices} may help")


def gradient_norms(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The L2 norm of each parameter's gradient, float [parameters]; 0 where the gradient is None.

    Finite only if all values are; infinite also where the sum of squares exceeds the range of a float. Of a sharded
    gradient, the norm of the local shard.
    """
    gradients = [_dense(local_shard(p.grad)) for p in parameters if p.grad is not None]
    norms = iter(torch._foreach_norm(gradients) if gradients else ())
    zero = torch.zeros((), device=parameters[0].device)
    return torch.stack([zero if p.grad is None else next(norms).to(zero) for p in parameters])


def bad_group(plan: Plan, rates: Sequence[float], tensor_of: Callable[[nn.Parameter], Tensor | None]) -> str | None:
    """`<label> (rate …)` of the first group, head first, where `tensor_of` a parameter has a non-finite value."""
    for label, group, rate in zip(plan.labels, plan.groups, rates, strict=True):
        for name in group.parameter_names:
            tensor = tensor_of(plan._parameters[name])
            if tensor is not None and not all_finite([_dense(tensor)]):
                return f"{label} (rate {rate:g})"
    return None


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all values of all `tensors` are finite; synchronizes with the device once."""
    floating = [t for t in tensors if t.is_floating_point() or t.is_complex()]
    return not floating or bool(torch.stack([torch.isfinite(t).all() for t in floating]).all())


def _statistics(model: nn.Module) -> list[Tensor]:
    """Running statistics of norms; other buffers may hold infinities on purpose, as masks do."""
    return [b for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var"))]


def _gradient(parameter: nn.Parameter) -> Tensor | None:
    return None if parameter.grad is None else full_tensor(parameter.grad)


def _dense(tensor: Tensor) -> Tensor:
    return tensor.coalesce().values() if tensor.is_sparse else tensor
