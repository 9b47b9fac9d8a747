"""Arms, their settings and the base rates that each tries: what a study does, without how it is run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Score = float | None  # the higher the better; None: its runs have failed


@dataclass
class Setting:
    """One setting of an arm, all but its base rate; `name` says how it differs from the arm's others.

    `scores`: what was found on validation at each rate tried, the mean over the seeds of the search.
    """

    arm: str
    name: str
    overrides: tuple[str, ...]
    rates: list[str]
    train_samples: int | None = None  # None: all there are
    scores: dict[str, Score] = field(default_factory=dict)
    widened: int = 0

    def add(self, rate: str) -> None:
        """Try one more rate, beyond the others."""
        self.rates.append(rate)
        self.widened += 1

    @property
    def best(self) -> str | None:
        """The best rate; the middle one of several that are equally good; None where all have failed."""
        found = {rate: score for rate, score in self.scores.items() if score is not None and not math.isnan(score)}
        if not found:
            return None
        highest = max(found.values())
        tied = sorted((rate for rate, score in found.items() if score == highest), key=float)
        return tied[(len(tied) - 1) // 2]

    @property
    def score(self) -> float:
        """That of the best rate; -inf where all have failed."""
        best = None if self.best is None else self.scores[self.best]
        return -math.inf if best is None else best

    def wider(self, grid: Sequence[float], most: int) -> str | None:
        """The next rate beyond the end of the rates at which the best one lies, as far from it as those of `grid`.

        None where the best one is inside, or `most` such rates have been added.
        """
        best, tried = self.best, sorted(self.rates, key=float)
        if best is None or self.widened >= most or len(grid) < 2 or best not in (tried[0], tried[-1]):
            return None
        if best == tried[-1]:
            return shown(float(best) * grid[-1] / grid[-2])
        return shown(float(best) * grid[0] / grid[1])


def refined(grid: Sequence[float], trials: int) -> list[str]:
    """`grid` with as many rates between its own, evenly on a log scale, as make it `trials` or a few more.

    >>> refined([1e-3, 1e-2], 3)
    ['0.001', '0.00316', '0.01']
    """
    steps = max(1, math.ceil((trials - 1) / (len(grid) - 1))) if len(grid) > 1 else 1
    finer = [low * (high / low) ** (k / steps) for low, high in itertools.pairwise(grid) for k in range(steps)]
    given = {*grid}
    return [typed(rate) if rate in given else shown(rate) for rate in [*finer, grid[-1]]]


def best_settings(settings: Sequence[Setting]) -> Mapping[str, Setting]:
    """The best setting of each arm that has one, the first of several that are equally good."""
    found: dict[str, Setting] = {}
    for setting in settings:
        if setting.best is not None and (setting.arm not in found or setting.score > found[setting.arm].score):
            found[setting.arm] = setting
    return found


def typed(rate: float) -> str:
    """A rate of a grid as an override says it.

    >>> typed(0.00031), typed(0.0012345)
    ('0.00031', '0.0012345')
    """
    return f"{rate:.12g}"


def shown(rate: float) -> str:
    """A rate that was computed as an override says it: three digits.

    >>> shown(0.0031622776)
    '0.00316'
    """
    return f"{rate:.3g}"
