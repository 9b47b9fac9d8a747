"""An optimizer step on a GPU that waits for nothing: its numbers are read while the next one is under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lwexp.core.arriving import Arriving
from lwexp.distributed.world import World

from .batches import Batches
from .callbacks import Callbacks
from .nonfinite import NonFiniteGuard, all_finite, gradient_norms
from .state import Learner, Progress, StepResult
from .step import accumulate_gradients


class DeferredStep:
    """Launches a step and returns the numbers of the one before.

    A non-finite loss or gradient must be known before the weights move: the fused kernel reads `found_inf` on the
    device, as a GradScaler sets it, and leaves the weights alone from the first non-finite value on.
    """

    def __init__(
        self,
        learner: Learner,
        progress: Progress,
        guard: NonFiniteGuard,
        callbacks: Callbacks,
        world: World,
        forward: Callable[..., Any],
        clip_grad_norm: float | None,
    ) -> None:
        """`learner.optimizer` has a fused kernel that takes `found_inf`; `guard` stops at the first problem."""
        self._learner, self._progress, self._guard, self._callbacks = learner, progress, guard, callbacks
        self._world, self._forward, self._clip_grad_norm = world, forward, clip_grad_norm
        self._trainable = learner.trainable
        self._pending: deque[PendingNumbers] = deque()
        self._found_inf = torch.zeros((), device=learner.device)  # stays 1 after the first non-finite value

    def __call__(self, number: int, batches: Batches, rates: list[float]) -> list[StepResult]:
        """Launch step `number`; returns the one before."""
        learner = self._learner
        optimizer: Any = learner.optimizer
        loss = accumulate_gradients(learner, self._forward, batches, self._world)
        self._callbacks.gradients_ready(self._progress)
        norms = learner.parallel.total_norms(gradient_norms(self._trainable))
        numbers = torch.cat([loss.reshape(1), norms])
        if self._clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(self._trainable, self._clip_grad_norm, torch.linalg.vector_norm(norms))
        self._found_inf = torch.maximum(self._found_inf, (~torch.isfinite(numbers).all()).float())
        self._callbacks.update_start(self._progress)
        optimizer.found_inf = self._found_inf
        optimizer.step()
        del optimizer.found_inf
        self._callbacks.update_end(self._progress)
        optimizer.zero_grad(set_to_none=True)
        self._pending.append(PendingNumbers(number, rates, numbers))
        return self._read(left=1)

    def flush(self) -> list[StepResult]:
        """Wait for the steps whose numbers are still on their way."""
        return self._read(left=0)

    def _read(self, left: int) -> list[StepResult]:
        """The pending steps but for the newest `left`; raises `RunError` on a non-finite one."""
        results = []
        while len(self._pending) > left:
            pending = self._pending.popleft()
            loss, norms = pending.read()
            problem = self._guard.check_loss(pending.number, loss, pending.rates)
            if problem is None and not all_finite([norms]):
                norm_of = dict(zip(self._trainable, norms, strict=True))
                problem = self._guard.check_gradients(pending.number, loss, pending.rates, norm_of.get)
            self._guard.settle(problem)
            results.append(StepResult(pending.number, loss, pending.rates))
        return results


class PendingNumbers:
    """The numbers of a step on their way from the device."""

    def __init__(self, number: int, rates: list[float], numbers: Tensor) -> None:
        """`numbers`: the loss, then the norm of each gradient, [1 + parameters]."""
        self.number, self.rates, self._numbers = number, rates, Arriving(numbers)

    def read(self) -> tuple[float, Tensor]:
        """The loss and the norms, as soon as they have arrived."""
        numbers = self._numbers.read()
        return numbers[0].item(), numbers[1:]
