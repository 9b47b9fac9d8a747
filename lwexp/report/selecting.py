"""Which runs are reported on: the latest sweep, or what folders, ids, names and a filter of MLflow's say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lwexp.errors import ConfigError, UnknownNameError
from lwexp.tracking.delivery_state import read_state
from lwexp.tracking.keys import PARENT_TAG
from lwexp.tracking.reader import OLDEST_FIRST, StoredRun, StoreReader

from .studies.reading import NAME as STUDY

_ID = re.compile(r"[0-9a-f]{6,32}")
_IS_SWEEP = "tags.`lwexp.kind` = 'sweep'"


@dataclass
class Selected:
    """The sweeps and the single runs that were named, each once."""

    sweeps: dict[str, StoredRun] = field(default_factory=dict)
    runs: dict[str, StoredRun] = field(default_factory=dict)

    def add(self, run: StoredRun) -> None:
        """Add `run` to the sweeps or to the single runs."""
        (self.sweeps if _is_sweep(run) else self.runs).setdefault(run.id, run)


def select(store: StoreReader, experiment: str, words: Sequence[str], query: str | None) -> Selected:
    """What the `words` and the `query` name; the latest sweep of the experiment where neither is given.

    A word is a folder, an id or its first digits, or a sweep's name; `query`, in MLflow's search syntax, is asked in
    the experiment. Raises `ConfigError`, also for a single run, which cannot be compared.
    """
    found = Selected()
    experiments = store.experiments()
    if not words and query is None:
        found.add(_find(store, experiment, experiments, None))
    for word in words:
        found.add(_find(store, experiment, experiments, word))
    if query is not None:
        matching = store.search([_id_of(experiment, experiments)], query, OLDEST_FIRST, option="--filter")
        if not matching:
            raise ConfigError("--filter", query, f"no run of the experiment {experiment} matches")
        matching = [run for run in matching if run.tags.get("lwexp.kind") != "find"]
        if not matching:
            raise ConfigError("--filter", query, "matches range tests alone, which trained nothing")
        single = [run for run in matching if not _is_sweep(run)]
        for run in single or matching:  # a sweep has the params of its best run, and its other runs may not match
            found.add(run)
    if not found.sweeps and len(found.runs) == 1:
        (only,) = found.runs.values()
        parent = only.tags.get(PARENT_TAG)
        what = f"one job of the sweep {parent}" if parent else "a single run, and no sweep"
        key, value = ("sweep", words[0]) if words else ("--filter", query)
        raise ConfigError(key, value, f"is {what}; to compare it, name other runs as well")
    return found


def study_of(found: Selected) -> Path | None:
    """The `study.csv` of the one study that was selected; None where there is none. Raises `ConfigError`."""
    # the first key in which the jobs of a study differ is their arm, which no option of a run is called
    studies = [run for run in found.sweeps.values() if run.tags.get("lwexp.swept", "").startswith('["arm"')]
    if not studies:
        return None
    run = studies[0]
    file = Path(run.tags.get("lwexp.folder", "")) / STUDY
    if len(found.sweeps) + len(found.runs) > 1:
        raise ConfigError("sweep", run.name, "is a study; report on studies by their folders, and on runs separately")
    if not file.is_file():
        raise ConfigError("sweep", run.name, f"is a study, but {file.parent} has no {STUDY}; name a copy of that file")
    return file


def _find(store: StoreReader, experiment: str, experiments: Mapping[str, str], wanted: str | None) -> StoredRun:
    if wanted is not None and Path(wanted).is_dir():
        run_id = read_state(Path(wanted)).run_id
        if run_id is None:
            raise ConfigError("sweep", wanted, "the folder holds no run that MLflow has (lwexp.sync delivers it)")
        return store.run(run_id)
    if wanted is not None and _ID.fullmatch(wanted.lower()):
        found = store.search(list(experiments.values()), f"attributes.run_id LIKE '{wanted.lower()}%'")
        sweeps = [run for run in found if _is_sweep(run)] or found
        if len(sweeps) > 1:
            ids = " or ".join(sorted(run.id for run in sweeps)[:3])
            raise ConfigError("sweep", wanted, f"could be {ids}; give more digits")
        if sweeps:
            return sweeps[0]
    sweeps = store.search([_id_of(experiment, experiments)], _IS_SWEEP)
    if wanted is None:
        if not sweeps:
            raise ConfigError("tracking.experiment", experiment, "holds no sweep yet (python -m lwexp.run -m … is one)")
        return sweeps[0]
    named = [run for run in sweeps if run.name == wanted]
    if len(named) > 1:
        ids = ", ".join(run.id for run in named[:3])
        raise ConfigError("sweep", wanted, f"{len(named)} sweeps have this name; give an id, newest first: {ids}")
    if not named:
        names = [run.name for run in sweeps[:12]]
        raise UnknownNameError("sweep", wanted, names, f"no such folder, id or name in experiment {experiment}")
    return named[0]


def _id_of(experiment: str, experiments: Mapping[str, str]) -> str:
    if experiment not in experiments:
        raise UnknownNameError("tracking.experiment", experiment, experiments, "not in this store")
    return experiments[experiment]


def _is_sweep(run: StoredRun) -> bool:
    return run.tags.get("lwexp.kind") == "sweep"
