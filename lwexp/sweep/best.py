"""The best setting of a sweep: what its parent run says of it, in MLflow's list of runs and in its description."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lwexp.experiment.folder import read_result
from lwexp.experiment.manifest import Point
from lwexp.experiment.params import flat_params
from lwexp.experiment.saved_config import config_before
from lwexp.formatting import escaped

from .outcome import Outcome


@dataclass(frozen=True)
class Best:
    """The setting whose runs have the best mean of the monitored metric.

    `metrics`: the means of its runs; `params`: of the config that its runs have in common; `text`: as Markdown.
    """

    points: tuple[Point, ...]
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    text: str


def best_of(outcomes: Mapping[Point, Outcome], sweep: Path) -> Best | None:
    """The best setting in the folder `sweep`; None where no job has finished with a finite value.

    A setting is what the jobs of a sweep differ in, but for their seeds. As in the report, one that has less than half
    as many seeds as another is not compared.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Point]] = {}
    repeats = any(point.tags.get("lwexp.phase") == "repeat" for point in outcomes)
    for point, outcome in outcomes.items():
        if repeats and point.tags.get("lwexp.phase") == "search":
            continue  # the best of many trials looks better than it is, which its repetition shows
        if outcome.status == "FINISHED" and not outcome.pruned and outcome.value is not None:
            groups.setdefault(_setting(point), []).append(point)
    means = {setting: _mean(outcomes[point].value or 0.0 for point in points) for setting, points in groups.items()}
    most = max(map(len, groups.values()), default=0)
    finite = {s: mean for s, mean in means.items() if math.isfinite(mean) and 2 * len(groups[s]) >= most}
    if not finite:
        return None
    monitor = next(outcomes[points[0]].monitor for points in groups.values())
    setting = max(finite, key=lambda each: monitor.score(finite[each]))
    points = groups[setting]
    name = " ".join(f"{key}={value}" for key, value in setting) or "the only setting"
    seeds = f", mean of {len(points)} runs" if len(points) > 1 else ""
    of = f" of {len(groups)} settings" if len(groups) > 1 else ""
    text = f"**Best{of}: {escaped(name)}** ({monitor.words} {monitor.shown(finite[setting])}{seeds})"
    return Best(tuple(points), _metrics(points, sweep), _params(points, sweep), text)


def _setting(point: Point) -> tuple[tuple[str, str], ...]:
    twin = (("uniform rates", "twin"),) if point.baseline and not point.values else ()
    return (*((key, value) for key, value in point.values.items() if key != "seed"), *twin)


def _metrics(points: Iterable[Point], sweep: Path) -> dict[str, float]:
    """The mean of each metric that all have."""
    found = [read_result(point.folder_in(sweep)).metrics for point in points]
    common = [key for key in found[0] if all(key in metrics for metrics in found)]
    return {key: _mean(metrics[key] for metrics in found) for key in common}


def _params(points: Iterable[Point], sweep: Path) -> dict[str, str]:
    """The params that all have."""
    found = [flat_params(config_before(point.folder_in(sweep)) or {}) for point in points]
    return {key: value for key, value in found[0].items() if all(params.get(key) == value for params in found)}


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else math.nan
