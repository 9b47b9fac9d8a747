"""What a measured decay is: a rule that looks at a training and gives each group its scale."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from lwexp.core.options import at_least, between
from lwexp.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lwexp.core.plan_table import PlanTable

    from .probe import Probe

_COMMON = ("every_steps", "every_epochs", "smoothing", "min_scale", "max_scale")


@dataclass(kw_only=True)
class MeasuredDecay(ABC):
    """Base class. A subclass is a dataclass whose fields are its options, and says in `measure` what the scales are.

    The planned rate of a group is times its scale, from the measurement on until the next. Scales are measured before
    the first step, and again every `every_steps` optimizer steps or `every_epochs` epochs (None: not again).
    `smoothing` (0 to below 1) is the share of the old scale that is kept; a scale moves evenly from the old one to the
    new one over `ramp_steps` optimizer steps (0: at once), at first from 1. Scales are at least `min_scale` and at most
    `max_scale` (None: no bound).

    Parameters of a new head, those that match the patterns `new`, are groups of their own, keep the planned rate and
    are not compared with the others, unless `include_new`: the gradients of weights that were just drawn are larger by
    orders. So do groups that an absolute rate of their own or freezing sets apart.
    """

    every_steps: int | None = None
    every_epochs: float | None = None
    smoothing: float = 0.0
    ramp_steps: int = 0
    min_scale: float = 0.0
    max_scale: float | None = None
    new: Sequence[str] | None = None
    include_new: bool = False

    needs: ClassVar[str] = ""  # in words, what it looks at: for the plan's note
    after_epochs: ClassVar[bool] = False  # measured by what whole epochs did, not by a look between two steps
    observes: ClassVar[bool] = False  # whether `observe` is called

    def __post_init__(self) -> None:
        """Raise `ConfigError` for options out of range."""
        if self.every_steps is not None and self.every_epochs is not None:
            why = f"is given beside every_epochs={self.every_epochs:g}; give one of them, and null for the other"
            raise ConfigError("decay.every_steps", self.every_steps, why)
        if self.every_steps is not None:
            at_least("decay.every_steps", self.every_steps, 1)
        if self.every_epochs is not None:
            at_least("decay.every_epochs", self.every_epochs, 0, strictly=True)
        between("decay.smoothing", self.smoothing, 0, 1)
        if self.smoothing == 1:
            raise ConfigError("decay.smoothing", 1, "keeps the first scales for ever; must be below 1")
        at_least("decay.ramp_steps", self.ramp_steps, 0)
        at_least("decay.min_scale", self.min_scale, 0)
        if self.max_scale is not None:
            at_least("decay.max_scale", self.max_scale, self.min_scale)

    @abstractmethod
    def measure(self, probe: Probe) -> Mapping[int, float]:
        """The scale of each position in `probe.compared`, before bounds and smoothing.

        One that is missing or not finite leaves the group's scale as it was.
        """

    def observe(  # noqa: B027 (most rules need none)
        self, plan: PlanTable, parameters: Mapping[str, nn.Parameter], total: Callable[[Tensor], Tensor]
    ) -> None:
        """The gradients of an optimizer step are complete, before clipping; its rates are set already.

        `parameters` by name, of sharded ones with the local shard; `total` adds up such sums over the processes. On a
        GPU it should not wait for the device.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a later measurement needs of earlier ones: plain values and tensors, saved with checkpoints."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (most rules need none)
        """Continue from what `state_dict` returned."""

    @property
    def options(self) -> dict[str, Any]:
        """All options as plain values, without the patterns of a new head."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init and f.name != "new"}

    def fresh(self) -> MeasuredDecay:
        """The same rule that has not measured anything."""
        return copy.deepcopy(self)

    def when(self) -> str:
        """When it measures, in words."""
        again, ramp = "", f", and reached within {self.ramp_steps} steps" if self.ramp_steps else ""
        if self.every_steps is not None:
            again = f" and every {self.every_steps} steps"
        elif self.every_epochs is not None:
            again = " and every epoch" if self.every_epochs == 1 else f" and every {self.every_epochs:g} epochs"
        return f"before the first step{again}{ramp}"

    def interval(self, steps_per_epoch: int) -> int | None:
        """Optimizer steps between two measurements; None: there is only the first."""
        if self.every_epochs is not None:
            return max(round(self.every_epochs * steps_per_epoch), 1)
        return self.every_steps

    def bounded(self, scale: float) -> float:
        """`scale` within the bounds."""
        return min(max(scale, self.min_scale), math.inf if self.max_scale is None else self.max_scale)
