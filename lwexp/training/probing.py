"""A look at a training between two of its steps: its coming batches, their gradients and trial steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from lwexp.core.measured.probe import Probe
from lwexp.data import EpochLoader
from lwexp.distributed.world import World

from .batches import Batches
from .callbacks import Callback
from .loss import BatchWeight
from .nonfinite import gradient_norms
from .state import Learner, Progress
from .step import accumulate_gradients


class Probing:
    """Makes probes of a training: with its precision, accumulation and clipping, on all its processes."""

    def __init__(
        self,
        learner: Learner,
        progress: Progress,
        loader: EpochLoader,
        accumulate: int,
        clip_grad_norm: float | None,
        world: World,
        changing: Sequence[Callback] = (),
    ) -> None:
        """`loader` gives the training's batches, besides its own: reading it disturbs nothing.

        `changing` are the callbacks that change gradients.
        """
        self._learner, self._progress, self._loader = learner, progress, loader
        self._accumulate, self._clip_grad_norm, self._world = accumulate, clip_grad_norm, world
        self._weight, self._changing = BatchWeight(learner.loss), changing

    def probe(self) -> Probe:
        """A look at the training before its next step."""
        learner = self._learner
        return Probe(
            learner.plan, learner.model, learner.optimizer, self._backward, self._batches,
            step=self._progress.step, clip=self._clip,
        )  # fmt: skip

    def _batches(self) -> Iterator[Batches]:
        """The batches of the coming steps, as the training will have them; after this epoch, those of the next."""
        epoch, start = self._progress.epoch, self._progress.batches
        for at, first in chain([(epoch, start)], ((later, 0) for later in range(epoch + 1, epoch + 1000))):
            self._loader.set_epoch(at, first)
            found: list[Any] = []
            for batch in self._loader:
                found.append(batch)
                if len(found) == self._accumulate:
                    yield self._step_of(found)
                    found = []
            if found:
                yield self._step_of(found)

    def _step_of(self, found: list[Any]) -> Batches:
        weights = [self._weight(labels) for _, labels in found]
        (total,) = self._world.sum_numbers([sum(weights)])
        return Batches(found, weights, total)

    def _backward(self, batches: Batches) -> Tensor:
        """The gradients of one step, as callbacks change them, and its loss."""
        loss = self._unscaled(batches)
        for callback in self._changing:
            callback.gradients_ready(self._progress)
        return loss

    def _unscaled(self, batches: Batches) -> Tensor:
        """The gradients of one step and its loss; in fp16 by a scale at which they are finite."""
        learner = self._learner
        scaler = learner.scaler
        if not scaler.is_enabled():
            return self._accumulate_gradients(batches)
        scale = scaler.get_scale()
        try:
            while True:
                learner.scaler = torch.amp.GradScaler(learner.device.type, init_scale=scale)
                for p in learner.trainable:
                    p.grad = None
                loss = self._accumulate_gradients(batches)
                gradients = [p.grad for p in learner.trainable if p.grad is not None]
                (infinite,) = self._world.sum_numbers([not all(bool(torch.isfinite(g).all()) for g in gradients)])
                if not infinite or scale <= 1:
                    break
                scale /= 16
        finally:
            learner.scaler = scaler
        for gradient in gradients:
            gradient.div_(scale)
        return loss

    def _accumulate_gradients(self, batches: Batches) -> Tensor:
        return accumulate_gradients(self._learner, self._learner.parallel.forward, batches, self._world)

    def _clip(self) -> None:
        if self._clip_grad_norm is not None:
            norms = self._learner.parallel.total_norms(gradient_norms(self._learner.trainable))
            norm = torch.linalg.vector_norm(norms)
            torch.nn.utils.clip_grads_with_norm_(self._learner.trainable, self._clip_grad_norm, norm)
