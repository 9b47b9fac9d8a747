"""How much the base rate matters: the range of rates with which a setting comes close to the best result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SHARE = 0.95  # of the best value
_TIE = 1e-12


@dataclass(frozen=True)
class Range:
    """Base rates from `low` to `high`; `cut`: whether the grid of rates ends there, so that the range may be wider."""

    low: float
    high: float
    cut: tuple[bool, bool] = (False, False)

    @property
    def factor(self) -> float:
        """`high` / `low`; 1 where a single rate is good."""
        return self.high / self.low

    @property
    def text(self) -> str:
        """The factor, with a sign where the range may be wider.

        >>> Range(1e-4, 1.2e-3).text, Range(1e-4, 1e-2, (True, False)).text
        ('×12', '≥×100')
        """
        return f"{'≥' if any(self.cut) else ''}\u00d7{_digits(self.factor)}"

    @property
    def ends(self) -> str:
        """Its ends as rates.

        >>> Range(1e-4, 1.234e-3).ends
        '0.0001 to 0.0012'
        """
        return f"{self.low:.2g} to {self.high:.2g}"


def threshold(best: float, lower_is_better: bool) -> float:
    """The value that counts as close to `best`: not worse than it by more than 5 % of its size.

    >>> threshold(0.8, False), threshold(2.0, True), round(threshold(-1.0, False), 2)
    (0.76, 2.1, -1.05)
    """
    margin = (1 - SHARE) * abs(best)
    return round(best + margin if lower_is_better else best - margin, 15)


def good_range(rates: Sequence[float], values: Sequence[float], least: float, lower_is_better: bool) -> Range | None:
    """The widest range of `rates`, in ascending order, whose `values` are not worse than `least`; None without one.

    Between two rates the value is interpolated on the log of the rate. A NaN is that of a training that failed, which
    no range includes: there is nothing to interpolate to, so the range ends at the last rate that is good.

    >>> good_range([1e-4, 1e-3, 1e-2, 1e-1], [0.5, 0.8, 0.8, 0.7], 0.75, False)  # doctest: +ELLIPSIS
    Range(low=0.00068..., high=0.0316..., cut=(False, False))
    """
    sign = -1 if lower_is_better else 1
    level = [-math.inf if math.isnan(value) else sign * value for value in values]
    needed, at = sign * least - _TIE * abs(least), [math.log(rate) for rate in rates]
    good = [value >= needed for value in level]
    best: Range | None = None
    for first in range(len(good)):
        if not good[first] or (first and good[first - 1]):
            continue
        last = first
        while last + 1 < len(good) and good[last + 1]:
            last += 1
        ends = [_crossing(at, level, needed, first, first - 1), _crossing(at, level, needed, last, last + 1)]
        found = Range(rates[first] if ends[0] == at[first] else math.exp(ends[0]),
                      rates[last] if ends[1] == at[last] else math.exp(ends[1]),
                      (first == 0, last == len(good) - 1))  # fmt: skip
        if best is None or found.factor > best.factor * (1 + _TIE):
            best = found
    return best


def _crossing(at: Sequence[float], level: Sequence[float], needed: float, good: int, bad: int) -> float:
    """Where, from the rate `good` towards its neighbor `bad`, the value falls below `needed`."""
    if not 0 <= bad < len(level) or math.isinf(level[bad]):
        return at[good]
    share = (level[good] - needed) / (level[good] - level[bad])
    return at[good] + share * (at[bad] - at[good])


def _digits(factor: float) -> str:
    if factor >= 1e6:
        return f"{factor:.0e}".replace("e+0", "e").replace("e+", "e")
    return f"{factor:.2g}" if factor < 100 else f"{float(f'{factor:.2g}'):,.0f}"
