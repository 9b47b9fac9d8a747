"""The loss over a rising rate: how a range test makes the curve; plain numbers.

Sources: Smith 2017 (arXiv:1506.01186), and fastai's `lr_find` for the smoothing and the end of the test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from lwexp.core.options import at_least, between
from lwexp.errors import ConfigError

LEAST_STEPS = 30


@dataclass(frozen=True, kw_only=True)
class RangeTest:
    """A range test: the rate rises by the same factor at each of `steps` optimizer steps, `min_lr` to `max_lr`.

    `smoothing`: the share of the old mean in the moving average of the losses, which starts without a bias. It ends
    where that average is `diverged` times its smallest value, or a loss is not finite. `repeats`: so many tests from
    the same weights, each on further batches, whose losses are averaged.
    """

    min_lr: float = 1e-7
    max_lr: float = 10.0
    steps: int = 100
    repeats: int = 1
    smoothing: float = 0.98
    diverged: float = 4.0

    def check(self, key: str = "find") -> None:
        """Raise `ConfigError` for options out of range, under `key`."""
        at_least(f"{key}.min_lr", self.min_lr, 0, strictly=True)
        if self.max_lr <= self.min_lr:
            raise ConfigError(f"{key}.max_lr", self.max_lr, f"must be above {key}.min_lr={self.min_lr:g}")
        at_least(f"{key}.steps", self.steps, LEAST_STEPS)
        at_least(f"{key}.repeats", self.repeats, 1)
        between(f"{key}.smoothing", self.smoothing, 0, 1)
        if self.smoothing == 1:
            raise ConfigError(f"{key}.smoothing", 1, "keeps the first loss for ever; must be below 1")
        at_least(f"{key}.diverged", self.diverged, 1, strictly=True)

    @property
    def rates(self) -> list[float]:
        """The rate of each step.

        >>> [f"{lr:.0e}" for lr in RangeTest(min_lr=1e-3, max_lr=10, steps=5).rates]
        ['1e-03', '1e-02', '1e-01', '1e+00', '1e+01']
        """
        growth = self.max_lr / self.min_lr
        return [self.min_lr * growth ** (i / (self.steps - 1)) for i in range(self.steps)]

    def run(self, trial: Callable[[Iterable[float]], Generator[float, None, None]]) -> Curve:
        """The curve of a network: `trial` trains it at each of the rates and yields the loss before each step.

        Each call of `trial` starts at the same weights, which it puts back when its iterator is closed.
        """
        found, diverged = list[list[float]](), False
        for _ in range(self.repeats):
            with closing(trial(self.rates)) as losses:
                own, end = self._until_divergence(losses)
            found.append(own)
            diverged = diverged or end
        shortest = min(map(len, found))
        means = [math.fsum(run[i] for run in found) / len(found) for i in range(shortest)]
        return Curve(self, tuple(self.rates[:shortest]), tuple(means), tuple(smooth(means, self.smoothing)), diverged)

    def _until_divergence(self, losses: Iterable[float]) -> tuple[list[float], bool]:
        """The losses up to the one at which the test ends, and whether they diverge."""
        found, least, mean = list[float](), math.inf, 0.0
        for loss in losses:
            if not math.isfinite(loss):
                return found, True
            found.append(loss)
            mean = self.smoothing * mean + (1 - self.smoothing) * loss
            value = mean / (1 - self.smoothing ** len(found))
            if len(found) <= self.steps // 10:  # the first losses alone say little
                continue
            least = min(least, value)
            if value > least + (self.diverged - 1) * abs(least):
                return found, True
        return found, False


@dataclass(frozen=True)
class Curve:
    """What a range test has seen: for each step its rate, its loss and the smoothed loss."""

    test: RangeTest
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged: bool

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.rates)

    @property
    def looked_at(self) -> range:
        """The steps that rules look at: as fastai has it, without the first tenth of the test and the last five."""
        return range(min(self.test.steps // 10, len(self)), max(len(self) - 5, 0))


def smooth(values: Sequence[float], smoothing: float) -> list[float]:
    """The moving average of `values` at each of them, the bias of its start removed.

    mean(i) = s mean(i - 1) + (1 - s) value(i), over 1 - s^i, with s = `smoothing`.

    >>> [round(v, 4) for v in smooth([1.0, 1.0, 4.0], 0.5)]
    [1.0, 1.0, 2.7143]
    """
    found, mean = [], 0.0
    for i, value in enumerate(values):
        mean = smoothing * mean + (1 - smoothing) * value
        found.append(mean / (1 - smoothing ** (i + 1)))
    return found
