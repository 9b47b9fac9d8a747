"""The settings of a sweep over seeds, and the comparison of each layer-wise one with its uniform twin."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lwexp.config.keys import is_layerwise

from .arms import Key, number, same
from .runs import Sweep, SweepRun
from .statistics import NOTHING, Comparison, Floats, Summary, compare, summarize

_LOWER_IS_BETTER = ("loss",)

Value = Callable[[SweepRun], float]


@dataclass(eq=False)
class Setting:
    """Runs that differ in the seed alone. All uniform runs with the same `base` are one setting: all but the arm.

    `runs` has the compared ones by seed, `excluded` the others with the reason. `validation`, `test` are over seeds;
    the differences are to the uniform runs of the same seeds and `base`, None where there is no such setting.
    """

    key: Key
    base: Key
    uniform: bool
    runs: dict[str, SweepRun] = field(default_factory=dict)
    excluded: list[tuple[SweepRun, str]] = field(default_factory=list)
    validation: Summary = NOTHING
    test: Summary = NOTHING
    validation_difference: Comparison | None = None
    test_difference: Comparison | None = None

    @property
    def label(self) -> str:
        """`mult=0.9 lr=0.01`, or `uniform lr=0.01`."""
        words = (["uniform"] if self.uniform else []) + [f"{key}={value}" for key, value in self.shown]
        return " ".join(words) or "all runs"

    @property
    def shown(self) -> Key:
        """The swept keys that identify it."""
        return tuple(pair for pair in self.key if not self.uniform or self._in_base(pair[0]))

    def _in_base(self, key: str) -> bool:
        """Whether `key`, an option or a section, sets it apart from other uniform settings."""
        return any(name == key or name.startswith(f"{key}.") for name, _ in self.base)

    @property
    def rates(self) -> tuple[float, float] | None:
        """The planned rates of the head and of the stem."""
        return next((run.rates for run in self.runs.values() if run.rates is not None), None)


@dataclass(frozen=True)
class Analysis:
    """A sweep's settings, uniform ones first, and which of them are best on validation.

    `best_difference`: the best layer-wise minus the best uniform setting on test, each chosen on validation; None where
    it is the comparison with the twin, or cannot be made. With several uniform settings all p values on test are
    corrected for all pairs of a layer-wise and a uniform setting, so that the report as a whole keeps its level.
    """

    sweep: Sweep
    metric: str
    confidence: float
    settings: list[Setting]
    best: Setting | None  # layer-wise
    best_uniform: Setting | None
    best_difference: Comparison | None
    too_few_seeds: list[Setting]  # to be chosen as the best

    @property
    def lower_is_better(self) -> bool:
        """Whether a low value of the metric is a good one."""
        return self.metric in _LOWER_IS_BETTER

    @property
    def uniform(self) -> list[Setting]:
        """The settings with one rate for all layers."""
        return [setting for setting in self.settings if setting.uniform]

    @property
    def layerwise(self) -> list[Setting]:
        """The others."""
        return [setting for setting in self.settings if not setting.uniform]

    def twin(self, setting: Setting) -> Setting | None:
        """The uniform setting with the same base rate and the same values of all else that belongs to no arm."""
        return next((other for other in self.uniform if other.base == setting.base), None)

    def outcome(self, comparison: Comparison | None) -> int:
        """1 if the corrected test shows that the setting is better, -1 worse, else 0."""
        if comparison is None or not comparison.p_adjusted <= self.level:
            return 0
        return 1 if (comparison.mean > 0) != self.lower_is_better else -1

    @property
    def level(self) -> float:
        """The greatest chance of any false claim."""
        return round(1 - self.confidence, 12)


def analyze(sweep: Sweep, metric: str = "accuracy", confidence: float = 0.95) -> Analysis:
    """The settings of `sweep` and their comparisons."""
    settings = _settings(sweep.runs)
    for setting in settings:
        setting.validation = summarize(_values(setting, setting.runs, _validation), confidence)
        setting.test = summarize(_values(setting, setting.runs, _test), confidence)
    lower = metric in _LOWER_IS_BETTER
    best, few = _best([setting for setting in settings if not setting.uniform], lower)
    best_uniform, few_uniform = _best([setting for setting in settings if setting.uniform], lower)
    every = [(one, other) for one in settings for other in settings if other.uniform and not one.uniform]
    every.sort(key=lambda pair: pair[0].base != pair[1].base)  # twins first
    twins = [(one, other) for one, other in every if one.base == other.base]
    on_test = _compare(every, _test, confidence, len(twins))
    for (setting, _), validation, test in zip(twins, _compare(twins, _validation, confidence), on_test, strict=False):
        setting.validation_difference, setting.test_difference = validation, test
    best_difference = None
    if best is not None and best_uniform is not None and best_uniform.base != best.base:
        best_difference = on_test[every.index((best, best_uniform))]
    return Analysis(sweep, metric, confidence, settings, best, best_uniform, best_difference, few + few_uniform)


def ordered(values: Iterable[str]) -> list[str]:
    """Distinct `values`, numbers by size before words."""
    return sorted(dict.fromkeys(values), key=_rank)


def _settings(runs: Sequence[SweepRun]) -> list[Setting]:
    """Settings in the order of their values, uniform ones first; every run is in one of them."""
    found: dict[tuple[bool, Key], Setting] = {}
    of_point: dict[Key, Setting] = {}
    # a run that failed early has no arm: it belongs to the setting of its point
    for run in sorted(runs, key=lambda run: (not run.arm, run.started)):
        point = _key(run.point)
        setting = of_point.get(point)
        if setting is None:
            uniform, base = run.arm == "uniform", run.base
            if base is None:
                base = tuple(pair for pair in point if not is_layerwise(pair[0]))
            identity = (uniform, base if uniform else point)
            new = Setting(tuple(run.point.items()), base, uniform)
            setting = of_point[point] = found.setdefault(identity, new)
        _put(setting, run)
    for setting in found.values():
        setting.excluded = [
            (run, f"{why}, repeated since" if run.seed in setting.runs and run.status != "FINISHED" else why)
            for run, why in setting.excluded
        ]
    return sorted(found.values(), key=lambda s: (not s.uniform, [(key, _rank(value)) for key, value in s.shown]))


def _put(setting: Setting, run: SweepRun) -> None:
    """Add a run to its setting; of several finished runs with one seed the first counts."""
    if not run.whole:
        what = "pruned" if run.pruned else {"RUNNING": "still running", "SCHEDULED": "not started"}.get(run.status)
        setting.excluded.append((run, what or run.status.lower()))
    elif run.seed in setting.runs:
        setting.excluded.append((run, "redundant"))
    elif math.isnan(run.validation) and math.isnan(run.test):
        setting.excluded.append((run, "has no finite metric"))
    else:
        setting.runs[run.seed] = run


def _best(settings: Sequence[Setting], lower: bool) -> tuple[Setting | None, list[Setting]]:
    """The best by mean validation among settings with at least half of the most seeds; and those with fewer."""
    most = max((setting.validation.n for setting in settings), default=0)
    able = [setting for setting in settings if setting.validation.n and 2 * setting.validation.n >= most]
    sign = -1 if lower else 1
    best = max(able, key=lambda setting: sign * setting.validation.mean, default=None)
    return best, [setting for setting in settings if setting.validation.n and setting not in able]


def _compare(
    pairs: Sequence[tuple[Setting, Setting]], value: Value, confidence: float, together: int | None = None
) -> list[Comparison]:
    """Paired differences of each pair over their common seeds, corrected for all pairs."""
    if not pairs:
        return []
    seeds = sorted({seed for setting, _ in pairs for seed in setting.runs})
    differences = [_values(setting, seeds, value) - _values(twin, seeds, value) for setting, twin in pairs]
    return compare(np.array(differences).T, confidence, together)


def _values(setting: Setting, seeds: Iterable[str], value: Value) -> Floats:
    return np.array([value(setting.runs[seed]) if seed in setting.runs else math.nan for seed in seeds], dtype=float)


def _validation(run: SweepRun) -> float:
    return run.validation


def _test(run: SweepRun) -> float:
    return run.test


def _key(values: Mapping[str, str]) -> Key:
    return tuple(sorted((key, same(value)) for key, value in values.items()))


def _rank(value: str) -> tuple[bool, float, str]:
    found = number(value)
    return found is None, found or 0.0, value


def reasons(settings: Iterable[Setting]) -> list[tuple[str, int]]:
    """Why runs were excluded, and how many for each reason."""
    return sorted(Counter(why for setting in settings for _, why in setting.excluded).items())
