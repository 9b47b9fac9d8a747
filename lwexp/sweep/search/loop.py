"""The loop of a search: trials in batches until there are enough. It knows neither Hydra nor launchers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from lwexp.experiment.manifest import Point
from lwexp.sweep.outcome import Outcome
from lwexp.sweep.points import values_of

from .space import Space, quoted
from .study import Study, Trial, TrialRun

Run = Callable[[Sequence[Point]], Sequence[Outcome]]  # the outcomes in the order of the points


@dataclass(frozen=True)
class Arm:
    """A study, its search space, its number of trials in all, and the keys that name its points.

    `uniform`: all its trials have uniform rates.
    """

    study: Study
    space: Space
    trials: int
    keys: tuple[str, ...]
    uniform: bool = False


class Search:
    """The arms of a search, one after another; all state that must survive the process is in their studies."""

    def __init__(self, arms: Sequence[Arm], *, seeds: Sequence[int], batch: int, first_number: int, run: Run) -> None:
        """Every trial has all `seeds`; `run` gets `batch` trials at a time, as points from `first_number` on.

        A killed search may have planned jobs with higher numbers, which it resumes.
        """
        self._arms, self._seeds, self._batch, self._run = arms, seeds, batch, run
        planned = [job.number + 1 for arm in arms for trial in arm.study.planned() for job in trial.jobs]
        self._numbers = itertools.count(max([first_number, *planned]))

    def run(self) -> None:
        """Run trials until each arm has enough or its space is exhausted; those of a killed search first."""
        for arm in self._arms:
            arm.study.drop_unplanned()
            left = arm.study.running()
            for start in range(0, len(left), self._batch):
                self._run_trials(arm, left[start : start + self._batch])
            while (missing := arm.trials - len(arm.study.planned())) > 0 and not arm.study.exhausted:
                self._run_trials(arm, [self._ask(arm) for _ in range(min(missing, self._batch))])

    def _ask(self, arm: Arm) -> Trial:
        jobs = tuple(TrialRun(seed, next(self._numbers)) for seed in self._seeds)
        return arm.study.ask(arm.space.searched, arm.space.shown, jobs)

    def _run_trials(self, arm: Arm, trials: Sequence[Trial]) -> None:
        """Run trials and report their results: the first seed of each, then the other seeds of those it did not end."""
        done = self._outcomes({trial.jobs[0].number: _point(arm, trial, trial.jobs[0]) for trial in trials})
        continued = [trial for trial in trials if _continues(done[trial.jobs[0].number])]
        done |= self._outcomes({job.number: _point(arm, trial, job) for trial in continued for job in trial.jobs[1:]})
        for trial in trials:
            _report(arm.study, trial, [done[job.number] for job in trial.jobs if job.number in done])

    def _outcomes(self, points: dict[int, Point]) -> dict[int, Outcome]:
        outcomes = self._run(list(points.values())) if points else []
        return dict(zip(points, outcomes, strict=True))


def _point(arm: Arm, trial: Trial, job: TrialRun) -> Point:
    """A trial takes one value per epoch: that of its first seed, which also decides on pruning."""
    values = {**trial.values, "seed": str(job.seed)}
    job_itself = (*arm.space.constants, *(f"{key}={value}" for key, value in values.items()))
    reports = (f"sweep.search.study={quoted(arm.study.name)}", f"sweep.search.trial={trial.number}")
    return Point(
        job.number,
        (*job_itself, *reports) if job is trial.jobs[0] else job_itself,
        values_of(job_itself, arm.keys),
        arm="uniform" if arm.uniform else "layerwise",
        tags={"lwexp.phase": "search", "lwexp.study": arm.study.name, "lwexp.trial": str(trial.number)},
    )


def _continues(outcome: Outcome) -> bool:
    return outcome.status == "FINISHED" and outcome.pruned is None


def _report(study: Study, trial: Trial, outcomes: Sequence[Outcome]) -> None:
    """Report the result of a trial to the study: the mean over its runs, or why there is none."""
    failed = next((outcome for outcome in outcomes if outcome.status != "FINISHED"), None)
    values = [outcome.value for outcome in outcomes if outcome.value is not None and math.isfinite(outcome.value)]
    if failed is not None:
        study.fail(trial.number, failed.reason or f"its run ended {failed.status}")
    elif any(outcome.pruned for outcome in outcomes):
        study.prune(trial.number)
    elif len(values) < len(trial.jobs):
        study.fail(trial.number, f"its run has no {outcomes[0].metric}")
    else:
        study.complete(trial.number, fmean(values))
