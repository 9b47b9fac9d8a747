"""`auto_lr`: rates such that the change of the weights in an epoch rises evenly from the stem to the head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from lwexp.core.options import at_least, between, whole
from lwexp.core.plan_table import PlanGroup, PlanTable
from lwexp.errors import ConfigError

from .base import MeasuredDecay
from .variation import even_targets, mended_targets, new_rates, sorting_quality

if TYPE_CHECKING:
    from .probe import Probe


@dataclass(frozen=True)
class Layer:
    """Rows of a plan that share an index: they are compared as one."""

    positions: tuple[int, ...]  # in plan.groups
    names: tuple[str, ...]  # of the trained tensors whose change is looked at; of two or more dimensions
    name: str


@dataclass(frozen=True)
class Verdict:
    """How an epoch has moved the weights, and the scales that would have moved them in order."""

    quality: float  # 1: in order
    wanted: float
    targets: Mapping[int, float]  # of the layers that moved, by their place from the stem: wanted change per weight
    scales: Mapping[int, float]  # by position in plan.groups

    @property
    def in_order(self) -> bool:
        """Whether the epoch is good enough."""
        return self.quality >= self.wanted


@dataclass(kw_only=True)
class AutoLR(MeasuredDecay):
    """An epoch in which the weights change in the wrong order is undone and run again with other rates.

    Ro and Choi 2021, AutoLR, arXiv:2002.06048. After an epoch the change of each layer is the norm of the change of its
    matrices and kernels ÷ the count of their weights, and `sorting_quality` says how well these rise from the stem to
    the head. Below `quality` (0.94; times `relax` in each further epoch until it is `least_quality`), each scale is
    multiplied by wanted ÷ own change. In the first epoch the wanted changes are equal steps from `bottom` times the
    smallest to `top` times the largest; later only those out of order change. The epoch is undone and run again with
    the same batches, at most `retries` times; then it is kept, and its new scales count for the next one.

    The published change shrinks with the size of a layer, so that small and large layers get very different rates;
    `root_mean_square` (ours) divides by the root of the count, and layers of any size count alike.

    Where the authors' code (train.py) does what is not of the rule, it is an option: `stem_factor` 0.5 leaves the stem
    out of the comparison and gives it half the rate of the layer after it; `fresh_optimizer` starts each epoch without
    momentum. It has no limit of retries, and stops with an error where a wanted change is negative; here it is then
    half of its neighbor's.
    """

    quality: float = 0.94
    relax: float = 0.99
    least_quality: float = 0.8
    bottom: float = 2.0
    top: float = 0.4
    retries: int = 5
    root_mean_square: bool = False
    stem_factor: float | None = None
    fresh_optimizer: bool = False

    needs: ClassVar[str] = "the change of the weights"
    after_epochs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise `ConfigError` for options out of range."""
        super().__post_init__()
        for key in ("every_steps", "every_epochs"):
            value = getattr(self, key)
            if value is not None:
                raise ConfigError(f"decay.{key}", value, "auto_lr measures after each epoch; must be null")
        if self.ramp_steps:
            raise ConfigError("decay.ramp_steps", self.ramp_steps, "auto_lr compares whole epochs; must be 0")
        for key in ("quality", "relax", "least_quality"):
            between(f"decay.{key}", getattr(self, key), 0, 1)
        for key in ("bottom", "top"):
            at_least(f"decay.{key}", getattr(self, key), 0, strictly=True)
        at_least("decay.retries", whole("decay.retries", self.retries), 0)
        if self.stem_factor is not None:
            at_least("decay.stem_factor", self.stem_factor, 0)

    def when(self, steps_per_epoch: int | None = None) -> str:
        """When it measures, in words."""
        times = f"at most {self.retries} time{'s' if self.retries > 1 else ''}"
        undone = f", which is undone and run again, {times}, where their order is wrong" if self.retries else ""
        return f"after each epoch{undone}"

    def measure(self, probe: Probe) -> Mapping[int, float]:
        """Not between two steps. Raises `ConfigError`."""
        why = "undoes epochs, which only lwexp's own training does: python -m lwexp.run decay=auto_lr"
        raise ConfigError("decay", "auto_lr", why)

    def threshold(self, epoch: int) -> float:
        """The quality that epoch number `epoch`, from 0, must have.

        >>> round(AutoLR().threshold(0), 4), round(AutoLR().threshold(1), 4), round(AutoLR().threshold(50), 4)
        (0.94, 0.9306, 0.7924)
        """
        wanted = self.quality
        for _ in range(epoch):
            if wanted > self.least_quality:
                wanted *= self.relax
        return wanted

    def verdict(
        self,
        layers: Sequence[Layer],
        variations: Sequence[float],
        scales: Sequence[float],
        epoch: int,
        targets: Mapping[int, float] | None = None,
    ) -> Verdict:
        """The verdict on epoch number `epoch`, in which `layers`, from the stem, changed by `variations`.

        `scales`: of all of the plan's rows in that epoch; `targets`: of the epoch's first try, if this is another.
        Layers that did not move, since they rest, are not compared.
        """
        first = 0 if self.stem_factor is None else 1
        moved = [i for i, own in enumerate(variations) if own > 0 and i >= first]
        wanted = self.threshold(epoch)
        if len(moved) < 2:
            return Verdict(1.0, wanted, {}, {})
        own = [variations[i] for i in moved]
        if targets is None or targets.keys() != {*moved}:
            bounds = {"bottom": self.bottom, "top": self.top}
            targets = dict(zip(moved, even_targets(own, **bounds) if epoch == 0 else mended_targets(own), strict=True))
        before = [scales[layers[i].positions[0]] for i in moved]
        new = dict(zip(moved, new_rates(before, own, [targets[i] for i in moved]), strict=True))
        if self.stem_factor is not None and moved[0] == 1 and variations[0] > 0:
            new[0] = self.stem_factor * new[1]
        found = {position: scale for i, scale in new.items() for position in layers[i].positions}
        return Verdict(sorting_quality(own), wanted, targets, found)


def compared_layers(plan: PlanTable, parameters: Mapping[str, Tensor], compared: Iterable[int]) -> list[Layer]:
    """The layers among the `compared` rows, from the stem to the head.

    Rows without a matrix or kernel (a norm of its own) follow the layer before them, at the stem the one after them.
    Raises `ConfigError` where there are fewer than two.
    """
    rows: dict[int, list[int]] = {}
    for position in compared:
        rows.setdefault(plan.groups[position].index, []).append(position)
    layers: list[Layer] = []
    waiting: list[int] = []  # without one before them
    for index in sorted(rows, reverse=True):
        positions = rows[index]
        names = tuple(n for p in positions for n in _matrices(plan.groups[p], parameters))
        if names:
            layers.append(Layer((*positions, *waiting), names, plan.groups[positions[0]].name))
            waiting = []
        elif layers:
            layers[-1] = Layer((*layers[-1].positions, *positions), layers[-1].names, layers[-1].name)
        else:
            waiting += positions
    if len(layers) < 2:
        why = f"compares groups that train matrices or kernels, and there {'is one' if layers else 'is none'}"
        raise ConfigError("decay", plan.decay, f"{why}; a finer grouping than {plan.grouping} has more")
    return layers


def _matrices(group: PlanGroup, parameters: Mapping[str, Tensor]) -> list[str]:
    frozen = {*group.frozen_names}
    return [n for n in group.optimizer_names if n not in frozen and parameters[n].ndim > 1]
