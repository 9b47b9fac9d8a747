"""A study of Optuna's: its storage, its sampler and pruner, and its trials from ask to tell.

The launching process writes trials; jobs report to them from their own processes, perhaps on other nodes. By default
all of it is in one file in the sweep's folder, under a lock that works on network file systems.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from lwexp.errors import ConfigError, RunError, UnknownNameError, UnknownOptionError
from lwexp.formatting import one_line

FILE = "study.journal"
_POINT = "lwexp.point"  # attribute of a trial: its values as texts, and the seeds and numbers of its jobs
_FAILURE = "lwexp.failure"
_OWNER, _PRUNER = "lwexp.owner", "lwexp.pruner"  # attributes of a study
_FEWEST = 10  # complete trials for importances
_BY_POSITION = ("qmc",)  # samplers that draw one sequence, by the trial's number: their seed stays the same


@dataclass(frozen=True)
class TrialRun:
    """One run of a trial: its seed, and the number of its folder in the sweep."""

    seed: int
    number: int


@dataclass(frozen=True)
class Trial:
    """A trial whose jobs have been planned."""

    number: int
    values: dict[str, str]  # the searched keys, as texts for overrides
    jobs: tuple[TrialRun, ...]


def open_storage(address: str | None, folder: Path) -> BaseStorage:
    """The storage at `address`, a database URL of SQLAlchemy's; None: the file in the sweep's `folder`.

    Raises `RunError` if it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if address is not None:
            return optuna.storages.get_storage(address)
        path = str(folder.absolute() / FILE)
        return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    except Exception as error:  # SQLAlchemy's, its drivers' and the system's errors have no common parent
        where = folder / FILE if address is None else address
        raise RunError(f"the study in {where} cannot be opened: {one_line(error)}") from error


class Study:
    """A study and its trials. Each change is stored before the next one, so that a killed search can resume."""

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        *,
        direction: Literal["maximize", "minimize"],
        sampler: Callable[[int], BaseSampler],
        pruner: tuple[str | None, Mapping[str, Any]],
        owner: str | None,
    ) -> None:
        """Create the study or resume it; `sampler` gets the number of the trial that it draws.

        `pruner` is the arguments of `make_pruner`; jobs read them from the study. `owner` names the sweep if several
        share a storage. Raises `ConfigError` for a study of another sweep.
        """
        try:
            self._study = optuna.create_study(
                storage=storage, study_name=name, direction=direction, load_if_exists=True
            )
        except Exception as error:  # as `open_storage`
            raise RunError(f"the study {name} cannot be used: {one_line(error)}") from error
        self.name, self._storage, self._sampler = name, storage, sampler
        self.exhausted = False  # the sampler has tried the whole space
        found = self._study.user_attrs.get(_OWNER, owner)
        if found != owner:
            why = f"is the study of the sweep {found}, which sweep.resume resumes; give another name"
            raise ConfigError("hydra.sweeper.study_name", name, why)
        if self._study.direction.name.lower() != direction:
            raise ConfigError("hydra.sweeper.direction", direction, "the study was created with the other one")
        self._study.set_user_attr(_OWNER, owner)
        self._study.set_user_attr(_PRUNER, [pruner[0], dict(pruner[1])])

    def ask(
        self,
        searched: Mapping[str, BaseDistribution],
        shown: Callable[[Mapping[str, Any]], dict[str, str]],
        jobs: tuple[TrialRun, ...],
    ) -> Trial:
        """A new trial that runs as `jobs`, with values drawn from `searched`.

        They depend on the sampler's seed, the trial's number and the trials finished so far, not on interruptions.
        """
        self._study.sampler = self._sampler(len(self._trials()))
        asked = self._study.ask(dict(searched))
        trial = Trial(asked.number, shown(asked.params), jobs)
        planned = [[job.seed, job.number] for job in trial.jobs]
        asked.set_user_attr(_POINT, {"values": trial.values, "jobs": planned})
        return trial

    def drop_unplanned(self) -> None:
        """Fail the trials that a killed search had asked for but not planned: nothing of them has run."""
        for trial in self._trials(TrialState.RUNNING):
            if _POINT not in trial.user_attrs:
                self.fail(trial.number, "interrupted before it started")

    def running(self) -> list[Trial]:
        """The planned trials without a result."""
        return [_planned(trial) for trial in self._trials(TrialState.RUNNING) if _POINT in trial.user_attrs]

    def planned(self) -> list[Trial]:
        """All planned trials."""
        return [_planned(trial) for trial in self._trials() if _POINT in trial.user_attrs]

    def complete(self, number: int, value: float) -> None:
        """Report the objective of a trial."""
        self._tell(number, values=value)

    def prune(self, number: int) -> None:
        """Report that a trial was pruned."""
        self._tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """Report that a trial failed, and why."""
        self._storage.set_trial_user_attr(trial_id(self._storage, self.name, number), _FAILURE, reason)
        self._tell(number, state=TrialState.FAIL)

    def best(self, count: int) -> list[tuple[Trial, float]]:
        """The best complete trials and their objectives, best first, each setting once."""
        highest = self._study.direction == optuna.study.StudyDirection.MAXIMIZE
        done = [t for t in self._trials(TrialState.COMPLETE) if _POINT in t.user_attrs and t.value is not None]
        ranked = sorted(done, key=lambda t: -_value(t) if highest else _value(t))
        distinct: dict[tuple[tuple[str, str], ...], tuple[Trial, float]] = {}
        for found in ranked:
            trial = _planned(found)
            distinct.setdefault(tuple(sorted(trial.values.items())), (trial, _value(found)))
        return list(distinct.values())[:count]

    def counts(self) -> dict[str, int]:
        """How many planned trials are complete, pruned and failed."""
        words = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
        states = [trial.state for trial in self._trials() if _POINT in trial.user_attrs]
        return {word: states.count(state) for state, word in words.items()}

    def failures(self) -> dict[int, str]:
        """The reasons of the failed trials by their numbers."""
        failed = [t for t in self._trials(TrialState.FAIL) if _POINT in t.user_attrs]
        return {trial.number: trial.user_attrs[_FAILURE] for trial in failed}

    def importances(self) -> dict[str, float]:
        """The share of the objective's variance that each searched key explains; empty for few trials."""
        if len(self._trials(TrialState.COMPLETE)) < _FEWEST:
            return {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of trials that are too similar
                found = optuna.importance.get_param_importances(self._study)
        except (ValueError, RuntimeError):  # all equal
            return {}
        return {key: float(part) for key, part in found.items() if math.isfinite(part)}

    def _tell(self, number: int, **result: Any) -> None:
        try:
            self._study.tell(number, **result)
        except RuntimeError:
            # an exhausted sampler stops the study, which Optuna supports in its own loop only; the trial has its result
            if not self._trials()[number].state.is_finished():
                raise
            self.exhausted = True

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        found: list[FrozenTrial] = self._study.get_trials(deepcopy=False, states=states or None)
        return found


def trial_id(storage: BaseStorage, study: str, number: int) -> int:
    """The storage's own id of a trial."""
    found: int = storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study), number)
    return found


def study_pruner(study: optuna.Study) -> tuple[str | None, BasePruner]:
    """The short name and the pruner of the search."""
    name, options = study.user_attrs[_PRUNER]
    return name, make_pruner(name, options)


def make_pruner(name: str | None, options: Mapping[str, Any]) -> BasePruner:
    """A pruner of Optuna's by its short name (`median`); None: never prune. Raises `ConfigError`."""
    if name is None:
        return optuna.pruners.NopPruner()
    built: BasePruner = _built(_named(optuna.pruners, "Pruner", name), options, {}, "pruner")
    return built


def pruner_options(
    name: str | None, startup_trials: int, warmup_epochs: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options for `make_pruner`; the first two only if the pruner has them. Its steps are epochs, from 1 on."""
    if name is None:
        return {}
    known = inspect.signature(_named(optuna.pruners, "Pruner", name)).parameters
    common = {"n_startup_trials": startup_trials, "n_warmup_steps": warmup_epochs + 1}
    return {**{key: value for key, value in common.items() if key in known}, **options}


def make_sampler(name: str, options: Mapping[str, Any], seed: int | None) -> Callable[[int], BaseSampler]:
    """A function from a trial's number to its sampler, one of Optuna's by its short name (`tpe`).

    `seed` None: a different search each time. Raises `ConfigError`.
    """
    kind = _named(optuna.samplers, "Sampler", name)
    known = inspect.signature(kind).parameters
    liar = {"constant_liar": True} if "constant_liar" in known else {}  # trials of one batch differ

    def sampler(number: int) -> BaseSampler:
        own = seed
        if seed is not None and name not in _BY_POSITION:
            own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        seeded = {"seed": own} if "seed" in known else {}
        built: BaseSampler = _built(kind, options, {**liar, **seeded}, "sampler")
        return built

    sampler(0)
    return sampler


def _named(module: Any, kind: str, name: str) -> Any:
    classes = {n.removesuffix(kind).lower(): n for n in module.__all__ if n.endswith(kind) and n != f"Base{kind}"}
    if name not in classes:
        raise UnknownNameError(f"hydra.sweeper.{kind.lower()}.name", name, classes, f"no such {kind.lower()} in Optuna")
    return getattr(module, classes[name])


def _built(kind: Any, options: Mapping[str, Any], ours: Mapping[str, Any], section: str) -> Any:
    """`options` are the user's and override `ours`."""
    known = inspect.signature(kind).parameters
    for key, value in options.items():
        if key not in known:
            what = f"{kind.__name__} has no such option"
            raise UnknownOptionError(f"hydra.sweeper.{section}.options.{key}", value, known, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return kind(**{**ours, **options})
    except (TypeError, ValueError, ImportError) as error:
        why = one_line(error)
        raise ConfigError(f"hydra.sweeper.{section}.options", dict(options), f"{kind.__name__}: {why}") from None


def _planned(trial: FrozenTrial) -> Trial:
    point = trial.user_attrs[_POINT]
    return Trial(trial.number, dict(point["values"]), tuple(TrialRun(*job) for job in point["jobs"]))


def _value(trial: FrozenTrial) -> float:
    value: float | None = trial.value
    assert value is not None
    return value
