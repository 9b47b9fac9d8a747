"""Reads what is reported on from MLflow: a sweep's children, or runs of any origin, with their metric histories.

Nothing is read from the runs' folders, so a report can be made on any machine that reaches the store.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lwexp.config.schema import MLflowConfig
from lwexp.errors import RunError
from lwexp.formatting import few
from lwexp.tracking.address import experiment_name
from lwexp.tracking.keys import PARENT_TAG, REASON_TAG, cut
from lwexp.tracking.reader import OLDEST_FIRST, StoredRun, StoreReader

from .arms import arm_of, bases_of, planned_rates
from .measured import NO_CURVE, Measured, measured, read_curves
from .points import cautions, points_of, seed_of, swept
from .runs import Sweep, SweepRun
from .selecting import Selected, select

_POINT_TAG, _PHASE_TAG = "lwexp.point", "lwexp.phase"
_NAMED, _NAME = 2, 40  # sweeps in a title, and characters of each


class SweepReader:
    """Reads runs from the MLflow store of `config`; raises `ConfigError`, `RunError` where it cannot be used."""

    def __init__(self, config: MLflowConfig, base: Path) -> None:
        """Connect. An SQLite file that does not exist is not created."""
        self.experiment, self.store = experiment_name(config), StoreReader(config, base)

    def find(self, *words: str, query: str | None = None) -> Selected:
        """The sweeps and runs that `words` and `query` name; see `select`."""
        return select(self.store, self.experiment, words, query)

    def read(self, found: Selected, metric: str | None = None, query: str | None = None) -> Sweep:
        """The runs of `found` with their values of `metric`, by default the one that they monitor.

        Raises `UnknownNameError` for a metric that no run has, `RunError` for a sweep whose runs lack the tag of their
        point.
        """
        if len(found.sweeps) == 1 and not found.runs:
            (parent,) = found.sweeps.values()
            return self._sweep(parent, metric)
        runs = dict(found.runs)
        searched = 0
        for parent in found.sweeps.values():
            children, left = _compared(self._children(parent))
            runs |= {child.id: child for child in children}
            searched += left
        children = sorted(runs.values(), key=lambda run: run.started)
        known = measured(children, metric)
        points = points_of(children)
        read = self._runs([child for child in children if child.id in points], known, points)
        names = [cut(sweep.name, _NAME) for sweep in found.sweeps.values()]
        alone = len(found.runs)
        several = [f"{len(names)} sweeps ({few(names, _NAMED, '; ')})"] if names else []
        several += [f"{alone} run{'' if alone == 1 else 's'}" + (f" where {query}" if query else "")] if alone else []
        running = any(sweep.status == "RUNNING" for sweep in found.sweeps.values())
        return Sweep(
            id="",
            name=" and ".join(several),
            status="RUNNING" if running else "FINISHED",
            started=int(1000 * time.time()),
            swept=swept(points),
            total=len(children),
            runs=read,
            searched=searched,
            cautions=tuple(cautions(children)),
            metric=known.name,
            mode=known.mode,
        )

    def attach(self, sweep_id: str, files: Iterable[Path]) -> None:
        """Put the files under `report/` of the sweep's artifacts, over those of an earlier report."""
        self.store.attach(sweep_id, files, "report")

    def _sweep(self, parent: StoredRun, metric: str | None) -> Sweep:
        children = self._children(parent)
        if children and not any(_POINT_TAG in child.tags for child in children):
            raise RunError(f"the runs of {parent.id} have no tag {_POINT_TAG}: an older lwexp has made them")
        children, searched = _compared(children)
        known = measured(children, metric)
        points = {child.id: _point(child) for child in children}
        runs = self._runs(children, known, points)
        keys = [str(key) for key in _json(parent.tags.get("lwexp.swept"), list) if key != "seed"]
        total = int(parent.metrics.get("sweep/total", 0))
        return Sweep(
            id=parent.id,
            name=parent.name,
            status=parent.status,
            started=parent.started,
            swept=tuple(keys or dict.fromkeys(key for run in runs for key in run.point)),
            total=total - searched if total else len({(*run.point.items(), run.seed) for run in runs}),
            runs=runs,
            searched=searched,
            metric=known.name,
            mode=known.mode,
        )

    def _children(self, parent: StoredRun) -> list[StoredRun]:
        return self.store.search([parent.experiment_id], f"tags.`{PARENT_TAG}` = '{parent.id}'", OLDEST_FIRST)

    def _runs(
        self, children: Sequence[StoredRun], metric: Measured, points: dict[str, dict[str, str]]
    ) -> list[SweepRun]:
        """The runs at their `points`, whose seed is taken from there if it is in it."""
        curves = read_curves(self.store, [child for child in children if child.metrics], metric)
        rates, bases = planned_rates(self.store, children), bases_of(children)
        runs = []
        for child in children:
            point = dict(points[child.id])
            own, planned = curves.get(child.id, {}), rates.get(child.id, ())
            seed = point.pop("seed", None)
            runs.append(
                SweepRun(
                    id=child.id,
                    name=child.name,
                    status=child.status,
                    started=child.started,
                    point=point,
                    seed=seed_of(child) if seed is None else seed,
                    arm=arm_of(child, planned),
                    why=child.tags.get("lwexp.pruned") or child.tags.get(REASON_TAG, ""),
                    pruned="lwexp.pruned" in child.tags,
                    validation=metric.best_of(child, own),
                    test=metric.test_of(child),
                    curve=own.get(metric.validation, NO_CURVE),
                    rates=(planned[0], planned[-1]) if planned else None,
                    base=bases.get(child.id),
                )
            )
        return runs


def _compared(children: list[StoredRun]) -> tuple[list[StoredRun], int]:
    """The children that can be compared fairly, and how many are excluded.

    A trial that won a search won it in part by luck; where settings were run again with new seeds, those runs count.
    """
    kept = [child for child in children if child.tags.get(_PHASE_TAG) != "search"]
    again = any(child.tags.get(_PHASE_TAG) == "repeat" for child in kept)
    return (kept, len(children) - len(kept)) if again else (children, 0)


def _point(child: StoredRun) -> dict[str, str]:
    """The point of a sweep's job, as typed, with its seed."""
    point = {str(key): str(value) for key, value in _json(child.tags.get(_POINT_TAG), dict).items()}
    return {"seed": child.params.get("seed", ""), **point}


def _json(text: str | None, kind: type[Any]) -> Any:
    """What `text` holds as JSON if it is of the `kind` expected, else that empty."""
    try:
        found = json.loads(text or "")
    except ValueError:
        return kind()
    return found if isinstance(found, kind) else kind()
