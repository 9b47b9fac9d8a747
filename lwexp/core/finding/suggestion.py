"""Which rate a curve of a range test suggests, by more than one rule, or why there is no answer; plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from .curve import Curve

FLAT = 0.03  # a smaller fall of the loss, as a share of it, is none
FALLS = 0.1  # of the whole fall, before which the steepest place is one of noise
NOISE = 2.0  # standard deviations of the smoothed loss that a fall must exceed


@dataclass(frozen=True)
class Suggestion:
    """The rates that a curve suggests, by rule. Empty where there is no answer, for the `reason`."""

    curve: Curve
    rates: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    notes: dict[str, str] = field(default_factory=dict)  # rule -> why it alone has no answer


def suggest(curve: Curve) -> Suggestion:
    """Look at a curve by every rule of `RULES`; unlike fastai, `steepest` leaves the first tenth of the fall aside."""
    reason = no_answer(curve)
    if reason:
        return Suggestion(curve, reason=reason)
    rates, losses = _looked_at(curve)
    found, notes = dict[str, float](), dict[str, str]()
    for name, rule in RULES.items():
        found[name] = rule(rates, losses)
    falls = next(i for i, loss in enumerate(losses) if loss <= losses[0] - FALLS * (losses[0] - min(losses)))
    found["steepest"] = steepest(rates[falls - 1 :], losses[falls - 1 :])
    falling = f"the loss still falls at {curve.rates[-1]:.1e}"
    if losses.index(min(losses)) == len(losses) - 1 and not curve.diverged:
        del found["minimum"]
        notes["minimum"] = falling
    lost = diverging(curve)
    if lost is None:
        notes["divergence"] = f"the loss does not rise above its start up to {curve.rates[-1]:.1e}"
    else:
        found["divergence"] = lost / 10
    return Suggestion(curve, found, notes=notes)


def no_answer(curve: Curve) -> str:
    """Why the curve suggests nothing; "" where it does."""
    rates, losses = _looked_at(curve)
    first, last = curve.test.min_lr, curve.rates[-1] if curve.rates else curve.test.min_lr
    if len(rates) < 5:
        return f"the loss diverges within {len(curve)} of {curve.test.steps} steps, at {last:.1e}; start lower, min_lr"
    least = losses.index(min(losses))
    fall, size = losses[0] - losses[least], abs(losses[0])
    if curve.diverged and least == 0:
        return f"the loss rises from the smallest rates on ({first:.1e}); start lower, min_lr"
    if fall < FLAT * size and (curve.diverged or diverging(curve) is not None):
        return f"flat: the loss falls by less than {FLAT:.0%} before it diverges at {last:.1e}; try more steps"
    if fall < FLAT * size:
        return f"flat: the loss falls by less than {FLAT:.0%} from {first:.1e} to {last:.1e}; go higher, max_lr"
    noise = _noise(curve, curve.looked_at[0], curve.looked_at[least])
    if fall < NOISE * noise:
        repeats = math.ceil(curve.test.repeats * (NOISE * noise / fall) ** 2)
        many = f"repeats={repeats}" if repeats <= 20 else "more steps"
        ways = f"{many}, or larger batches"
        return f"noisy: the loss falls by {fall:.2g}, its smoothed value varies by {noise:.2g}; {ways}"
    return ""


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate at which the loss falls fastest, over the logarithm of the rate (fastai's `steep`).

    >>> steepest([0.1, 1.0, 10.0, 100.0], [3.0, 2.8, 1.0, 2.0])
    1.0
    """
    points = [*pairwise(zip(map(math.log, rates), losses, strict=True))]
    slopes = [(loss - before) / (x - x_before) for (x_before, before), (x, loss) in points]
    return rates[slopes.index(min(slopes))]


def valley(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate in the middle of the longest valley (fastai's `valley`).

    That is the longest falling subsequence of losses; the rate is half of its span from its start, counted in steps.

    >>> valley([1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0], [3.0, 2.9, 2.5, 2.0, 1.0, 5.0])
    0.0001
    """
    lengths, end = [1] * len(losses), 0
    for i in range(1, len(losses)):
        lengths[i] = max([lengths[j] + 1 for j in range(i) if losses[i] < losses[j]], default=1)
        if lengths[i] > lengths[end]:
            end = i
    third = lengths[end] / 3
    return rates[max(end - lengths[end] + int(third) + int(third / 2), 0)]


def minimum(rates: Sequence[float], losses: Sequence[float]) -> float:
    """A tenth of the rate at which the loss is smallest (fastai's `minimum`).

    >>> minimum([0.1, 1.0, 10.0], [3.0, 2.0, 4.0])
    0.1
    """
    return rates[losses.index(min(losses))] / 10


def diverging(curve: Curve) -> float | None:
    """The rate at which the loss is back where it started, None if it never is.

    That is the first step after the smallest loss at which the median of five losses exceeds that of the first tenth of
    the test: one bad batch is no divergence, and the smoothed loss would show it many steps late.
    """
    losses, start = curve.losses, median(curve.losses[: max(curve.test.steps // 10, 1)])
    medians = [median(losses[max(i - 2, 0) : i + 3]) for i in range(len(losses))]
    least = medians.index(min(medians))
    late = (i for i in range(least, len(losses)) if medians[i] > start)
    return curve.rates[next(late, -1)] if curve.diverged else next((curve.rates[i] for i in late), None)


RULES: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "valley": valley,
    "steepest": steepest,
    "minimum": minimum,
}
NAMES = (*RULES, "divergence")  # a tenth of the rate `diverging`


def _looked_at(curve: Curve) -> tuple[list[float], list[float]]:
    looked = curve.looked_at
    return [curve.rates[i] for i in looked], [curve.smoothed[i] for i in looked]


def _noise(curve: Curve, first: int, last: int) -> float:
    """The standard deviation of the difference of the smoothed losses of two steps, were they all noise."""
    steps = [abs(b - a) for a, b in pairwise(curve.losses[: last + 1])]
    one = median(steps) / 0.6745 / math.sqrt(2) if steps else 0.0
    s = curve.test.smoothing
    weight = [(1 - s) / (1 + s) * (1 + s**n) / (1 - s**n) for n in (first + 1, last + 1)]
    return one * math.sqrt(sum(weight))
