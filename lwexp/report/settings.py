"""Runs grouped into settings: those that differ in the seed alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lwexp.config.keys import is_data, is_layerwise

from .arms import Key, number, same
from .runs import SweepRun
from .statistics import NOTHING, Comparison, Summary


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

    @property
    def data(self) -> Key:
        """Which data it was trained on, where runs differ in that."""
        return tuple(pair for pair in self.base if is_data(pair[0]))

    def _in_base(self, key: str) -> bool:
        """Whether `key`, an option or a section, sets it apart from other uniform settings."""
        return any(name == key or name.startswith(f"{key}.") for name, _ in self.base)

    @property
    def rates(self) -> tuple[float, float] | None:
        """The planned rates of the head and of the stem."""
        return next((run.rates for run in self.runs.values() if run.rates is not None), None)


def ordered(values: Iterable[str]) -> list[str]:
    """Distinct `values`, numbers by size before words."""
    return sorted(dict.fromkeys(values), key=_rank)


def settings_of(runs: Sequence[SweepRun]) -> list[Setting]:
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


def _key(values: Mapping[str, str]) -> Key:
    return tuple(sorted((key, same(value)) for key, value in values.items()))


def _rank(value: str) -> tuple[bool, float, str]:
    found = number(value)
    return found is None, found or 0.0, value


def reasons(settings: Iterable[Setting]) -> list[tuple[str, int]]:
    """Why runs were excluded, and how many for each reason."""
    return sorted(Counter(why for setting in settings for _, why in setting.excluded).items())
