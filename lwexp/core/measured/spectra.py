"""The spectrum of a layer's weights: eigenvalues, the exponent of their heavy tail, and rates from exponents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Fit = Literal["median", "goodness_of_fit", "fix_finger"]
Assign = Literal["linear", "sqrt", "log2", "step"]
FITS: tuple[Fit, ...] = get_args(Fit)
_CONV_NORM = 0.5  # the authors' factor for convolutions; exponents do not depend on it
_NEGLIGIBLE = 1e-5  # eigenvalues that the authors' `filter_zeros` leaves out
_SAME = 1e-9  # mean log λ / λmin that rounding makes of equal eigenvalues
_BINS = 100  # of the histogram whose peak `fix_finger` looks for


def eigenvalues(weight: Tensor) -> Tensor:
    """Eigenvalues of WᵀW, ascending, float64 [min(rows, columns) * matrices].

    `weight`: a matrix [out, in], or filters [out, in, …], of which every position of the kernel is a matrix [out, in],
    times √0.5; their eigenvalues are taken together, as the authors of TempBalance do. Those that rounding leaves of a
    zero are 0. All are NaN if a weight is not finite.
    """
    weight = weight.detach()
    if weight.device.type == "mps":  # has no float64
        weight = weight.cpu()
    matrices = weight.double()
    if matrices.ndim > 2:
        matrices = matrices.flatten(2).permute(2, 0, 1) * math.sqrt(_CONV_NORM)
    if matrices.shape[-2] > matrices.shape[-1]:
        matrices = matrices.mT
    gram = matrices @ matrices.mT  # its eigenvalues cost less than singular values, and in float64 are as exact
    if not bool(torch.isfinite(gram).all()):
        return torch.full((gram.shape[:-1].numel(),), math.nan, dtype=torch.float64)
    found = torch.linalg.eigvalsh(gram).cpu()
    rounding = found[..., -1:] * gram.shape[-1] * torch.finfo(torch.float64).eps
    return torch.where(found > rounding, found, 0.0).flatten().sort().values


def exponent(eigenvalues: Tensor, fit: Fit = "median", *, xmin_pos: float = 2.0, filter_zeros: bool = False) -> float:
    """The exponent alpha of a power law λ**-alpha of the largest eigenvalues, by the estimator of Hill (1975).

    alpha = 1 + n / Σ log(λᵢ / λmin) over the n eigenvalues λᵢ >= λmin, of `eigenvalues` in ascending order. `fit`
    chooses λmin: `median`, the value at 1 / `xmin_pos` of their number (Zhou et al. 2023, as in their code);
    `goodness_of_fit`, the one with the least Kolmogorov-Smirnov distance; `fix_finger`, that among those up to 1.5
    times the peak of the histogram of log λ. (The authors' lower bound for the latter compares a logarithm with a
    value, and so excludes next to nothing; it is kept.) `filter_zeros`: leave out what is below 1e-5.

    A smaller exponent is a heavier tail. It is 1 where λmin is 0, and NaN where there is none: fewer than two
    eigenvalues, all zero, all the same, or not finite.

    >>> round(exponent(torch.tensor([0.1, 0.2, 1.0, math.e])), 6)
    3.0
    """
    values = eigenvalues.double()
    if filter_zeros and bool((values > _NEGLIGIBLE).any()):
        values = values[values > _NEGLIGIBLE]
    if len(values) < 2 or not bool(torch.isfinite(values).all()) or values[-1] <= 0:
        return math.nan
    if fit == "median":
        alpha = float(_hill(values)[min(int(len(values) / xmin_pos), len(values) - 1)])
    else:
        alpha = _best(values, *(_finger(values) if fit == "fix_finger" else (0.0, math.inf)))
    return alpha if math.isfinite(alpha) else math.nan


def _hill(values: Tensor) -> Tensor:
    """The exponent for each of the ascending `values` as the least of the tail; inf where all of it are the same."""
    logs = values.log()
    counts = torch.arange(len(values), 0, -1, dtype=torch.float64)
    sums = logs.flip(0).cumsum(0).flip(0) - counts * logs
    sums = torch.where(sums > counts * _SAME, sums, 0.0)
    return 1 + counts / torch.where(values > 0, sums, math.inf)


def _finger(values: Tensor) -> tuple[float, float]:
    """Between which values `fix_finger` looks for the least of the tail."""
    logs = values[values > 0].log10()
    low, high = float(logs[0]), float(logs[-1])
    counts = torch.histc(logs.float(), _BINS, min=low, max=high)
    peak = 10 ** float(torch.linspace(low, high, _BINS + 1)[counts.argmax()])
    return math.log10(0.95 * peak), 1.5 * peak


def _best(values: Tensor, low: float, high: float) -> float:
    """The exponent whose power law is the closest to the tail, of those whose least value is from `low` to `high`."""
    alphas, found, least = _hill(values), math.nan, math.inf
    for i in range(len(values) - 1):
        xmin, alpha = float(values[i]), float(alphas[i])
        if xmin > high:
            break
        if xmin < low or not 1 < alpha < math.inf:
            continue
        tail = values[i:]
        expected = torch.arange(len(tail), dtype=torch.float64) / len(tail)
        distance = float((1 - (tail / xmin) ** (1 - alpha) - expected).abs().max())
        if distance < least:
            found, least = alpha, distance
    return found


def to_scales(exponents: Sequence[float], assign: Assign, low: float, high: float) -> list[float]:
    """Scales in the order of the exponents: heavy tails (small exponents) get small rates.

    `linear` maps them from the smallest to the largest linearly to [`low`, `high`] (Zhou et al. 2023). `step` takes
    their ranks r in place of them, low + (high - low) * r / n. `sqrt` and `log2` are the exponents' shares, times their
    number, so that the mean scale is 1. Exponents that are all the same leave all scales at 1.

    >>> to_scales([2.0, 4.0, 3.0], "linear", 0.5, 1.5)
    [0.5, 1.5, 1.0]
    """
    return [*map(scale_of(exponents, assign, low, high), exponents)]


def scale_of(exponents: Sequence[float], assign: Assign, low: float, high: float) -> Callable[[float], float]:
    """The function that `to_scales` applies, which also takes an exponent between those."""
    least, most, count = min(exponents, default=1.0), max(exponents, default=1.0), len(exponents)
    if most == least:
        return lambda alpha: 1.0
    if assign == "step":
        ranks = sorted(exponents)
        return lambda alpha: low + (high - low) * sum(other < alpha for other in ranks) / count
    if assign == "linear":
        return lambda alpha: low + (high - low) * min(max((alpha - least) / (most - least), 0.0), 1.0)
    weigh = math.sqrt if assign == "sqrt" else math.log2
    total = sum(map(weigh, exponents))
    return lambda alpha: weigh(alpha) / total * count
