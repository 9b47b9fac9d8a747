"""The numbers behind a report: intervals over seeds, exact paired tests, correction for the settings compared.

Training runs of one seed share its noise (initial weights, order of the batches), so a setting is compared with uniform
rates seed by seed. With few seeds the differences cannot be known to be normal. What is *claimed* therefore rests on a
test that is exact for any number of seeds, flipping the signs of the differences (Fisher 1935; Good 2005, ch. 3). When
several settings are compared, the greatest of their statistics is the reference, so that the chance of any false claim
stays below the level (Westfall and Young 1993; Romano and Wolf 2005, doi:10.1198/016214504000000539).

The interval of a mean accuracy is a t interval on the logit scale, so it stays within 0 and 100 % and is longer to the
far side (as `svyciprop(method="logit")` of R's package survey; Agresti 2013, Categorical Data Analysis, section 3.1).
That of a difference is the paired t interval, without what the intervals of its two means leave no room for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats  # type: ignore[import-untyped]

Floats = NDArray[np.float64]

EXACT_SEEDS = 16  # up to this number of seeds all flips are used: 2**15 of them, as a flip of all changes nothing
RANDOM_FLIPS = 20_000
POWER = 0.8
MOST_SEEDS = 1000
_BLOCK = 1 << 22  # numbers held at a time
_TIE = 1e-9  # sums of unit columns that are equal on paper differ in their last bits


Limits = tuple[float, float]
UNLIMITED: Limits = (-math.inf, math.inf)


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation and interval of `n` values; what cannot be known from them is NaN.

    There is no interval where all values are equal: their spread is not 0, it has not been seen.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float


NOTHING = Summary(0, *[math.nan] * 4)


@dataclass(frozen=True)
class Comparison(Summary):
    """A paired difference over `n` seeds: its t interval, and what holds for several comparisons at once.

    `low_all`, `high_all`: the intervals of all `together` hold at once with the stated confidence (Bonferroni, which
    needs nothing of how settings depend on each other). `p`: two-sided sign-flip test of this difference alone;
    `p_sign`: exact sign test without ties; `p_adjusted`: sign-flip test corrected for all `compared`.
    """

    low_all: float
    high_all: float
    p: float
    p_sign: float
    p_adjusted: float
    together: int
    compared: int


def summarize(values: Floats, confidence: float = 0.95, limits: Limits = UNLIMITED) -> Summary:
    """The interval of the mean of `values` [n], which lie within `limits`; NaN is omitted.

    With h = t(n - 1) · sd / √n it is mean ± h, cut at the limits. Where both limits are finite it is instead
    low + (high - low) · expit(logit(p) ± h / ((high - low) · p · (1 - p))), with p = (mean - low) / (high - low): the
    t interval on the logit scale by the delta method.

    >>> summarize(np.array([1.0, 2.0, 3.0]))  # doctest: +ELLIPSIS
    Summary(n=3, mean=2.0, sd=1.0, low=-0.484..., high=4.484...)
    >>> summarize(np.array([0.97, 0.99]), limits=(0.0, 1.0))  # doctest: +ELLIPSIS
    Summary(n=2, mean=0.98, sd=0.014..., low=0.069..., high=0.999...)
    """
    values = values[~np.isnan(values)]
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    sd = float(values.std(ddof=1)) if n > 1 else math.nan
    if n < 2 or np.ptp(values) <= _TIE * max(1.0, abs(mean)):
        return Summary(n, mean, sd, math.nan, math.nan)
    half = _quantile((1 + confidence) / 2, n - 1) * sd / math.sqrt(n)
    low, high = limits
    if not math.isinf(high - low):
        share = (mean - low) / (high - low)
        center, half = special.logit(share), half / ((high - low) * share * (1 - share))
        ends = [low + (high - low) * float(special.expit(center + sign * half)) for sign in (-1, 1)]
        return Summary(n, mean, sd, *ends)
    return Summary(n, mean, sd, max(mean - half, low), min(mean + half, high))


def compare(
    values: Floats,
    others: Floats | float = 0.0,
    *,
    confidence: float = 0.95,
    together: int | None = None,
    limits: Limits = UNLIMITED,
) -> list[Comparison]:
    """One comparison for each column of `values` - `others`, both [seeds, settings]; NaN where a seed is missing.

    p values are corrected for all columns; intervals hold at once for the first `together` of them, by default all. A
    column with fewer than two seeds is not counted, and its p values are NaN. All values lie within `limits`.
    """
    differences = values - others
    values, others = (np.where(np.isnan(differences), math.nan, part) for part in (values, others))
    tested = (~np.isnan(differences)).sum(axis=0) >= 2
    compared, simultaneous = int(tested.sum()), int(tested[:together].sum())
    p, p_adjusted = np.full((2, differences.shape[1]), math.nan)
    if compared:
        p[tested], p_adjusted[tested] = sign_flip(differences[:, tested])
    found = []
    for k, column in enumerate(differences.T):
        every, one = (
            _difference(column, values[:, k], others[:, k], share, limits)
            for share in (1 - (1 - confidence) / max(simultaneous, 1), confidence)
        )
        found.append(
            Comparison(
                **vars(one), low_all=every.low, high_all=every.high, p=float(p[k]),
                p_sign=_sign_test(column) if tested[k] else math.nan, p_adjusted=float(p_adjusted[k]),
                together=simultaneous, compared=compared,
            )
        )  # fmt: skip
    return found


def _difference(column: Floats, values: Floats, others: Floats, confidence: float, limits: Limits) -> Summary:
    """The t interval of a mean difference, cut at what the intervals of the two means allow."""
    found = summarize(column, confidence)
    if math.isnan(found.low) or limits == UNLIMITED:
        return found
    (low, high), (other_low, other_high) = (_ends(summarize(v, confidence, limits), limits) for v in (values, others))
    return replace(
        found,
        low=min(max(found.low, low - other_high), found.mean),
        high=max(min(found.high, high - other_low), found.mean),
    )


def _ends(found: Summary, limits: Limits) -> Limits:
    return limits if math.isnan(found.low) else (found.low, found.high)


def sign_flip(differences: Floats) -> tuple[Floats, Floats]:
    """Two-sided p values [settings] of the paired differences [seeds, settings]: of each alone, and corrected.

    z = |Σ ε d| / √(Σ d²) over a column's seeds, with signs ε that are the same for all columns; p is the share of all
    sign patterns whose z is not below the observed one. z orders the patterns as the t statistic does, is finite where
    all differences are equal, and gives columns of unequal length one scale. A missing difference (NaN) takes no part.
    Up to 16 seeds all patterns are used; above, 20,000 random ones and the observed one (Phipson and Smyth 2010,
    doi:10.2202/1544-6115.1585), with a fixed seed.

    The first value is exact where setting and uniform can be exchanged within a seed. The second compares with the
    greatest z of all columns not yet rejected (step-down); it is exact where the columns together are symmetric
    about 0.

    >>> alone, corrected = sign_flip(np.array([[1.0, 1.0], [2.0, -1.0], [3.0, 1.0]]))
    >>> alone.tolist(), corrected.tolist()
    ([0.25, 1.0], [0.5, 1.0])
    """
    known = np.nan_to_num(differences, nan=0.0)
    length = np.sqrt((known**2).sum(axis=0))
    unit = np.divide(known, length, out=np.zeros_like(known), where=length > 0)
    observed = np.abs(unit.sum(axis=0)) - _TIE
    order = np.argsort(-observed, kind="stable")
    alone, corrected, total = np.zeros(len(order)), np.zeros(len(order)), 0
    for signs in _patterns(*known.shape):
        z = np.abs(signs @ unit)[:, order]
        alone += (z >= observed[order]).sum(axis=0)
        greatest = np.maximum.accumulate(z[:, ::-1], axis=1)[:, ::-1]  # of this column and all with a lower z
        corrected += (greatest >= observed[order]).sum(axis=0)
        total += len(signs)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return (alone / total)[back], np.maximum.accumulate(corrected / total)[back]


def fewest_seeds(level: float) -> int:
    """The fewest seeds with which the sign-flip test can fall to `level`: n seeds give no p below 2 / 2**n.

    >>> fewest_seeds(0.05), fewest_seeds(0.01)
    (6, 8)
    """
    return max(2, math.ceil(1 - math.log2(level) - 1e-9))


def lowest_p(seeds: int) -> float:
    """The lowest p value that the sign-flip test gives with so many seeds.

    >>> lowest_p(3), lowest_p(6)
    (0.25, 0.03125)
    """
    return 2.0 ** (1 - seeds) if seeds <= EXACT_SEEDS else 1 / (RANDOM_FLIPS + 1)


def seeds_needed(difference: float, sd: float, level: float, power: float = POWER) -> int | None:
    """About how many seeds find a true paired `difference` with the chance `power`; None above 1,000 or if unknown.

    By the power of the two-sided paired t test at `level` (noncentral t; Colas et al. 2018, arXiv:1806.08295), and no
    fewer than the sign-flip test needs.

    >>> seeds_needed(0.01, 0.01, 0.05), seeds_needed(0.02, 0.01, 0.05), seeds_needed(0.0, 0.01, 0.05)
    (10, 6, None)
    """
    fewest = fewest_seeds(level)
    if not math.isfinite(difference) or not math.isfinite(sd) or difference == 0:
        return None
    if sd == 0:
        return fewest
    seeds = np.arange(fewest, MOST_SEEDS + 1)
    enough = np.flatnonzero(t_power(abs(difference) / sd, seeds, level) >= power)
    return int(seeds[enough[0]]) if len(enough) else None


def detectable(sd: float, seeds: int, level: float, power: float = POWER) -> float:
    """The true paired difference that `seeds` seeds find with the chance `power`; NaN if unknown.

    The inverse of `seeds_needed`: `sd` is that of the paired differences, the power that of the two-sided paired t test
    at `level`.

    >>> round(detectable(0.01, 8, 0.05), 4), round(detectable(0.01, 32, 0.05), 4)
    (0.0116, 0.0051)
    """
    if seeds < 2 or not sd > 0:
        return math.nan
    count = np.array([seeds])
    return sd * float(optimize.brentq(lambda effect: float(t_power(effect, count, level)[0]) - power, 0.0, 1e6))


def t_power(effect: float, seeds: NDArray[np.int64], level: float) -> Floats:
    """Power of the two-sided one-sample t test for `effect` = mean / sd, at each number of `seeds`."""
    limit = stats.t.ppf(1 - level / 2, seeds - 1)
    shift = np.minimum(effect * np.sqrt(seeds), limit + 8)  # beyond, the power is 1
    below = np.nan_to_num(stats.nct.cdf(-limit, seeds - 1, shift), nan=0.0)  # so small that the library gives up
    found: Floats = stats.nct.sf(limit, seeds - 1, shift) + below
    return found


@lru_cache(maxsize=256)
def _quantile(share: float, freedom: int) -> float:
    """Of Student's t, which takes longer to look up than all the rest of a comparison."""
    return float(stats.t.ppf(share, freedom))


@lru_cache(maxsize=256)
def _sign_p(up: int, nonzero: int) -> float:
    return float(stats.binomtest(up, nonzero).pvalue) if nonzero else 1.0


def _sign_test(column: Floats) -> float:
    up, down = int((column > 0).sum()), int((column < 0).sum())
    return _sign_p(up, up + down)


def _patterns(seeds: int, columns: int) -> Iterator[Floats]:
    """Blocks of sign patterns [patterns, seeds]; the observed one (all +) is among them."""
    rows = max(1, _BLOCK // max(seeds, columns))
    if seeds <= EXACT_SEEDS:
        for first in range(0, 1 << (seeds - 1), rows):  # the last sign stays +
            number = np.arange(first, min(first + rows, 1 << (seeds - 1)))
            yield np.where((number[:, None] >> np.arange(seeds)) & 1, -1.0, 1.0)
        return
    yield np.ones((1, seeds))
    random = np.random.default_rng(0)
    for first in range(0, RANDOM_FLIPS, rows):
        drawn = random.integers(0, 2, size=(min(rows, RANDOM_FLIPS - first), seeds))
        yield np.where(drawn, -1.0, 1.0)
