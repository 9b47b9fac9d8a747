"""The conclusions of a report in sentences, and the format of their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lwexp.formatting import few

from .analysis import Analysis, Setting, reasons
from .statistics import POWER, Comparison, Summary, fewest_seeds, lowest_p, seeds_needed

_SHARES = ("accuracy", "macro_f1")  # in percent
_LISTED = 6


class Numbers:
    """The format of a metric's values: shares in percent with two decimals, others with four digits."""

    def __init__(self, metric: str, confidence: float) -> None:
        """`metric` without the split, `confidence` of all intervals."""
        self.percent = metric in _SHARES
        self.unit = " %" if self.percent else ""
        self.interval_name = f"{100 * confidence:g} % interval"

    def value(self, value: float) -> str:
        """Without a unit.

        >>> Numbers("accuracy", 0.95).value(0.97125), Numbers("loss", 0.95).value(0.123456)
        ('97.12', '0.1235')
        """
        if math.isnan(value):
            return "-"
        return f"{100 * value:.2f}" if self.percent else f"{value:.4g}"

    def difference(self, value: float) -> str:
        """With its sign.

        >>> Numbers("accuracy", 0.95).difference(-0.0125)
        '-1.25'
        """
        return "-" if math.isnan(value) else f"{100 * value:+.2f}" if self.percent else f"{value:+.4g}"

    def spread(self, found: Summary) -> str:
        """Mean, and standard deviation where there is one."""
        return self.value(found.mean) + ("" if math.isnan(found.sd) else f" ({self.value(found.sd)})")

    def interval(self, found: Summary) -> str:
        """`low to high`, empty where there is none."""
        return "" if math.isnan(found.low) else f"{self.value(found.low)} to {self.value(found.high)}"

    def change(self, low: float, high: float) -> str:
        """The interval of a difference."""
        return "" if math.isnan(low) else f"{self.difference(low)} to {self.difference(high)}"


def p_text(p: float) -> str:
    """A p value.

    >>> p_text(0.03125), p_text(0.00001), p_text(1.0)
    ('0.0312', '<0.001', '1')
    """
    return "-" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3g}"


def plural(count: int, what: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def conclusions(found: Analysis) -> list[str]:
    """The sentences, the most important first."""
    return [*_verdict(found), *_others(found), *_best_of_both(found), *_cautions(found)]


def progress(found: Analysis) -> str:
    """One line: how many runs were compared, and why others were not."""
    sweep = found.sweep
    used = sum(len(setting.runs) for setting in found.settings)
    parts = [f"{used} of {plural(max(sweep.total, used), 'run')} compared"]
    parts += [f"{count} {why}" for why, count in reasons(found.settings)]
    started = {(setting.key, run.seed) for setting in found.settings for run in setting.runs.values()}
    started |= {(tuple(run.point.items()), run.seed) for setting in found.settings for run, _ in setting.excluded}
    absent = sweep.total - len(started)
    if absent > 0:
        parts.append(f"{absent} not started")
    if sweep.searched:
        parts.append(f"{plural(sweep.searched, 'trial')} of the search excluded")
    return ", ".join(parts)


def _verdict(found: Analysis) -> Iterator[str]:
    """The setting chosen on validation, and its difference to uniform rates on test."""
    best, numbers = found.best, Numbers(found.metric, found.confidence)
    if best is None:
        arm = "layer-wise" if found.uniform else "finished"
        yield f"No difference can be claimed: the sweep has no {arm} run to compare."
        return
    twin = found.twin(best)
    reached = f"it reaches {numbers.value(best.test.mean)}{numbers.unit} on test ({plural(best.test.n, 'seed')})"
    yield (
        f"Best layer-wise setting on validation: {best.label}, {numbers.value(best.validation.mean)}{numbers.unit}; "
        f"{reached if best.test.n else 'it has no test metric'}."
    )
    if twin is None:
        yield (
            "No difference can be claimed: there is no uniform run to compare with "
            "(sweep.baseline=true adds one for each seed)."
        )
        return
    comparison = best.test_difference
    if comparison is None or comparison.n == 0:
        yield f"No difference can be claimed: {best.label} and {twin.label} share no seed with a test metric."
        return
    if comparison.n == 1:
        yield (
            f"No difference can be claimed: with one seed ({numbers.difference(comparison.mean)} on test against "
            f"{twin.label}) the luck of a seed and the effect of the rates cannot be told apart. "
            f"At least {fewest_seeds(found.level)} seeds are needed for the exact test."
        )
        return
    yield _claim(found, comparison, twin)
    yield from _seeds(found, comparison)


def _claim(found: Analysis, comparison: Comparison, twin: Setting) -> str:
    numbers, outcome = Numbers(found.metric, found.confidence), found.outcome(comparison)
    points = "points" if numbers.percent else found.metric
    measured = (
        f"{numbers.difference(comparison.mean)} {points} on test, {numbers.interval_name} "
        f"{numbers.change(comparison.low, comparison.high)}, {plural(comparison.n, 'seed')}"
    )
    corrected = "" if comparison.compared == 1 else f", corrected for {comparison.compared} comparisons"
    if outcome:
        better = "better" if outcome > 0 else "worse"
        return (
            f"It is {better} than {twin.label}: {measured}; exact test p = {p_text(comparison.p_adjusted)}{corrected}."
        )
    said = f"No difference to {twin.label} can be claimed: {measured}; exact test p = {p_text(comparison.p_adjusted)}"
    aside = (
        " The interval leaves out 0, but it takes the differences for normal, which so few seeds cannot show."
        if comparison.low * comparison.high > 0 and comparison.n < fewest_seeds(found.level)
        else ""
    )
    return f"{said}{corrected}.{aside}"


def _seeds(found: Analysis, comparison: Comparison) -> Iterator[str]:
    """How many seeds it would take, where nothing can be claimed."""
    if found.outcome(comparison):
        return
    fewest = fewest_seeds(found.level)
    if comparison.n < fewest:
        yield (
            f"With {comparison.n} seeds the exact test cannot fall below p = {p_text(lowest_p(comparison.n))}, however "
            f"large the difference; it takes at least {fewest} seeds to claim anything."
        )
    needed = seeds_needed(comparison.mean, comparison.sd, found.level / comparison.together)
    if needed is None:
        size = "none was seen" if comparison.mean == 0 else "over 1,000 would be needed"
        yield f"Seeds needed to find a difference of the observed size: {size}."
    elif needed > comparison.n:
        yield (
            f"If the true difference is as large as the observed one, about {needed} seeds would find it with "
            f"{100 * POWER:.0f} % chance. The best of several looks larger than it is, so rather more."
        )


def _others(found: Analysis) -> Iterator[str]:
    """Other settings for which the test shows a difference."""
    numbers = Numbers(found.metric, found.confidence)
    for sign, word in ((1, "better"), (-1, "worse")):
        others = [s for s in found.layerwise if s is not found.best and found.outcome(s.test_difference) == sign]
        if others:
            named = [f"{s.label} ({numbers.difference(s.test_difference.mean)})" for s in others if s.test_difference]
            yield f"Also {word} than uniform rates on test: {few(named, _LISTED)}."


def _best_of_both(found: Analysis) -> Iterator[str]:
    """The best setting of each arm, each with its own base rate."""
    if len(found.uniform) < 2 or found.best is None or found.best_uniform is None:
        return
    numbers, other, difference = Numbers(found.metric, found.confidence), found.best_uniform, found.best_difference
    tried = f"{plural(len(found.layerwise), 'layer-wise setting')} and {len(found.uniform)} uniform ones were tried"
    if difference is None:
        yield f"{other.label} is also the best uniform setting on validation: both have their best base rate ({tried})."
        return
    measured = (
        f"on test {found.best.label} differs from {other.label}, the best uniform setting on validation, by "
        f"{numbers.difference(difference.mean)} ({numbers.interval_name} "
        f"{numbers.change(difference.low, difference.high) or 'unknown'}, {plural(difference.n, 'seed')})"
    )
    verdict = {1: "layer-wise rates are better", -1: "layer-wise rates are worse", 0: "no difference can be claimed"}
    yield (
        f"With the base rate tuned for both arms ({tried}): {measured}; {verdict[found.outcome(difference)]}, exact "
        f"test p = {p_text(difference.p_adjusted)}, corrected for {difference.compared} comparisons."
    )


def _cautions(found: Analysis) -> Iterator[str]:
    """Limits of the data behind the numbers."""
    failed = [s for s in found.settings if any(why in ("failed", "killed") for _, why in s.excluded)]
    if failed:
        yield (
            f"Failed runs are in no mean, which favors settings that fail: "
            f"{', '.join(s.label for s in failed[:_LISTED])}{' and more' if len(failed) > _LISTED else ''}."
        )
    if found.too_few_seeds:
        some = plural(len(found.too_few_seeds), "setting")
        yield (
            f"{some} with less than half of the seeds of others could not be chosen as the best. Settings that a "
            "search repeated were chosen by its seed, which favors them there."
        )
    if found.sweep.status == "RUNNING" or any("running" in why for s in found.settings for _, why in s.excluded):
        yield "The sweep is not complete: these numbers may change."
    if found.best is not None and len(found.layerwise) > 1 and found.best.test.n > 1:
        yield (
            "The setting was chosen on validation with the same trainings, so lucky seeds help it on test as well; the "
            "corrected test covers that, the mean itself is slightly too good. New seeds would be unbiased."
        )
