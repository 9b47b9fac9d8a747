"""The metric of a report as runs have logged it: its names, the runs' own choice, curves, the value of best weights."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lwexp.config.monitored import AUTO, direction
from lwexp.errors import UnknownNameError
from lwexp.tasks import MAIN, task_of
from lwexp.tracking.reader import StoredRun, StoreReader

from .runs import Curve

_VALIDATION = re.compile(r"(?:val|valid|validation|eval)[/_.](.+)")  # lwexp's own is val/…
_NOT_VALIDATION = re.compile(r"(?:test|best)/(.+)")
_BEST = "best/"
NO_CURVE = Curve(np.array([]), np.array([]))

Curves = Mapping[str, Mapping[str, Curve]]  # by run and metric


@dataclass(frozen=True)
class Measured:
    """A metric: its name without the split, and the metrics of runs that hold it on each split."""

    name: str
    validation: str
    test: str
    mode: str | None  # "min" or "max" if the runs say so

    def test_of(self, run: StoredRun) -> float:
        """On test, NaN if there is none."""
        return _finite(run.metrics.get(self.test, math.nan))

    def best_of(self, run: StoredRun, curves: Mapping[str, Curve]) -> float:
        """On validation, of the weights that were kept: those of the best evaluation by what the run monitored.

        By accuracy where it monitored nothing; of equal ones that with the lowest loss, then the first.
        """
        if self.validation.startswith("val/") and f"{_BEST}{self.name}" in run.metrics:
            return _finite(run.metrics[f"{_BEST}{self.name}"])
        own, decisive = curves.get(self.validation, NO_CURVE), curves.get(self.decider(run), NO_CURVE)
        if not len(own.steps) or not len(decisive.steps):
            return math.nan
        sign = -1 if _mode(run, self.decider(run)) == "min" else 1
        ranks = np.where(np.isfinite(decisive.values), sign * decisive.values, -np.inf)
        best = np.flatnonzero(ranks == ranks.max())
        loss = curves.get("val/loss", NO_CURVE)
        if len(loss.steps) == len(ranks):
            best = best[[int(np.argmin(np.nan_to_num(loss.values[best], nan=np.inf)))]]
        at = own.values[own.steps == decisive.steps[best[0]]]
        return _finite(float(at[0])) if len(at) else math.nan

    def decider(self, run: StoredRun) -> str:
        """The metric that decided on the run's best weights."""
        monitored = run.params.get("monitor", AUTO)
        if monitored in run.metrics:
            return monitored
        main = f"val/{MAIN[task_of(run.metrics)].name}"
        return main if main in run.metrics else self.validation


def measured(runs: Iterable[StoredRun], wanted: str | None = None) -> Measured:
    """The metric `wanted`, by default what the runs monitor, else the main one of their task, else any.

    It may be named with its split, as logged. Raises `UnknownNameError` for one that no run has.
    """
    runs = list(runs)
    logged = Counter(key for run in runs for key in run.metrics)
    names: dict[str, str] = {}  # the metric that most runs have, by its name without the split
    for key, _ in logged.most_common():
        if match := _VALIDATION.fullmatch(key):
            names.setdefault(match[1], key)
    if wanted is not None and (match := _NOT_VALIDATION.fullmatch(wanted)) and match[1] in names:
        wanted = match[1]  # settings are chosen on validation and quoted on test, whichever was named
    if wanted is None:
        wanted = _usual(runs, names)
    elif wanted in logged:
        match = _VALIDATION.fullmatch(wanted)
        names[wanted if match is None else match[1]] = wanted
        wanted = wanted if match is None else match[1]
    elif names and wanted not in names:
        raise UnknownNameError("--metric", wanted, names, "no run has it on validation")
    validation = names.get(wanted, f"val/{wanted}")
    prefix = validation.removesuffix(wanted)
    test = f"test{prefix[-1:]}{wanted}" if prefix else f"test/{wanted}"
    modes = {mode for run in runs if (mode := _said_mode(run, validation)) is not None}
    return Measured(wanted, validation, test, modes.pop() if len(modes) == 1 else None)


def read_curves(store: StoreReader, runs: Sequence[StoredRun], metric: Measured) -> Curves:
    """The histories that `Measured.best_of` needs, and that of the metric on validation, by run and metric."""
    wanted: list[tuple[str, str]] = []
    for run in runs:
        keys = [metric.validation]
        if f"{_BEST}{metric.name}" not in run.metrics and metric.decider(run) != metric.validation:
            keys += [metric.decider(run), "val/loss"]
        wanted += [(run.id, key) for key in dict.fromkeys(keys)]
    found: dict[str, dict[str, Curve]] = {run.id: {} for run in runs}
    for (run_id, key), history in zip(wanted, store.histories(wanted), strict=True):
        found[run_id][key] = Curve(np.array(list(history), dtype=float), np.array(list(history.values()), dtype=float))
    return found


def _usual(runs: Sequence[StoredRun], names: Mapping[str, str]) -> str:
    """What most runs monitor, the main metric of their task, one that is no loss, or any."""
    monitored = Counter(run.params["monitor"].partition("/")[2] for run in runs if "monitor" in run.params)
    main = MAIN[task_of({key: None for run in runs for key in run.metrics})].name
    others = sorted(names, key=lambda name: ("loss" in name, name))
    order = [*(name for name, _ in monitored.most_common()), main, *others]
    return next((name for name in order if name in names), main)


def _said_mode(run: StoredRun, metric: str) -> str | None:
    """What the run says of the direction of `metric`."""
    mode = run.params.get("monitor_mode", AUTO)
    return mode if run.params.get("monitor") == metric and mode in ("min", "max") else None


def _mode(run: StoredRun, metric: str) -> str:
    return _said_mode(run, metric) or direction(metric)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan
