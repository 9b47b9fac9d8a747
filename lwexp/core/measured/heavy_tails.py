"""Decays by the heavy tails of the weights' spectra: `temp_balance` and `heavy_tail`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar, Literal

from lwexp.core.options import at_least
from lwexp.errors import ConfigError

from .base import MeasuredDecay
from .layers import Layers, find_layers
from .spectra import Assign, Fit, eigenvalues, exponent, scale_of

if TYPE_CHECKING:
    from .probe import Probe

Ends = Literal["base", "largest", "compared"]


@dataclass(kw_only=True)
class TempBalance(MeasuredDecay):
    """Temperature balancing (Zhou et al. 2023, arXiv:2312.00359): layers with a heavier tail get smaller rates.

    From the weights alone: the exponent of each layer's spectrum (`spectra.exponent`, with `fit`, `xmin_pos` and
    `filter_zeros`), mapped to [`min_scale`, `max_scale`] by `assign` (`spectra.to_scales`), every epoch. A row of the
    plan that has several layers has the mean of their exponents; the smallest and the largest are those of rows.

    - `ends`: the first layer, the last one and embeddings keep the `base` rate (the paper), count as the row with the
      `largest` exponent, or are `compared` as all others. First and last are those of the plan.
    - Layers with fewer than `min_eigenvalues` keep the base rate, as in the authors' code: the exponent of a few
      eigenvalues is chance, and one outlier would move all other scales. So do zero matrices.
    - Biases follow their layer. `norms`: rows that have neither, such as norms, follow the layer registered before
      them; without, they keep the base rate. In a row with layers all parameters have its scale.
    """

    every_epochs: float | None = 1
    min_scale: float = 0.5
    max_scale: float | None = 1.5
    fit: Fit = "median"
    xmin_pos: float = 2.0
    filter_zeros: bool = False
    assign: Assign = "linear"
    min_eigenvalues: int = 50
    ends: Ends = "base"
    norms: bool = True

    needs: ClassVar[str] = "the spectra of the weights"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for options out of range."""
        super().__post_init__()
        if self.max_scale is None:
            raise ConfigError(
                "decay.max_scale", None, "must be a number: exponents are mapped to min_scale … max_scale"
            )
        at_least("decay.xmin_pos", self.xmin_pos, 1, strictly=True)
        at_least("decay.min_eigenvalues", self.min_eigenvalues, 2)

    def measure(self, probe: Probe) -> Mapping[int, float]:
        """The scale of each row that has, or follows, a layer with an exponent."""
        layers = find_layers(probe.model, [g.parameter_names for g in probe.plan.groups])
        return self.scales({i: probe.names(i) for i in probe.compared}, layers, self.exponents(probe, layers))

    def exponents(self, probe: Probe, layers: Layers) -> dict[str, float]:
        """The exponent of each layer of the compared rows by the name of its weight, if it has one."""
        outside = frozenset[str]() if self.ends == "compared" else layers.ends
        wanted = {name for i in probe.compared for name in probe.names(i)} - outside
        found = {}
        for name in layers.weights:
            if name in wanted:
                values = eigenvalues(probe.weight(name))
                if len(values) >= self.min_eigenvalues:
                    alpha = exponent(values, self.fit, xmin_pos=self.xmin_pos, filter_zeros=self.filter_zeros)
                    if math.isfinite(alpha):
                        found[name] = alpha
        if self.ends == "largest" and found:
            found.update(dict.fromkeys(layers.ends, max(found.values())))
        return found

    def scales(
        self, rows: Mapping[int, Iterable[str]], layers: Layers, exponents: Mapping[str, float]
    ) -> dict[int, float]:
        """From the exponents of layers to the scales of `rows`, of which those without an exponent are missing."""
        assert self.max_scale is not None
        own = {i: [exponents[n] for n in names if n in exponents] for i, names in rows.items()}
        compared = {i: fmean(alphas) for i, alphas in own.items() if alphas}
        scale = scale_of([*compared.values()], self.assign, self.min_scale, self.max_scale)
        found = {i: scale(alpha) for i, alpha in compared.items()}
        weights = {*layers.weights}
        for i, names in rows.items():
            if i not in found and weights.isdisjoint(names):
                follows = {layers.own.get(n) or (layers.before.get(n) if self.norms else None) for n in names}
                alphas = [exponents[layer] for layer in sorted(filter(None, follows)) if layer in exponents]
                if alphas:
                    found[i] = scale(fmean(alphas))
        return found


@dataclass(kw_only=True)
class HeavyTail(TempBalance):
    """LLR (He et al. 2026, arXiv:2605.22297), `temp_balance` for transformers: scales from 1 to 5, every 100 steps.

    Rates move to the new scales within `ramp_steps`. As in the authors' code the first layer, the last one and
    embeddings have the largest scale (`ends`), and norms in rows of their own the base rate (`norms`).
    """

    every_steps: int | None = 100
    every_epochs: float | None = None
    ramp_steps: int = 50
    min_scale: float = 1.0
    max_scale: float | None = 5.0
    ends: Ends = "largest"
    norms: bool = False
