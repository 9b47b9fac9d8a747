"""One optimizer step: forward, loss, backward, check, clip, update. Non-finite values never reach the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lwexp.core.optim.fused import takes_found_inf
from lwexp.data import call, to_device
from lwexp.distributed.world import World

from .batches import Batches
from .callbacks import Callbacks
from .loss import part_of_mean
from .nonfinite import NonFiniteGuard, gradient_norms
from .state import Learner, Progress, StepResult


class Step(Protocol):
    """Makes optimizer steps."""

    def __call__(self, number: int, batches: Batches, rates: list[float]) -> list[StepResult]:
        """Make step `number`; returns the steps whose numbers are known now. Raises `RunError` on non-finite values."""

    def flush(self) -> list[StepResult]:
        """The steps whose numbers were still unknown."""


@dataclass
class EagerStep:
    """Waits for the loss and the gradients' norm before it updates the weights."""

    learner: Learner
    progress: Progress
    guard: NonFiniteGuard
    callbacks: Callbacks
    world: World
    forward: Callable[..., Any]
    clip_grad_norm: float | None

    def __call__(self, number: int, batches: Batches, rates: list[float]) -> list[StepResult]:
        """Update the weights once, on the mean loss of `batches`."""
        learner = self.learner
        # A forward pass moves running statistics before its loss is known to be finite.
        before = [buffer.clone() for buffer in learner.model.buffers()] if self.guard.mode == "skip" else []
        loss = accumulate_gradients(learner, self.forward, batches, self.world).item()
        problem = self.guard.check_loss(number, loss, rates) or self.update(number, loss, rates)
        learner.optimizer.zero_grad(set_to_none=True)
        self.guard.settle(problem)
        if problem is not None:
            for buffer, value in zip(learner.model.buffers(), before, strict=True):
                buffer.copy_(value)
        return [StepResult(number, loss, rates, problem)]

    def update(self, number: int, loss: float, rates: list[float]) -> str | None:
        """Check and clip the gradients and let the optimizer step; returns the problem if it must not."""
        self.callbacks.gradients_ready(self.progress)
        problem = self.check_and_clip(number, loss, rates)
        if problem is None:
            self.callbacks.update_start(self.progress)
            self.learner.optimizer.step()
            self.callbacks.update_end(self.progress)
        return problem

    def check_and_clip(self, number: int, loss: float, rates: list[float]) -> str | None:
        """Clip finite gradients; returns the problem with others."""
        trainable = self.learner.trainable
        norm = torch.linalg.vector_norm(self.learner.parallel.total_norms(gradient_norms(trainable)))
        if not math.isfinite(norm.item()):
            problem = self.guard.check_gradients(number, loss, rates)
            if problem is not None:
                return problem
        if self.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(trainable, self.clip_grad_norm, norm)
        return None

    def flush(self) -> list[StepResult]:
        """No step is ever pending."""
        return []


class ScaledStep(EagerStep):
    """In fp16: the loss is scaled, and the scaler finds infinite gradients and skips their step by itself."""

    def __post_init__(self) -> None:
        """Let a kernel that reads `found_inf` on the device skip the step: nothing waits for the device."""
        optimizer: Any = self.learner.optimizer
        optimizer._step_supports_amp_scaling = takes_found_inf(optimizer)

    def update(self, number: int, loss: float, rates: list[float]) -> str | None:
        """Let the scaler step; returns the problem only where no scale helps any more."""
        scaler, optimizer = self.learner.scaler, self.learner.optimizer
        scale = scaler.get_scale()
        if self.clip_grad_norm is not None or any(map(self.callbacks.listens, ("gradients_ready", "update_start"))):
            scaler.unscale_(optimizer)
            self.callbacks.gradients_ready(self.progress)
        if self.clip_grad_norm is not None:
            self.check_and_clip(number, loss, rates)
        self.callbacks.update_start(self.progress)
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() < min(scale, 1.0):
            scaler.update(1.0)
            return self.guard.check_gradients(number, loss, rates)
        if scaler.get_scale() >= scale:
            self.callbacks.update_end(self.progress)
        return None


def accumulate_gradients(learner: Learner, forward: Callable[..., Any], batches: Batches, world: World) -> Tensor:
    """Add up the gradients of the mean loss of `batches`; returns that loss, a scalar on the device."""
    losses = []
    for i, batch in enumerate(batches.batches):
        inputs, labels = to_device(batch, learner.device)
        with learner.parallel.gradient_sync(i == len(batches) - 1):
            with learner.autocast():
                scores = call(forward, inputs)
            # gradients are averaged over processes
            part = part_of_mean(learner.loss, scores, labels, batches.weights[i], batches.total / world.size)
            scaled: Any = learner.scaler.scale(part)
            scaled.backward()
        losses.append(part.detach().float())
    loss = torch.stack(losses).sum()
    return loss if world.size == 1 else world.sum(loss) / world.size
