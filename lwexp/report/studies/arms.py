"""The arms of a study and their settings, from its runs: what the search found, and what the final runs reached."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from lwexp.report.settings import ordered
from lwexp.report.statistics import NOTHING, Comparison, Summary

from .rates import Range
from .reading import Run

_VALUES = re.compile(r"\s+(?=[\w.+~@/]+=)")  # between `key=value` pairs; values may have blanks


@dataclass(eq=False)
class Setting:
    """One setting of an arm: its search over base rates, and its final runs by seed at the best of them.

    `curve`: the mean validation value of each rate, NaN where a training failed. `own`, `common`: the rates that come
    close to the setting's best value, and to the best of all arms. `validation`, `test` are of the final runs.
    """

    name: str
    trials: int
    curve: dict[float, float]
    best: float  # value on validation, NaN without a search
    best_lr: float
    lr: float = math.nan  # of the final runs; without any, the best of the search
    finals: dict[str, Run] = field(default_factory=dict)
    failed: int = 0
    own: Range | None = None
    common: Range | None = None
    validation: Summary = NOTHING
    test: Summary = NOTHING

    @property
    def pairs(self) -> dict[str, str]:
        """Its overrides.

        >>> Setting("grouping=depth_index mult=0.7", 0, {}, 0, 0).pairs
        {'grouping': 'depth_index', 'mult': '0.7'}
        """
        parts = (part.partition("=") for part in _VALUES.split(self.name) if part)
        return {key: value for key, _, value in parts}

    @property
    def at_edge(self) -> bool:
        """Whether the rate of the final runs is the lowest or highest that was tried, of several."""
        return len(self.curve) > 1 and self.lr in (min(self.curve), max(self.curve))


@dataclass(eq=False)
class Arm:
    """An arm: what it fixes, its settings, and the one that the search chose; `difference` is to the reference arm.

    `to_best`: the difference to the best arm whose settings were searched. `detectable`: the difference to the
    reference that so many seeds find with a chance of 80 %. NaN and None where unknown.
    """

    name: str
    role: str
    runs: Sequence[Run]
    settings: list[Setting]
    chosen: Setting
    ambiguous: bool = False  # the final runs have several settings or rates as the best of the arm
    difference: Comparison | None = None
    to_best: Comparison | None = None
    detectable: float = math.nan

    @property
    def primary(self) -> bool:
        """Whether its comparison was named before the results were known."""
        return self.role == "primary"

    @property
    def label(self) -> str:
        """`depth mult=0.7`."""
        return f"{self.name} {self.chosen.name}".strip()

    @property
    def trials(self) -> int:
        """Runs of its search."""
        return sum(setting.trials for setting in self.settings)

    @property
    def swept(self) -> bool:
        """Whether validation chose among several settings."""
        return len(self.settings) > 1

    def cost(self, what: str) -> float:
        """Median of `seconds`, `peak_mb` or `steps` over the final runs, without any over the search; NaN if unknown.

        The search has runs at poor rates, but their cost is the same.
        """
        runs = list(self.chosen.finals.values()) or [run for run in self.runs if run.finished]
        values = [float(getattr(run, what)) for run in runs]
        known = [value for value in values if not math.isnan(value)]
        return median(known) if known else math.nan


def arms_of(runs: Iterable[Run], lower_is_better: bool) -> list[Arm]:
    """The arms in the order of their names, their settings by value."""
    by_arm: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_arm[run.arm].append(run)
    return [_arm(name, by_arm[name], -1 if lower_is_better else 1) for name in ordered(by_arm)]


def multiplier(setting: Setting) -> tuple[str, float] | None:
    """The setting without its `mult`, and that as a number; None where it has none.

    >>> multiplier(Setting("grouping=depth_index mult=0.7", 0, {}, 0, 0))
    ('grouping=depth_index', 0.7)
    """
    pairs = setting.pairs
    try:
        value = float(pairs.pop("mult"))
    except (KeyError, ValueError):
        return None
    return " ".join(f"{key}={value}" for key, value in pairs.items()), value


def _arm(name: str, runs: Sequence[Run], sign: int) -> Arm:
    by_setting: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_setting[run.setting].append(run)
    settings = {each: _setting(each, by_setting[each], sign) for each in _by_value(by_setting)}
    chosen = {(run.setting, run.lr) for run in runs if run.final and run.chosen == "arm"}
    if chosen:
        setting, lr = _most(chosen, runs)
        best = settings[setting]
        _finish(best, lr, runs)
    else:
        best = max(settings.values(), key=lambda each: -math.inf if math.isnan(each.best) else sign * each.best)
    return Arm(name, runs[0].role, runs, list(settings.values()), best, len(chosen) > 1)


def _setting(name: str, runs: Sequence[Run], sign: int) -> Setting:
    tried: dict[float, list[float]] = defaultdict(list)
    for run in runs:
        if not run.final:
            tried[run.lr].append(run.val)
    curve = {lr: sum(tried[lr]) / len(tried[lr]) for lr in sorted(tried)}
    known = {lr: value for lr, value in curve.items() if not math.isnan(value)}
    best_lr = max(known, key=lambda lr: sign * known[lr], default=math.nan)
    found = Setting(name, sum(map(len, tried.values())), curve, known.get(best_lr, math.nan), best_lr, best_lr)
    rates = {(run.setting, run.lr) for run in runs if run.final}
    if rates:
        _finish(found, _most(rates, runs)[1], runs)
    return found


def _finish(setting: Setting, lr: float, runs: Iterable[Run]) -> None:
    """Give `setting` its final runs at the rate `lr`."""
    own = [run for run in runs if run.final and run.setting == setting.name and run.lr == lr]
    setting.lr, setting.finals = lr, {run.seed: run for run in own if run.measured}
    setting.failed = len(own) - len(setting.finals)


def _most(of: Iterable[tuple[str, float]], runs: Sequence[Run]) -> tuple[str, float]:
    """The setting and rate with the most final runs, of equal ones the first."""
    counts = {each: sum(run.final and (run.setting, run.lr) == each for run in runs) for each in sorted(of)}
    return max(counts, key=lambda each: counts[each])


def _by_value(settings: Mapping[str, object]) -> list[str]:
    """The names of settings, numbers in them by size."""
    parts = {name: [*Setting(name, 0, {}, 0, 0).pairs.values()] for name in settings}
    rank = {value: place for place, value in enumerate(ordered(v for values in parts.values() for v in values))}
    return sorted(settings, key=lambda name: ([rank[value] for value in parts[name]], name))
