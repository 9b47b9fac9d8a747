"""An exponential moving average of the weights (EMA): a second copy of the network, which is evaluated and kept."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lwexp.core.dtensor import is_sharded
from lwexp.errors import ConfigError
from lwexp.formatting import one_line


@dataclass(frozen=True)
class AverageOptions:
    """How weights are averaged: average = decay * average + (1 - decay) * weights, at each update."""

    decay: float  # above 0, below 1
    every_steps: int = 1  # optimizer steps between two updates
    start_step: int = 0  # optimizer step of the first update; before it the average is the weights themselves
    warmup: bool = True  # the decay of update n is at most (1 + n) / (10 + n), so that the first weights are forgotten


class WeightAverage:
    """The averaged network of a training: parameters and running statistics of norms; other buffers are copied.

    torch's `AveragedModel` would average all buffers or none: indices would be rounded, masks of infinities become NaN.
    """

    def __init__(self, model: nn.Module, options: AverageOptions) -> None:
        """Copy `model`, before it is parallelized. Its weights count from the first update on. Raises `ConfigError`."""
        try:
            self.module = copy.deepcopy(model)
        except Exception as error:  # a network's own code may raise anything
            raise ConfigError("ema.decay", options.decay, f"the network cannot be copied: {one_line(error)}") from error
        self.module.requires_grad_(False)
        self.options, self.updates = options, 0

    @property
    def has_begun(self) -> bool:
        """Whether there is an average yet."""
        return self.updates > 0

    def update(self, model: nn.Module, step: int) -> None:
        """The optimizer has made step `step` of `model`; nothing waits for the device."""
        options = self.options
        if step < options.start_step or (step - options.start_step) % options.every_steps:
            return
        averaged, current, others = self._matched(model)
        with torch.no_grad():
            if self.updates:
                average: Any = get_ema_multi_avg_fn  # not typed
                average(self.decay)(averaged, current, self.updates)
            else:
                for own, other in zip(averaged, current, strict=True):
                    own.copy_(other)
            for own, other in others:
                own.copy_(other)
        self.updates += 1

    @property
    def decay(self) -> float:
        """That of the next update. The warm-up is TensorFlow's (`tf.train.ExponentialMovingAverage`, `num_updates`)."""
        count, decay = self.updates, self.options.decay
        return min(decay, (1 + count) / (10 + count)) if self.options.warmup else decay

    def state_dict(self) -> dict[str, Any]:
        """State for an exact resume."""
        return {"model": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.module.load_state_dict(state["model"])
        self.updates = int(state["updates"])

    def _matched(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
        """The tensors that are averaged, those of `model` that they average, and pairs that are copied.

        Found at each update: a network may assign other tensors to its buffers (`self.count = self.count + 1`).
        """
        assert not any(map(is_sharded, model.parameters()))
        parameters = zip(self.module.parameters(), model.parameters(), strict=True)
        pairs = [(own.data, other.data) for own, other in parameters]
        others = []
        ours = dict(self.module.named_buffers())
        for name, other in model.named_buffers():
            own = ours.get(name)
            if own is None or own.shape != other.shape or own.dtype != other.dtype:  # a new one takes its place
                place, _, last = name.rpartition(".")
                module, copied = self.module.get_submodule(place), other.detach().clone()
                setattr(module, last, copied) if hasattr(module, last) else module.register_buffer(last, copied)
            elif name.endswith(("running_mean", "running_var")):
                pairs.append((own, other))
            else:
                others.append((own, other))
        return [own for own, _ in pairs], [other for _, other in pairs], others
