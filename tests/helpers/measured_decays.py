"""Measured decays of a user's own, for the tests of the mechanism."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lwexp import Callback, MeasuredDecay
from lwexp.core.measured.probe import Probe
from lwexp.training.state import StepResult


@dataclass(kw_only=True)
class GradientNorms(MeasuredDecay):
    """The norm of each group's gradient over the largest, averaged over `batches`, with a memory of all of them."""

    every_epochs: float | None = 1.0
    batches: int = 2
    value: float | None = None  # in place of what was measured
    seen: list[float] = field(default_factory=list, init=False)

    needs = "gradients"

    def measure(self, probe: Probe) -> Mapping[int, float]:
        found = dict.fromkeys(probe.compared, 0.0)
        for gradients in probe.gradients(self.batches):
            for i in found:
                found[i] += float(torch.linalg.vector_norm(torch.stack([gradients[n].norm() for n in probe.names(i)])))
        updates = probe.updates()
        self.seen.append(max(found.values()) + max(float(update.abs().max()) for update in updates.values()))
        if self.value is not None:
            return dict.fromkeys(found, self.value)
        return {i: norm / self.seen[-1] for i, norm in found.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"seen": list(self.seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = list(state["seen"])


@dataclass(kw_only=True)
class Given(MeasuredDecay):
    """The scales that a test gives, one list for each measurement."""

    given: list[list[float]] = field(default_factory=list)

    def measure(self, probe: Probe) -> Mapping[int, float]:
        return dict(enumerate(self.given.pop(0)))


@dataclass(kw_only=True)
class Updates(MeasuredDecay):
    """Keeps what a trial step would do."""

    every_steps: int | None = 1
    found: list[dict[str, Tensor]] = field(default_factory=list, init=False)

    def fresh(self) -> MeasuredDecay:
        return self  # the test reads it

    def measure(self, probe: Probe) -> Mapping[int, float]:
        self.found.append(probe.updates())
        return dict.fromkeys(probe.compared, 1.0)


@dataclass(kw_only=True)
class Failing(MeasuredDecay):
    """Fails, or returns what is no mapping of positions to numbers."""

    returns: str = "error"

    def measure(self, probe: Probe) -> Mapping[int, float]:
        wrong: Any = {"error": None, "list": [1.0, 2.0], "text": {0: "much"}}[self.returns]
        return {0: 1 / 0} if wrong is None else wrong


@dataclass(kw_only=True)
class Unwritten(MeasuredDecay):
    """Does not say how it measures."""


class Kill(Callback):
    """Ends the process at once when a step is done, where the environment has KILL_HERE."""

    def __init__(self, step: int) -> None:
        self.step = step

    def step_end(self, result: StepResult) -> None:
        if result.number == self.step and "KILL_HERE" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)


class KillAfter(Callback):
    """Ends the process at once when it has made so many steps, undone ones too, where the environment has KILL_HERE."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step_end(self, result: StepResult) -> None:
        self.left -= 1
        if self.left == 0 and "KILL_HERE" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
