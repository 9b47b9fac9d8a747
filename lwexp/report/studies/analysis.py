"""The comparisons of a study: every arm with the reference and with the best arm, on fresh seeds; ranges of rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lwexp.report.claims import Claims
from lwexp.report.metric import Metric, metric_of
from lwexp.report.settings import ordered
from lwexp.report.statistics import Comparison, Floats, Summary, compare, detectable, fewest_seeds, summarize

from .arms import Arm, Setting, arms_of
from .rates import good_range, threshold
from .reading import Run, Study

Value = Callable[[Run], float]


@dataclass(frozen=True)
class StudyAnalysis(Claims):
    """A study's arms, `primary` and `others`, the best on test first, and the `reference`, None where there is none.

    p values of primary arms are corrected for these alone, those of the others for the others: they are exploratory.
    `best`: the best primary arm on validation, of all arms where none is primary. `swept`: the best arm whose settings
    were searched. `on_test`: differences are of the test split, which some final run has; else of validation.
    """

    study: Study
    metric: Metric
    confidence: float
    reference: Arm | None
    primary: list[Arm]
    others: list[Arm]
    best: Arm | None
    swept: Arm | None
    on_test: bool
    best_value: float  # on validation in the search, of all arms

    @property
    def split(self) -> str:
        """The split that is compared, in words."""
        return "test" if self.on_test else "validation"

    @property
    def compared(self) -> list[Arm]:
        """All arms but the reference."""
        return [*self.primary, *self.others]

    @property
    def arms(self) -> list[Arm]:
        """All arms, the reference first."""
        return [*([self.reference] if self.reference else []), *self.compared]

    @property
    def finals(self) -> bool:
        """Whether any arm has final runs."""
        return any(arm.chosen.finals for arm in self.arms)

    @property
    def kind(self) -> str:
        """Of the comparisons that the best arm's p is corrected for."""
        return "primary" if self.primary else ""

    def summary(self, arm: Arm) -> Summary:
        """Of its final runs, on the split that is compared."""
        return arm.chosen.test if self.on_test else arm.chosen.validation

    def differences(self, setting: Setting) -> Floats:
        """Of the final runs to those of the reference, for each seed that both have."""
        others = self.reference.chosen.finals if self.reference is not None else {}
        seeds = [seed for seed in setting.finals if seed in others]
        value = _test if self.on_test else _validation
        found = (value(setting.finals[seed]) - value(others[seed]) for seed in seeds)
        return np.array([difference for difference in found if math.isfinite(difference)])

    def gain_scale(self, points: bool) -> float:
        """What turns a gain into points, or into percent of the reference's value; NaN if unknown."""
        if points:
            return self.metric.factor
        own = abs(self.summary(self.reference).mean) if self.reference is not None else math.nan
        return 100 / own if own > 0 else math.nan

    @property
    def sign(self) -> int:
        """1, or -1 where low values are better."""
        return -1 if self.metric.lower_is_better else 1

    def relative_cost(self, arm: Arm, what: str) -> float:
        """Its median `seconds` or `peak_mb` as a multiple of the reference's; NaN if unknown."""
        own = self.reference.cost(what) if self.reference is not None else math.nan
        return arm.cost(what) / own if own > 0 else math.nan

    def gain(self, part: Comparison) -> tuple[float, float, float]:
        """A difference and its interval with a sign that is positive where the arm is better."""
        if self.metric.lower_is_better:
            return -part.mean, -part.high, -part.low
        return part.mean, part.low, part.high

    def within(self, arm: Arm) -> bool:
        """Whether it is not shown to be worse than the best swept arm: the interval of their difference reaches 0."""
        return arm.to_best is not None and self.gain(arm.to_best)[2] >= 0


def analyze_study(study: Study, confidence: float = 0.95) -> StudyAnalysis:
    """Compare the arms of `study`, with intervals and tests at the level of `confidence`."""
    finals = [run for run in study.runs if run.final]
    metric = metric_of(study.metric, [value for run in study.runs for value in (run.val, run.test)], study.mode)
    limits, lower = (metric.low, metric.high), metric.lower_is_better
    on_test = any(not math.isnan(run.test) for run in finals)
    value: Value = _test if on_test else _validation
    arms = arms_of(study.runs, lower)
    for setting in (setting for arm in arms for setting in arm.settings):
        runs = setting.finals.values()
        setting.validation = summarize(np.array([run.val for run in runs]), confidence, limits)
        setting.test = summarize(np.array([run.test for run in runs]), confidence, limits)
    best_value = _ranges([setting for arm in arms for setting in arm.settings], lower)
    reference = next((arm for arm in arms if arm.role == "reference"), None)
    others = [arm for arm in arms if arm is not reference]
    swept = _best([arm for arm in others if arm.swept], lower) or _best(others, lower)
    families = [[arm for arm in others if arm.primary is primary] for primary in (True, False)]

    def compare_with(ones: Sequence[Arm], other: Arm | None) -> list[Comparison]:
        if other is None or not ones:
            return []
        seeds = ordered(seed for arm in (*ones, other) for seed in arm.chosen.finals)
        columns = np.array([_values(arm, seeds, value) for arm in ones]).T.reshape(len(seeds), len(ones))
        return compare(columns, _values(other, seeds, value)[:, None], confidence=confidence, limits=limits)

    for family in families:
        for arm, part in zip(family, compare_with(family, reference), strict=False):
            arm.difference = part
            if part.n >= fewest_seeds(round(1 - confidence, 12)):
                arm.detectable = detectable(part.sd, part.n, (1 - confidence) / max(part.together, 1))
    rivals = [arm for arm in others if arm is not swept]
    for arm, part in zip(rivals, compare_with(rivals, swept), strict=False):
        arm.to_best = part
    for family in families:
        family.sort(key=lambda arm: _rank(arm, on_test, lower))
    best = _best(families[0] or families[1], lower)
    return StudyAnalysis(
        study, metric, confidence, reference, families[0], families[1], best, swept, on_test, best_value
    )


def _ranges(settings: Sequence[Setting], lower: bool) -> float:
    """Set the ranges of good rates; returns the best value of all."""
    sign = -1 if lower else 1
    known = [setting.best for setting in settings if not math.isnan(setting.best)]
    best = max(known, key=lambda value: sign * value, default=math.nan)
    for setting in settings:
        if not math.isnan(setting.best):
            rates, values = list(setting.curve), list(setting.curve.values())
            setting.own = good_range(rates, values, threshold(setting.best, lower), lower)
            setting.common = good_range(rates, values, threshold(best, lower), lower)
    return best


def _best(arms: Sequence[Arm], lower: bool) -> Arm | None:
    """The best by the mean validation of its final runs; by the search where no arm has any.

    As in any report, an arm with less than half of the most seeds cannot be chosen.
    """
    sign = -1 if lower else 1
    most = max((arm.chosen.validation.n for arm in arms), default=0)
    able = [arm for arm in arms if 2 * arm.chosen.validation.n >= max(most, 1)] if most else list(arms)
    values = {arm: arm.chosen.validation.mean if most else arm.chosen.best for arm in able}
    return max((arm for arm in able if not math.isnan(values[arm])), key=lambda arm: sign * values[arm], default=None)


def _rank(arm: Arm, on_test: bool, lower: bool) -> tuple[int, float]:
    """Arms with final runs first, the best first; then by the search."""
    summary = arm.chosen.test if on_test else arm.chosen.validation
    known = summary.n > 0
    value = summary.mean if known else arm.chosen.best
    return int(not known), math.inf if math.isnan(value) else value if lower else -value


def _values(arm: Arm, seeds: Sequence[str], value: Value) -> Floats:
    finals = arm.chosen.finals
    return np.array([value(finals[seed]) if seed in finals else math.nan for seed in seeds], dtype=float)


def _validation(run: Run) -> float:
    return run.val


def _test(run: Run) -> float:
    return run.test
