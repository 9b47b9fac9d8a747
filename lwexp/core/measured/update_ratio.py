"""Rates at which the steps of all groups are equally long for their weights, or fall by a factor from group to group.

LARS (You, Gitman and Ginsburg 2017, arXiv:1708.03888) and LAMB (You et al. 2020, arXiv:1904.00962) are optimizers whose
step of each layer is in proportion to the norm of its weights. This is their idea as a plan, for any optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from lwexp.core.dtensor import wide
from lwexp.core.options import at_least

from .base import MeasuredDecay
from .layers import find_layers
from .profile import profile

if TYPE_CHECKING:
    from torch import Tensor

    from .probe import Probe

Normalize = Literal["largest", "mean"]


@dataclass(kw_only=True)
class UpdateRatio(MeasuredDecay):
    """Scales at which the update ratio ||dw|| / ||w|| falls by `mult` from group to group; 1 keeps it equal.

    r[i] is the update ratio of group i for one step of the optimizer in use at the base rate, with clipping and weight
    decay; the mean over trial steps on the next `batches` batches. Then scale[i] = c * mult**index[i] / r[i]. Where the
    optimizer's step is in proportion to its rate, as those of SGD and Adam are, the next step has exactly this profile.

    With `ratio`, the wanted update ratio of the group of index 0 (1e-3 is a common value), c follows from it: rates
    mean the same with any optimizer, whatever `lr` is. Else `normalize` decides. "largest": the largest scale is 1, so
    that no group is above the base rate, as with decays that are known before. "mean": the geometric mean of the scales
    is 1, so that `lr` is a typical rate; some groups have several times that, which may diverge.

    Weights that the step does not move do not count, as the rows of an embedding that are not in the batch. A group of
    biases and norms alone has the scale of the layer that they belong to, the norms that of the layer before them: as
    in LARS and LAMB, they have no ratio of their own. A group whose weights are all 0, or do not move, keeps its scale.
    """

    every_epochs: float | None = 1.0
    mult: float = 0.95
    ratio: float | None = None
    normalize: Normalize = "largest"
    batches: int = 1

    needs: ClassVar[str] = "trial steps of the optimizer"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for options out of range."""
        super().__post_init__()
        at_least("decay.mult", self.mult, 0, strictly=True)
        at_least("decay.batches", self.batches, 1)
        if self.ratio is not None:
            at_least("decay.ratio", self.ratio, 0, strictly=True)

    def measure(self, probe: Probe) -> dict[int, float]:
        """The scales for the wanted profile of each compared group."""
        weights = {i: {name: probe.weight(name) for name in probe.names(i)} for i in probe.compared}
        sums = dict.fromkeys(weights, 0.0)
        for batch in range(self.batches):
            updates = probe.updates(batch)
            for i, own in weights.items():
                sums[i] += update_ratio([(w, updates[name]) for name, w in own.items()]) / self.batches
        groups, wanted = probe.plan.groups, profile(probe.plan, self.mult)
        with_matrix = [i for i, own in weights.items() if any(w.ndim > 1 for w in own.values())] or [*weights]
        ratios = {i: sums[i] * groups[i].base_scale for i in with_matrix}
        found = scales_for(ratios, {i: wanted[i] for i in ratios}, ratio=self.ratio, normalize=self.normalize)
        leaders = _leaders(probe, weights, with_matrix)
        return {**found, **{i: found[leader] for i, leader in leaders.items() if leader in found}}


def _leaders(probe: Probe, rows: Mapping[int, Mapping[str, Tensor]], with_matrix: Collection[int]) -> dict[int, int]:
    """The row with the weight of the layer that each row of biases and norms alone belongs to."""
    layers = find_layers(probe.model, [[*own] for own in rows.values()])
    row_of = {name: i for i in with_matrix for name in rows[i]}
    weight_of = {i: next(iter(rows[i])) for i in rows if i not in with_matrix}
    weight_of = {i: layers.own.get(name) or layers.before.get(name, "") for i, name in weight_of.items()}
    return {i: row_of[weight] for i, weight in weight_of.items() if weight in row_of}


def update_ratio(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """||dw|| / ||w|| over all pairs of weights and their change, of equal shapes, without weights that do not move.

    NaN where nothing moves; infinite where the weights that move are all 0.

    >>> from torch import ones, tensor, zeros
    >>> update_ratio([(tensor([3.0, 4.0]), tensor([0.75, 1.0])), (ones(2), zeros(2))])
    0.25
    """
    change = sum(float(wide(dw).square().sum()) for _, dw in pairs)
    size = sum(float((wide(w).square() * (dw != 0)).sum()) for w, dw in pairs)
    if change == 0:
        return math.nan
    return math.sqrt(change / size) if size else math.inf


def scales_for(
    ratios: Mapping[int, float], wanted: Mapping[int, float], *, ratio: float | None = None, normalize: Normalize
) -> dict[int, float]:
    """scale = c * wanted / ratio, with c as in `UpdateRatio`; a group without a finite ratio above 0 has none.

    >>> scales_for({0: 0.1, 1: 0.2}, {0: 1, 1: 1}, normalize="largest")
    {0: 1.0, 1: 0.5}
    >>> {i: round(s, 6) for i, s in scales_for({0: 0.1, 1: 0.4}, {0: 1, 1: 1}, normalize="mean").items()}
    {0: 2.0, 1: 0.5}
    >>> scales_for({0: 0.1, 1: 0.4}, {0: 1, 1: 0.5}, ratio=0.2, normalize="mean")
    {0: 2.0, 1: 0.25}
    """
    raw = {i: wanted[i] / r for i, r in ratios.items() if math.isfinite(r) and r > 0}
    if not raw:
        return {}
    if ratio is not None:
        return {i: value * ratio for i, value in raw.items()}
    largest, mean = max(raw.values()), math.exp(math.fsum(map(math.log, raw.values())) / len(raw))
    return {i: value / (largest if normalize == "largest" else mean) for i, value in raw.items()}
