"""A sweep as MLflow holds it: the parent run that is meant, and its children with their metrics over the steps.

Nothing is read from the runs' folders, so a report can be made on any machine that reaches the store.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lwexp.config.schema import MLflowConfig
from lwexp.errors import ConfigError, RunError, UnknownNameError
from lwexp.tracking import NOTE_TAG, address
from lwexp.tracking.address import redact, resolve_uri
from lwexp.tracking.delivery import REASON_TAG
from lwexp.tracking.delivery_state import read_place
from lwexp.tracking.store import bounded, connect, explained

from .statistics import Floats

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE = 1000  # runs in an answer
_AT_ONCE = 8  # questions to a server at a time
_ID = re.compile(r"[0-9a-f]{6,32}")
_PARENT_TAG, _KIND = "mlflow.parentRunId", "tags.`lwexp.kind` = 'sweep'"
_POINT_TAG, _PHASE_TAG = "lwexp.point", "lwexp.phase"


@dataclass(frozen=True)
class Curve:
    """A validation metric at optimizer steps, both [evaluations]."""

    steps: Floats
    values: Floats


@dataclass(frozen=True)
class SweepRun:
    """A child run; `validation` is of the weights that the run judged best, NaN where there is none."""

    id: str
    name: str
    status: str  # MLflow's: RUNNING, FINISHED, FAILED, KILLED, SCHEDULED
    started: int  # milliseconds since the Unix epoch
    point: dict[str, str]  # the swept keys but seed, as typed
    seed: str
    arm: str  # uniform, layerwise, or empty where the run failed before it was known
    why: str  # it failed or was given up, in one line
    pruned: bool
    validation: float
    test: float
    curve: Curve
    rates: tuple[float, float] | None  # planned for the head and for the stem

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
    searched: int = 0  # trials of a search that are left out, since their best settings were run again

    @property
    def label(self) -> str:
        """A name for its report's folder: when it started, and the first digits of its id."""
        return f"{datetime.fromtimestamp(self.started / 1000):%Y-%m-%d_%H-%M-%S}_{self.id[:8]}"


class Store:
    """The MLflow store of `config`; raises `ConfigError`, `RunError` where it cannot be used."""

    def __init__(self, config: MLflowConfig, base: Path) -> None:
        """Connect. An SQLite file that is not there is not made."""
        uri = resolve_uri(config, base)
        if address.kind(uri) == "sqlite" and not address.sqlite_path(uri).exists():
            key = address.uri_source(config)[0]
            raise ConfigError(key, redact(uri), "there is no such database: no run has been tracked there yet")
        self.experiment = config.experiment
        self.client, self.uri = connect(config, base)

    def find(self, wanted: str | None) -> str:
        """The id of the sweep that is meant: a folder, an id or its first digits, a name; by default the latest."""
        with explained(self.uri), bounded():
            return _find(self.client, self.experiment, wanted)

    def read(self, sweep_id: str, metric: str) -> Sweep:
        """The sweep with all its children, judged by `val/<metric>` and `test/<metric>`.

        Raises `UnknownNameError` for a metric that no run has, `RunError` for runs that do not tell their point.
        """
        with explained(self.uri), bounded():
            parent = self.client.get_run(sweep_id)
            mine = f"tags.`{_PARENT_TAG}` = '{sweep_id}'"
            children = _search(self.client, [parent.info.experiment_id], mine, "attributes.start_time ASC")
            if children and not any(_POINT_TAG in child.data.tags for child in children):
                raise RunError(f"the runs of {sweep_id} have no tag {_POINT_TAG}: an older lwexp has made them")
            total = int(parent.data.metrics.get("sweep/total", 0))
            children, searched = _compared(children)
            _check_metric(children, metric)
            curves = _curves(self.client, [child.info.run_id for child in children if child.data.metrics], metric)
        swept = [str(key) for key in _json(parent.data.tags.get("lwexp.swept"), list) if key != "seed"]
        runs = [_run(child, metric, curves.get(child.info.run_id, {})) for child in children]
        return Sweep(
            id=sweep_id,
            name=str(parent.info.run_name),
            status=str(parent.info.status),
            started=int(parent.info.start_time),
            swept=tuple(swept or dict.fromkeys(key for run in runs for key in run.point)),
            total=total - searched if total else len({(*run.point.items(), run.seed) for run in runs}),
            runs=runs,
            searched=searched,
        )

    def attach(self, sweep_id: str, files: Iterable[Path]) -> None:
        """Put the files under `report/` of the sweep's artifacts, over those of an earlier report."""
        with explained(self.uri, "does not take the report"), bounded():
            for file in files:
                self.client.log_artifact(sweep_id, str(file), "report")


def _find(client: MlflowClient, experiment: str, wanted: str | None) -> str:
    if wanted is not None and Path(wanted).is_dir():
        run_id = read_place(Path(wanted)).run_id
        if run_id is None:
            raise ConfigError("sweep", wanted, "the folder holds no sweep that MLflow has (lwexp.sync delivers it)")
        return _checked(client.get_run(run_id), wanted)
    experiments = {found.name: found.experiment_id for found in client.search_experiments()}
    if wanted is not None and _ID.fullmatch(wanted.lower()):
        start = f"attributes.run_id LIKE '{wanted.lower()}%'"
        found = _search(client, list(experiments.values()), start)
        sweeps = [run for run in found if run.data.tags.get("lwexp.kind") == "sweep"] or found
        if len(sweeps) > 1:
            ids = " or ".join(sorted(run.info.run_id for run in sweeps)[:3])
            raise ConfigError("sweep", wanted, f"could be {ids}; give more digits")
        if sweeps:
            return _checked(sweeps[0], wanted)
    if experiment not in experiments:
        raise UnknownNameError("tracking.experiment", experiment, experiments, "not in this store")
    sweeps = _search(client, [experiments[experiment]], _KIND)
    if wanted is None:
        if not sweeps:
            raise ConfigError("tracking.experiment", experiment, "holds no sweep yet (python -m lwexp.run -m … is one)")
        return str(sweeps[0].info.run_id)
    named = [run for run in sweeps if run.info.run_name == wanted]
    if len(named) > 1:
        ids = ", ".join(run.info.run_id for run in named[:3])
        raise ConfigError("sweep", wanted, f"{len(named)} sweeps have this name; give an id, newest first: {ids}")
    if not named:
        names = [str(run.info.run_name) for run in sweeps[:12]]
        raise UnknownNameError("sweep", wanted, names, f"no such folder, id or name in experiment {experiment}")
    return str(named[0].info.run_id)


def _checked(run: Run, wanted: str) -> str:
    """The run's id; refuses one that is no sweep."""
    if run.data.tags.get("lwexp.kind") != "sweep":
        parent = run.data.tags.get(_PARENT_TAG)
        why = f"is one job of the sweep {parent}" if parent else "is a single run, and no sweep"
        raise ConfigError("sweep", wanted, why)
    return str(run.info.run_id)


def _search(
    client: MlflowClient, experiments: Sequence[str], wanted: str, order: str = "attributes.start_time DESC"
) -> list[Run]:
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(list(experiments), wanted, max_results=_PAGE, order_by=[order], page_token=token)
        found += page
        token = page.token
        if not token:
            break
    return found


def _compared(children: list[Run]) -> tuple[list[Run], int]:
    """The children that can be compared fairly, and how many are left out.

    A trial that won a search won it in part by luck; where settings were run again with new seeds, those runs count.
    """
    kept = [child for child in children if child.data.tags.get(_PHASE_TAG) != "search"]
    again = any(child.data.tags.get(_PHASE_TAG) == "repeat" for child in kept)
    return (kept, len(children) - len(kept)) if again else (children, 0)


def _check_metric(children: Iterable[Run], metric: str) -> None:
    logged = {key for child in children for key in child.data.metrics}
    known = {key.partition("/")[2] for key in logged if key.startswith("val/")}
    if known and metric not in known:
        raise UnknownNameError("--metric", metric, known, "no run has it on validation")


def _curves(client: MlflowClient, ids: Sequence[str], metric: str) -> dict[str, dict[str, Curve]]:
    """The history of what `_best` needs, by run and key."""
    keys = dict.fromkeys((f"val/{metric}", "val/accuracy", "val/loss") if metric != "accuracy" else ("val/accuracy",))
    wanted = [(run_id, key) for run_id in ids for key in keys]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        histories = list(pool.map(lambda pair: client.get_metric_history(*pair), wanted))
    found: dict[str, dict[str, Curve]] = {run_id: {} for run_id in ids}
    for (run_id, key), rows in zip(wanted, histories, strict=True):
        last = {row.step: row.value for row in sorted(rows, key=lambda row: row.timestamp)}
        steps = sorted(last)
        found[run_id][key] = Curve(np.array(steps, dtype=float), np.array([last[step] for step in steps], dtype=float))
    return found


def _run(child: Run, metric: str, curves: dict[str, Curve]) -> SweepRun:
    tags, params = child.data.tags, child.data.params
    point = {str(key): str(value) for key, value in _json(tags.get(_POINT_TAG), dict).items()}
    seed = point.pop("seed", params.get("seed", ""))
    nothing = Curve(np.array([]), np.array([]))
    return SweepRun(
        id=str(child.info.run_id),
        name=str(child.info.run_name),
        status=str(child.info.status),
        started=int(child.info.start_time),
        point=point,
        seed=seed,
        arm=tags.get("lwexp.arm", ""),
        why=tags.get("lwexp.pruned") or tags.get(REASON_TAG, ""),
        pruned="lwexp.pruned" in tags,
        validation=_best(metric, curves),
        test=_finite(child.data.metrics.get(f"test/{metric}", math.nan)),
        curve=curves.get(f"val/{metric}", nothing),
        rates=_planned_rates(tags.get(NOTE_TAG, "")),
    )


def _best(metric: str, curves: dict[str, Curve]) -> float:
    """The validation metric of the weights that were kept: highest accuracy, then lowest loss, then the first."""
    own, judge = curves.get(f"val/{metric}"), curves.get("val/accuracy")
    if own is None or judge is None or not len(own.steps):
        return math.nan
    ranks = np.where(np.isfinite(judge.values), judge.values, -np.inf)
    best = np.flatnonzero(ranks == ranks.max()) if len(ranks) else np.array([], dtype=int)
    loss = curves.get("val/loss")
    if loss is not None and len(loss.steps) == len(ranks) and len(best):
        best = best[[int(np.argmin(np.nan_to_num(loss.values[best], nan=np.inf)))]]
    if not len(best):
        return math.nan
    at = own.values[own.steps == judge.steps[best[0]]]
    return _finite(float(at[0])) if len(at) else math.nan


def _planned_rates(description: str) -> tuple[float, float] | None:
    """The rates of the first and the last group in the plan's table, which a run has as its description."""
    block = description.partition("```\n")[2].partition("\n```")[0].splitlines()
    if len(block) < 3:
        return None
    columns = [slice(found.start(), found.end()) for found in re.finditer("-+", block[1])]
    titles = [block[0][column].strip() for column in columns]
    try:
        lr = columns[titles.index("lr")]
        return float(block[2][lr]), float(block[-1][lr])
    except ValueError:
        return None


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _json(text: str | None, kind: type[Any]) -> Any:
    """What `text` holds as JSON if it is of the `kind` expected, else that empty."""
    try:
        found = json.loads(text or "")
    except ValueError:
        return kind()
    return found if isinstance(found, kind) else kind()
