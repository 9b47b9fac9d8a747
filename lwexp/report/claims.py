"""What a paired difference allows to claim, and the sentence that says it: the same for sweeps and for studies."""

from __future__ import annotations

import math

from .metric import Metric
from .statistics import Comparison, fewest_seeds


class Claims:
    """Differences of a `metric`, with intervals and tests at the level of `confidence`."""

    metric: Metric
    confidence: float

    @property
    def interval_name(self) -> str:
        """What intervals are called."""
        return f"{100 * self.confidence:g} % interval"

    @property
    def level(self) -> float:
        """The greatest chance of any false claim."""
        return round(1 - self.confidence, 12)

    @property
    def fewest_seeds(self) -> int:
        """The fewest seeds with which anything can be claimed."""
        return fewest_seeds(self.level)

    def outcome(self, comparison: Comparison | None) -> int:
        """1 if the corrected test shows that the first of the two is better, -1 worse, else 0."""
        if comparison is None or not comparison.p_adjusted <= self.level:
            return 0
        return self.leads(comparison)

    def leads(self, comparison: Comparison) -> int:
        """1 if the first mean is better, -1 if worse, 0 if both are equal."""
        sign = 0 if comparison.mean == 0 else 1 if comparison.mean > 0 else -1
        return -sign if self.metric.lower_is_better else sign

    def sentence(
        self, comparison: Comparison, one: str, other: str, split: str, *, loser: str = "", kind: str = ""
    ) -> str:
        """Which of `one` and `other`, whose difference is compared, is better or leads, and whether it can be claimed.

        `loser`: how `one` is called where it is behind; `kind` of the comparisons that p is corrected for.
        """
        lead = self.leads(comparison)
        winner, loser = (one, other) if lead >= 0 else (other, loser or one)
        gap = self.metric.amount(comparison.mean, split)
        measured = self.measured(comparison, kind)
        several = winner == "uniform rates"
        if self.outcome(comparison):
            return f"{winner} {'are' if several else 'is'} better than {loser} by {gap} ({measured})."
        ahead = f"{winner} {'lead' if several else 'leads'} {loser} by {gap}"
        if not lead:
            ahead = f"{one} and {other} have the same {split} {self.metric.name}"
        if comparison.n >= self.fewest_seeds:
            return f"{ahead} ({measured}), but no difference can be claimed."
        seeds = plural(comparison.n, "seed")
        return f"{ahead} ({measured}), but nothing can be claimed from {seeds}: it takes {self.fewest_seeds}."

    def measured(self, comparison: Comparison, kind: str = "") -> str:
        """Interval, seeds and p value of a difference, in the direction of the leader."""
        low, high = comparison.low, comparison.high
        if comparison.mean < 0:
            low, high = -high, -low
        parts = [] if math.isnan(low) else [f"{self.interval_name} {self.metric.change(low, high)}"]
        parts.append(plural(comparison.n, "seed"))
        if comparison.n > 1:
            corrected = f" corrected for {comparison.compared} {f'{kind} ' if kind else ''}comparisons"
            parts.append(f"{p_equation(comparison.p_adjusted)}{corrected if comparison.compared > 1 else ''}")
        return ", ".join(parts)


def p_text(p: float) -> str:
    """A p value.

    >>> p_text(0.03125), p_text(0.00001), p_text(1.0)
    ('0.0312', '<0.001', '1')
    """
    return "-" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3g}"


def p_equation(p: float) -> str:
    """A p value in a sentence.

    >>> p_equation(0.03125), p_equation(0.00001)
    ('p = 0.0312', 'p < 0.001')
    """
    text = p_text(p)
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"


def plural(count: int, what: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def capital(text: str) -> str:
    """A sentence's beginning, except for the name of a setting."""
    return text[0].upper() + text[1:] if "=" not in text.split(" ", maxsplit=1)[0] else text
