"""Rates from the gradients of the training loss, layer by layer: surgical fine-tuning.

Lee, Chen, Tajwar, Kumar, Yao, Liang and Finn: Surgical Fine-Tuning Improves Adaptation to Distribution Shifts, ICLR
2023, arXiv:2210.11466; their code: github.com/anniesch/surgical-finetuning, `main.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from lwexp.core.options import at_least, between
from lwexp.errors import ConfigError

from .base import MeasuredDecay

if TYPE_CHECKING:
    from .probe import Probe

_EMPTIED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.SGD,
            torch.optim.RMSprop)  # fmt: skip
_ADDED = 1e-8  # in the authors' code, to the variance
_LARGEST = 1e8  # beyond, the variance is that of rounding: all batches are the same examples


@dataclass(kw_only=True)
class GradientDecay(MeasuredDecay):
    """What both rules have in common: they look at the gradients of the next `batches` optimizer steps.

    Without `norms` only the other parameters are measured: a norm has the scale of its group, and a group of nothing
    else rests. The authors' code leaves norms out of the measurement and of the optimizer; their paper does not.

    `reset_optimizer`: each measurement empties the optimizer's state, its moments, as in the authors' code, which makes
    a new Adam each epoch; their paper does not say so. For adam, adamw, nadam, radam, sgd and rmsprop of torch.
    """

    every_epochs: float | None = 1.0
    batches: int = 5
    norms: bool = True
    reset_optimizer: bool = False

    def __post_init__(self) -> None:
        """Raise `ConfigError` for options out of range."""
        super().__post_init__()
        at_least("decay.batches", self.batches, 1)

    def names(self, probe: Probe) -> dict[int, list[str]]:
        """The parameters to measure of each compared group, by its position."""
        without = set() if self.norms else norm_parameters(probe.model)
        return {i: [name for name in probe.names(i) if name not in without] for i in probe.compared}

    def empty(self, optimizer: torch.optim.Optimizer) -> None:
        """Empty the optimizer's state if `reset_optimizer`; it makes a new one in its next step."""
        if not self.reset_optimizer:
            return
        if not isinstance(optimizer, _EMPTIED):
            why = f"{type(optimizer).__name__} does not make a new state by itself; choose adam, adamw, sgd or rmsprop"
            raise ConfigError("decay.reset_optimizer", True, why)
        optimizer.state.clear()
        optimizer.__setstate__({})  # type: ignore[no-untyped-call]  # forgets what it has kept of the old state


@dataclass(kw_only=True)
class AutoRGN(GradientDecay):
    """The relative gradient norm of each group, over the largest (Lee et al. 2022, Auto-RGN).

    scale[i] = r[i] / max(r) with r[i] = ||g[i]|| / ||w[i]||; w[i] are the weights of group i, g[i] is the gradient of
    the training loss by them. So the group whose weights the loss would change most, for their size, has the base rate.
    The paper has the rates of each epoch from this, and a group for each tensor: `grouping=per_parameter`. It compares
    a new head with the rest: `include_new`.

    `average="norms"`: r[i] is the mean of those of the batches, as in the authors' code, which has 5 batches.
    "gradients": it is that of their mean gradient, in which the noise of the batches is smaller. Where all weights of a
    group are 0, which is a division by 0 in their code, the group keeps its scale.
    """

    average: Literal["norms", "gradients"] = "norms"

    needs: ClassVar[str] = "gradients and weights"

    def measure(self, probe: Probe) -> dict[int, float]:
        """The relative gradient norm of each compared group, over the largest."""
        names = self.names(probe)
        weights = {i: norm(probe.weight(name) for name in own) for i, own in names.items() if own}
        sums = dict.fromkeys(weights, 0.0)
        mean = Moments()
        for gradients in probe.gradients(self.batches):
            if self.average == "gradients":
                mean.add(gradients)
            else:
                for i in sums:
                    sums[i] += norm(gradients[name] for name in names[i] if name in gradients) / self.batches
        if self.average == "gradients":
            sums = {i: norm(mean.mean[name] for name in names[i] if name in mean.mean) for i in sums}
        self.empty(probe.optimizer)
        scales = over_largest({i: sums[i] / weights[i] for i in sums if weights[i] > 0})
        return {**scales, **{i: 0.0 for i, own in names.items() if not own}}


@dataclass(kw_only=True)
class AutoSNR(GradientDecay):
    """Groups whose gradients are mostly noise rest; the others have the base rate (Lee et al. 2022, Auto-SNR).

    scale[i] = 1 if s[i] >= `threshold`, else 0; s[i] is the mean of mean(g)**2 / var(g) over the weights of group i,
    over the largest one of all groups. The paper has mean and variance of a weight's gradient g over the examples of a
    batch, tunes the threshold, and has a group for each tensor: `grouping=per_parameter`.

    `noise="batches"`: mean and variance are those over the gradients of `batches` batches (at least 3), which costs a
    few training steps and no gradient per example. The variance between batches of n examples is that of the examples
    over n, in all groups alike, so n cancels in the division by the largest. `noise="rows"` is what the authors' code
    computes: g**2 over the variance along the first axis of the weight's tensor, averaged over the batches; a tensor of
    one row has none and does not count. `normalize=False`: s[i] is not divided. Their code has that, threshold 0.95,
    5 batches and `norms=False`. Weights without gradient, as of words that do not occur, do not count; a group of
    nothing else rests.
    """

    batches: int = 8
    threshold: float = 0.5
    noise: Literal["batches", "rows"] = "batches"
    normalize: bool = True

    needs: ClassVar[str] = "gradients"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for options out of range."""
        super().__post_init__()
        if self.normalize:
            between("decay.threshold", self.threshold, 0, 1)
        at_least("decay.threshold", self.threshold, 0)
        if self.noise == "batches" and self.batches < 3:
            raise ConfigError("decay.batches", self.batches, "must be at least 3: the noise is that between batches")

    def measure(self, probe: Probe) -> dict[int, float]:
        """1 for each compared group whose signal-to-noise ratio reaches the threshold, 0 for the others."""
        ratios = self.ratios(probe)
        self.empty(probe.optimizer)
        ratios = over_largest(ratios) if self.normalize else ratios
        return {i: math.nan if math.isnan(ratio) else float(ratio >= self.threshold) for i, ratio in ratios.items()}

    def ratios(self, probe: Probe) -> dict[int, float]:
        """The signal-to-noise ratio of each compared group, not divided; 0 for one that has nothing to measure."""
        names, moments = self.names(probe), Moments()
        of_rows: dict[str, float] = {}
        for gradients in probe.gradients(self.batches):
            if self.noise == "batches":
                moments.add(gradients)
            else:
                for name in {name for own in names.values() for name in own}:
                    value = snr_of_rows(gradients[name]) if name in gradients else 0.0
                    of_rows[name] = of_rows.get(name, 0.0) + value / self.batches
        all_names = [name for own in names.values() for name in own]
        if self.noise == "rows":
            found = {name: (of_rows[name], probe.weight(name).numel()) for name in all_names}
        else:
            found = {name: moments.snr(name) for name in all_names}
        return {i: _weighted_mean([found[name] for name in own]) for i, own in names.items()}


class Moments:
    """Mean and variance of the gradients of several batches, one after the other (Welford 1962)."""

    def __init__(self) -> None:
        """No batch was added."""
        self.count = 0
        self.mean: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}  # sum of squared deviations from the mean

    def add(self, gradients: Mapping[str, Tensor]) -> None:
        """Add those of one batch by name; a missing one is 0."""
        self.count += 1
        for name in {**self.mean, **gradients}:
            gradient = gradients[name].float() if name in gradients else torch.zeros_like(self.mean[name])
            if name not in self.mean:
                self.mean[name], self._squares[name] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            difference = gradient - self.mean[name]
            self.mean[name] += difference / self.count
            self._squares[name] += difference * (gradient - self.mean[name])

    def snr(self, name: str) -> tuple[float, int]:
        """The mean of mean**2 / variance over the elements of a parameter that have a gradient, and their number.

        >>> moments = Moments()
        >>> for value in (1.0, 2.0, 3.0):
        ...     moments.add({"w": torch.tensor([value, 0.0])})
        >>> moments.snr("w")  # 2**2 / 1
        (4.0, 1)
        """
        if name not in self.mean:
            return 0.0, 0
        variance = self._squares[name] / (self.count - 1)
        ratio = (self.mean[name].square() / variance)[(self.mean[name] != 0) | (variance != 0)]
        return (float(ratio.clamp(max=_LARGEST).mean()), len(ratio)) if len(ratio) else (0.0, 0)


def snr_of_rows(gradient: Tensor) -> float:
    """The mean of g**2 / (variance along the first axis + 1e-8), as in the authors' code; NaN with a single row.

    >>> round(snr_of_rows(torch.tensor([1.0, 2.0, 3.0])), 4)
    4.6667
    """
    if gradient.ndim == 0 or len(gradient) == 1:
        return math.nan
    gradient = gradient.float()
    return float((gradient.square() / (gradient.var(dim=0, keepdim=True) + _ADDED)).mean())


def norm(tensors: Iterable[Tensor]) -> float:
    """The norm of all elements.

    >>> norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
    5.0
    """
    return math.sqrt(sum(float(torch.linalg.vector_norm(tensor.float())) ** 2 for tensor in tensors))


def over_largest(values: Mapping[int, float]) -> dict[int, float]:
    """The values over the largest finite one; none where that is 0.

    >>> over_largest({0: 1.0, 2: 4.0, 5: float("nan")})
    {0: 0.25, 2: 1.0, 5: nan}
    """
    largest = max((value for value in values.values() if math.isfinite(value)), default=0.0)
    return {i: value / largest for i, value in values.items()} if largest > 0 else {}


def norm_parameters(model: nn.Module) -> set[str]:
    """The parameters of the model's norms: of modules whose class is named so, as `BatchNorm2d` or `RMSNorm`.

    >>> sorted(norm_parameters(nn.Sequential(nn.Linear(1, 1), nn.LayerNorm(1))))
    ['1.bias', '1.weight']
    """
    norms = [(path, part) for path, part in model.named_modules() if re.search("norm", type(part).__name__, re.I)]
    return {f"{path}.{name}".strip(".") for path, part in norms for name, _ in part.named_parameters(recurse=False)}


def _weighted_mean(values: Iterable[tuple[float, int]]) -> float:
    """The mean of values by their weights, without NaN; NaN of none, 0 of no values at all."""
    pairs = [*values]
    known = [(value, weight) for value, weight in pairs if not math.isnan(value)]
    if pairs and not known:
        return math.nan
    return sum(value * weight for value, weight in known) / max(sum(weight for _, weight in known), 1)
