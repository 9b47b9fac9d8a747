"""A sweep as MLflow has it: its parent run, found by folder, id or name, and its children with their metric histories.

Nothing is read from the runs' folders, so a report can be made on any machine that reaches the store.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from lwexp.config.schema import MLflowConfig
from lwexp.errors import ConfigError, RunError, UnknownNameError
from lwexp.tracking.address import experiment_name
from lwexp.tracking.delivery_state import read_state
from lwexp.tracking.keys import PARENT_TAG, REASON_TAG
from lwexp.tracking.reader import OLDEST_FIRST, StoredRun, StoreReader

from .arms import Key, arm_of, bases_of, planned_rates
from .statistics import Floats

_ID = re.compile(r"[0-9a-f]{6,32}")
_IS_SWEEP = "tags.`lwexp.kind` = 'sweep'"
_POINT_TAG, _PHASE_TAG = "lwexp.point", "lwexp.phase"


@dataclass(frozen=True)
class Curve:
    """A validation metric at optimizer steps, both [evaluations]."""

    steps: Floats
    values: Floats


@dataclass(frozen=True)
class SweepRun:
    """A child run; `validation` is of the best weights by validation, NaN if it has none."""

    id: str
    name: str
    status: str  # MLflow's: RUNNING, FINISHED, FAILED, KILLED, SCHEDULED
    started: int  # milliseconds since the Unix epoch
    point: dict[str, str]  # the swept keys but seed, as typed
    seed: str
    arm: str  # uniform or layerwise, by the rates of its plan; empty where the run failed before it was known
    why: str  # it failed or was pruned, in one line
    pruned: bool
    validation: float
    test: float
    curve: Curve
    rates: tuple[float, float] | None  # planned for the head and for the stem
    base: Key | None = None  # settings that vary in the sweep, those of the arm and seed apart

    @property
    def whole(self) -> bool:
        """Whether the run has trained to its end, so that its metrics can be compared."""
        return self.status == "FINISHED" and not self.pruned


@dataclass(frozen=True)
class Sweep:
    """A parent run and its children, in the order of their start."""

    id: str
    name: str
    status: str
    started: int
    swept: tuple[str, ...]  # the swept keys but seed
    total: int  # jobs in its plan
    runs: list[SweepRun] = field(repr=False)
    searched: int = 0  # trials of a search, excluded because their best settings were repeated
    cautions: tuple[str, ...] = ()  # what limits a comparison of its runs, in sentences

    @property
    def label(self) -> str:
        """A name for its report's folder: when it started, and the first digits of its id."""
        return f"{datetime.fromtimestamp(self.started / 1000):%Y-%m-%d_%H-%M-%S}_{self.id[:8]}"


class SweepReader:
    """Reads sweeps from the MLflow store of `config`; raises `ConfigError`, `RunError` where it cannot be used."""

    def __init__(self, config: MLflowConfig, base: Path) -> None:
        """Connect. An SQLite file that does not exist is not created."""
        self.experiment, self.store = experiment_name(config), StoreReader(config, base)

    def find(self, wanted: str | None) -> str:
        """The id of the sweep `wanted`: a folder, an id or its first digits, a name; by default the latest."""
        return _find(self.store, self.experiment, wanted)

    def read(self, sweep_id: str, metric: str) -> Sweep:
        """The sweep with all its children and their `val/<metric>` and `test/<metric>`.

        Raises `UnknownNameError` for a metric that no run has, `RunError` for runs without the tag of their point.
        """
        parent = self.store.run(sweep_id)
        children = self.store.search([parent.experiment_id], f"tags.`{PARENT_TAG}` = '{sweep_id}'", OLDEST_FIRST)
        if children and not any(_POINT_TAG in child.tags for child in children):
            raise RunError(f"the runs of {sweep_id} have no tag {_POINT_TAG}: an older lwexp has made them")
        children, searched = _compared(children)
        _check_metric(children, metric)
        curves = _curves(self.store, [child.id for child in children if child.metrics], metric)
        rates = planned_rates(self.store, children)
        bases = bases_of(children)
        swept = [str(key) for key in _json(parent.tags.get("lwexp.swept"), list) if key != "seed"]
        runs = [
            _run(child, metric, curves.get(child.id, {}), rates.get(child.id, ()), bases.get(child.id))
            for child in children
        ]
        total = int(parent.metrics.get("sweep/total", 0))
        return Sweep(
            id=sweep_id,
            name=parent.name,
            status=parent.status,
            started=parent.started,
            swept=tuple(swept or dict.fromkeys(key for run in runs for key in run.point)),
            total=total - searched if total else len({(*run.point.items(), run.seed) for run in runs}),
            runs=runs,
            searched=searched,
        )

    def attach(self, sweep_id: str, files: Iterable[Path]) -> None:
        """Put the files under `report/` of the sweep's artifacts, over those of an earlier report."""
        self.store.attach(sweep_id, files, "report")


def _find(store: StoreReader, experiment: str, wanted: str | None) -> str:
    if wanted is not None and Path(wanted).is_dir():
        run_id = read_state(Path(wanted)).run_id
        if run_id is None:
            raise ConfigError("sweep", wanted, "the folder holds no sweep that MLflow has (lwexp.sync delivers it)")
        return _checked(store.run(run_id), wanted)
    experiments = store.experiments()
    if wanted is not None and _ID.fullmatch(wanted.lower()):
        found = store.search(list(experiments.values()), f"attributes.run_id LIKE '{wanted.lower()}%'")
        sweeps = [run for run in found if run.tags.get("lwexp.kind") == "sweep"] or found
        if len(sweeps) > 1:
            ids = " or ".join(sorted(run.id for run in sweeps)[:3])
            raise ConfigError("sweep", wanted, f"could be {ids}; give more digits")
        if sweeps:
            return _checked(sweeps[0], wanted)
    if experiment not in experiments:
        raise UnknownNameError("tracking.experiment", experiment, experiments, "not in this store")
    sweeps = store.search([experiments[experiment]], _IS_SWEEP)
    if wanted is None:
        if not sweeps:
            raise ConfigError("tracking.experiment", experiment, "holds no sweep yet (python -m lwexp.run -m … is one)")
        return sweeps[0].id
    named = [run for run in sweeps if run.name == wanted]
    if len(named) > 1:
        ids = ", ".join(run.id for run in named[:3])
        raise ConfigError("sweep", wanted, f"{len(named)} sweeps have this name; give an id, newest first: {ids}")
    if not named:
        names = [run.name for run in sweeps[:12]]
        raise UnknownNameError("sweep", wanted, names, f"no such folder, id or name in experiment {experiment}")
    return named[0].id


def _checked(run: StoredRun, wanted: str) -> str:
    """The run's id. Raises `ConfigError` if it is not a sweep."""
    if run.tags.get("lwexp.kind") != "sweep":
        parent = run.tags.get(PARENT_TAG)
        why = f"is one job of the sweep {parent}" if parent else "is a single run, and no sweep"
        raise ConfigError("sweep", wanted, why)
    return run.id


def _compared(children: list[StoredRun]) -> tuple[list[StoredRun], int]:
    """The children that can be compared fairly, and how many are excluded.

    A trial that won a search won it in part by luck; where settings were run again with new seeds, those runs count.
    """
    kept = [child for child in children if child.tags.get(_PHASE_TAG) != "search"]
    again = any(child.tags.get(_PHASE_TAG) == "repeat" for child in kept)
    return (kept, len(children) - len(kept)) if again else (children, 0)


def _check_metric(children: Iterable[StoredRun], metric: str) -> None:
    logged = {key for child in children for key in child.metrics}
    known = {key.partition("/")[2] for key in logged if key.startswith("val/")}
    if known and metric not in known:
        raise UnknownNameError("--metric", metric, known, "no run has it on validation")


def _curves(store: StoreReader, ids: Sequence[str], metric: str) -> dict[str, dict[str, Curve]]:
    """The history of what `_best` needs, by run and key."""
    keys = dict.fromkeys((f"val/{metric}", "val/accuracy", "val/loss") if metric != "accuracy" else ("val/accuracy",))
    wanted = [(run_id, key) for run_id in ids for key in keys]
    found: dict[str, dict[str, Curve]] = {run_id: {} for run_id in ids}
    for (run_id, key), history in zip(wanted, store.histories(wanted), strict=True):
        found[run_id][key] = Curve(np.array(list(history), dtype=float), np.array(list(history.values()), dtype=float))
    return found


def _run(
    child: StoredRun,
    metric: str,
    curves: dict[str, Curve],
    rates: tuple[float, ...],
    base: Key | None,
) -> SweepRun:
    tags = child.tags
    point = {str(key): str(value) for key, value in _json(tags.get(_POINT_TAG), dict).items()}
    seed = point.pop("seed", child.params.get("seed", ""))
    nothing = Curve(np.array([]), np.array([]))
    return SweepRun(
        id=child.id,
        name=child.name,
        status=child.status,
        started=child.started,
        point=point,
        seed=seed,
        arm=arm_of(child, rates),
        why=tags.get("lwexp.pruned") or tags.get(REASON_TAG, ""),
        pruned="lwexp.pruned" in tags,
        validation=_best(metric, curves),
        test=_finite(child.metrics.get(f"test/{metric}", math.nan)),
        curve=curves.get(f"val/{metric}", nothing),
        rates=(rates[0], rates[-1]) if rates else None,
        base=base,
    )


def _best(metric: str, curves: dict[str, Curve]) -> float:
    """The validation metric of the weights that were kept: highest accuracy, then lowest loss, then the first."""
    own, accuracy = curves.get(f"val/{metric}"), curves.get("val/accuracy")
    if own is None or accuracy is None or not len(own.steps):
        return math.nan
    ranks = np.where(np.isfinite(accuracy.values), accuracy.values, -np.inf)
    best = np.flatnonzero(ranks == ranks.max()) if len(ranks) else np.array([], dtype=int)
    loss = curves.get("val/loss")
    if loss is not None and len(loss.steps) == len(ranks) and len(best):
        best = best[[int(np.argmin(np.nan_to_num(loss.values[best], nan=np.inf)))]]
    if not len(best):
        return math.nan
    at = own.values[own.steps == accuracy.steps[best[0]]]
    return _finite(float(at[0])) if len(at) else math.nan


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _json(text: str | None, kind: type[Any]) -> Any:
    """What `text` holds as JSON if it is of the `kind` expected, else that empty."""
    try:
        found = json.loads(text or "")
    except ValueError:
        return kind()
    return found if isinstance(found, kind) else kind()
