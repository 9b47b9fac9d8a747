"""The comparison of each layer-wise setting with its uniform twin, and the best of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .arms import Key
from .claims import Claims
from .metric import Metric, metric_of
from .runs import Sweep, SweepRun
from .settings import Setting, settings_of
from .statistics import Comparison, Floats, Limits, Summary, compare, summarize

Value = Callable[[SweepRun], float]


@dataclass(frozen=True)
class Contest:
    """The settings that were trained on the same data, and which of them are best on validation.

    `best_difference`: the best layer-wise minus the best uniform setting, each chosen on validation; None where it is
    the comparison with the twin, or cannot be made.
    """

    data: Key  # which data, where there are several
    settings: list[Setting]
    best: Setting | None  # layer-wise
    best_uniform: Setting | None
    best_difference: Comparison | None
    too_few_seeds: list[Setting]  # to be chosen as the best

    @property
    def layerwise(self) -> list[Setting]:
        """The settings whose rates are not uniform."""
        return [setting for setting in self.settings if not setting.uniform]

    @property
    def uniform(self) -> list[Setting]:
        """The settings with one rate for all layers."""
        return [setting for setting in self.settings if setting.uniform]


@dataclass(frozen=True)
class Analysis(Claims):
    """The settings of some runs, uniform ones first, their comparisons with uniform rates, and a contest for each data.

    With several uniform settings all p values on test are corrected for all pairs of a layer-wise and a uniform
    setting, so that the report as a whole keeps its level. `on_test`: differences are of the test split, which some run
    has; else of the validation split.
    """

    sweep: Sweep
    metric: Metric
    confidence: float
    settings: list[Setting]
    contests: list[Contest]
    on_test: bool = True

    @property
    def split(self) -> str:
        """The split that is compared, in words."""
        return "test" if self.on_test else "validation"

    @property
    def best(self) -> Setting | None:
        """The best layer-wise setting on validation; None where there is none, or several data."""
        return self.contests[0].best if len(self.contests) == 1 else None

    @property
    def best_uniform(self) -> Setting | None:
        """The best uniform setting on validation; None where there is none, or several data."""
        return self.contests[0].best_uniform if len(self.contests) == 1 else None

    @property
    def best_difference(self) -> Comparison | None:
        """That of the only contest; None where there is none, or several data."""
        return self.contests[0].best_difference if len(self.contests) == 1 else None

    @property
    def marked(self) -> list[Setting]:
        """The best settings of each contest."""
        return [each for one in self.contests for each in (one.best, one.best_uniform) if each is not None]

    @property
    def uniform(self) -> list[Setting]:
        """The settings with one rate for all layers."""
        return [setting for setting in self.settings if setting.uniform]

    @property
    def layerwise(self) -> list[Setting]:
        """The others."""
        return [setting for setting in self.settings if not setting.uniform]

    def summary(self, setting: Setting) -> Summary:
        """Of the split that is compared."""
        return setting.test if self.on_test else setting.validation

    def difference(self, setting: Setting) -> Comparison | None:
        """To the uniform twin, on the split that is compared."""
        return setting.test_difference if self.on_test else setting.validation_difference

    def twin(self, setting: Setting) -> Setting | None:
        """The uniform setting with the same base rate and the same values of all else that belongs to no arm."""
        return next((other for other in self.uniform if other.base == setting.base), None)


def analyze(sweep: Sweep, confidence: float = 0.95) -> Analysis:
    """The settings of `sweep` and their comparisons."""
    settings = settings_of(sweep.runs)
    compared = [run for setting in settings for run in setting.runs.values()]
    known = metric_of(sweep.metric, [value for run in compared for value in (run.validation, run.test)], sweep.mode)
    limits = known.low, known.high
    for setting in settings:
        setting.validation = summarize(_values(setting, setting.runs, _validation), confidence, limits)
        setting.test = summarize(_values(setting, setting.runs, _test), confidence, limits)
    on_test = any(setting.test.n for setting in settings)
    every = [(one, other) for one in settings for other in settings if other.uniform and not one.uniform]
    every = [(one, other) for one, other in every if one.data == other.data]
    every.sort(key=lambda pair: pair[0].base != pair[1].base)  # twins first
    twins = [(one, other) for one, other in every if one.base == other.base]
    on_both = [
        _compare(every, value, confidence, len(twins), limits)
        if value is (_test if on_test else _validation)
        else _compare(twins, value, confidence, None, limits)
        for value in (_validation, _test)
    ]
    for (setting, _), validation, test in zip(twins, *on_both, strict=False):
        setting.validation_difference, setting.test_difference = validation, test
    differences = dict(zip(((id(a), id(b)) for a, b in every), on_both[on_test], strict=True))
    contests = [
        _contest(data, [setting for setting in settings if setting.data == data], differences, known.lower_is_better)
        for data in dict.fromkeys(setting.data for setting in settings)
    ]
    return Analysis(sweep, known, confidence, settings, contests, on_test)


def _contest(
    data: Key, settings: list[Setting], differences: Mapping[tuple[int, int], Comparison], lower: bool
) -> Contest:
    best, few = _best([setting for setting in settings if not setting.uniform], lower)
    best_uniform, few_uniform = _best([setting for setting in settings if setting.uniform], lower)
    difference = None
    if best is not None and best_uniform is not None and best_uniform.base != best.base:
        difference = differences[id(best), id(best_uniform)]
    return Contest(data, settings, best, best_uniform, difference, few + few_uniform)


def _best(settings: Sequence[Setting], lower: bool) -> tuple[Setting | None, list[Setting]]:
    """The best by mean validation among settings with at least half of the most seeds; and those with fewer."""
    most = max((setting.validation.n for setting in settings), default=0)
    able = [setting for setting in settings if setting.validation.n and 2 * setting.validation.n >= most]
    sign = -1 if lower else 1
    best = max(able, key=lambda setting: sign * setting.validation.mean, default=None)
    return best, [setting for setting in settings if setting.validation.n and setting not in able]


def _compare(
    pairs: Sequence[tuple[Setting, Setting]], value: Value, confidence: float, together: int | None, limits: Limits
) -> list[Comparison]:
    """Paired differences of each pair over their common seeds, corrected for all pairs."""
    if not pairs:
        return []
    seeds = sorted({seed for setting, _ in pairs for seed in setting.runs})
    ones, others = (np.array([_values(pair[k], seeds, value) for pair in pairs]).T for k in (0, 1))
    return compare(ones, others, confidence=confidence, together=together, limits=limits)


def _values(setting: Setting, seeds: Iterable[str], value: Value) -> Floats:
    return np.array([value(setting.runs[seed]) if seed in setting.runs else math.nan for seed in seeds], dtype=float)


def _validation(run: SweepRun) -> float:
    return run.validation


def _test(run: SweepRun) -> float:
    return run.test
