"""The weights that a training starts from: kept in the run's folder, and a penalty that pulls toward them (L2-SP)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lwexp.core.dtensor import local_shard, shard_like
from lwexp.distributed.world import World
from lwexp.tracking import Tracker

from .callbacks import Callback
from .checkpoint.checkpointer import save_model
from .checkpoint.weights import read_weights
from .state import Learner, Progress

FILE = "start.safetensors"  # in the run's folder


def save_start(model: nn.Module, world: World, folder: Path) -> None:
    """Keep the weights of `model`, parallelized or not, as those that the training in `folder` starts from."""
    save_model(model, world, folder / FILE)


def read_start(model: nn.Module, world: World, folder: Path) -> dict[str, Tensor]:
    """What `save_start` kept, on the CPU or sharded like the tensors of `model`. Raises `RunError`."""
    state, own = world.on_rank_zero(lambda: read_weights(folder / FILE)), model.state_dict()
    return {name: shard_like(tensor, own[name]) for name, tensor in state.items() if name in own}


def mixed(
    start: Mapping[str, Tensor], trained: Mapping[str, Tensor], alpha: float, new: Collection[str]
) -> dict[str, Tensor]:
    """The average (1 - alpha) * start + alpha * trained of two states, WiSE-FT of Wortsman et al. 2022.

    What is `new` has no start that means anything, and stays as it was trained; so do counters.
    """
    found = {}
    for name, tensor in trained.items():
        averaged = tensor.is_floating_point() and name in start and name not in new
        found[name] = (1 - alpha) * start[name].to(tensor) + alpha * tensor if averaged else tensor
    return found


@dataclass(frozen=True)
class StartPenalty:
    """alpha/2 * |w - start|² of loaded weights and beta/2 * |w|² of new ones, L2-SP of Li et al. 2018."""

    alpha: float
    beta: float
    all_parameters: bool = False  # also biases and norms; the authors' default is weights of layers alone


class PullToStart(Callback):
    """Adds the gradient of a `StartPenalty` to that of the loss, before it is checked and clipped.

    alpha * (w - start) and beta * w are the penalty's own gradient, so that it acts as a term of the loss: once per
    optimizer step, whatever the accumulation, the precision or the number of processes. The loss that is logged is
    without it; `train/l2_sp` is the penalty at each evaluation.
    """

    def __init__(self, penalty: StartPenalty, new: Collection[str], start: Mapping[str, Tensor]) -> None:
        """`start` are the weights to pull to, `new` the names of the parameters that have none."""
        self.penalty, self._new, self._start = penalty, frozenset(new), start

    def setup(self, learner: Learner, tracker: Tracker) -> None:
        """Pair the trained parameters with where they are pulled to; None is 0."""
        self._learner, self._tracker = learner, tracker
        trained = {id(parameter) for parameter in learner.trainable}
        self._pairs: list[tuple[nn.Parameter, Tensor | None]] = []
        for name, parameter in learner.model.named_parameters():
            if id(parameter) in trained and (self.penalty.all_parameters or parameter.ndim > 1):
                start = None if name in self._new else self._start[name].to(parameter.device, copy=True)
                self._pairs.append((parameter, start))
        self._start = {}

    def gradients_ready(self, progress: Progress) -> None:
        """Add the penalty's gradient."""
        with torch.no_grad():
            for parameter, start in self._pairs:
                strength = self.penalty.beta if start is None else self.penalty.alpha
                pull = parameter.detach() if start is None else parameter.detach() - start
                if parameter.grad is None:  # not used in this step
                    parameter.grad = pull * strength
                else:
                    parameter.grad.add_(pull, alpha=strength)

    def evaluation_end(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Log the penalty."""
        self._tracker.log({"train/l2_sp": self.value()}, progress.step - 1)

    def value(self) -> float:
        """The penalty of the present weights. A collective where they are sharded: call it on all ranks."""
        with torch.no_grad():
            norms = [
                torch.linalg.vector_norm(local_shard(p if start is None else p - start).float())
                for p, start in self._pairs
            ]
            squares = self._learner.parallel.total_norms(torch.stack(norms)).double().square().tolist()
        strengths = [self.penalty.beta if start is None else self.penalty.alpha for _, start in self._pairs]
        return math.fsum(strength / 2 * square for strength, square in zip(strengths, squares, strict=True))
