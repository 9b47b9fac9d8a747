"""A search's word on a training that is under way: each evaluation is reported, and a hopeless run is given up.

Optuna is imported only where a run belongs to a study.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from lwexp.config.schema import SearchConfig

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

METRIC = "val/accuracy"
log = logging.getLogger(__name__)


class Pruned(Exception):  # noqa: N818 (nothing went wrong)
    """The search has given this run up; the text says when and against what."""


class Judge:
    """Reports a run's evaluations to the trial that the run belongs to, and asks whether it should go on.

    A study that cannot be reached, or whose trial has an end already, gives nothing up: the run goes on to its end.
    """

    def __init__(self, search: SearchConfig, folder: Path, last_step: int) -> None:
        """`folder` is the sweep's, which holds the study where `search` names no storage.

        After `last_step`, the training's last optimizer step, there is nothing left to save.
        """
        self._search, self._folder, self._last_step = search, folder, last_step

    def __call__(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """Report the evaluation after `epoch` epochs, the last optimizer step being `step`; raises `Pruned`."""
        try:
            reason = self._report(epoch, step, metrics[METRIC])
        except Exception as error:  # storages raise errors of their drivers; a training does not end for them
            log.warning("the search's study does not answer, the run goes on: %s", " ".join(str(error).split())[:200])
            return
        if reason is not None and step < self._last_step:
            raise Pruned(reason)

    def _report(self, epoch: int, step: int, value: float) -> str | None:
        import optuna

        from .study import open_storage, study_pruner, trial_id

        assert self._search.study is not None
        assert self._search.trial is not None
        storage = open_storage(self._search.storage, self._folder)
        id_ = trial_id(storage, self._search.study, self._search.trial)
        if storage.get_trial(id_).state.is_finished():
            return None
        storage.set_trial_intermediate_value(id_, epoch, value)
        study = optuna.load_study(study_name=self._search.study, storage=storage)
        name, pruner = study_pruner(study)
        trial = storage.get_trial(id_)
        if not pruner.prune(study, trial):
            return None
        return f"at epoch {epoch}, optimizer step {step}: {_against(study, trial, epoch, name)}"


def _against(study: Study, trial: FrozenTrial, epoch: int, pruner: str | None) -> str:
    reported = trial.intermediate_values.values()
    highest = study.direction.name == "MAXIMIZE"
    best = (max if highest else min)(reported)
    if pruner != "median":
        return f"{METRIC} {best:.4f} was not enough for the pruner {pruner}"
    complete = [t.intermediate_values for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    others = [values[epoch] for values in complete if epoch in values]
    side = "below" if highest else "above"
    return f"{METRIC} {best:.4f} is {side} {median(others):.4f}, the median of {len(others)} trials at that epoch"


def judge(search: SearchConfig, folder: Path, last_step: int) -> Judge | None:
    """The judge of the run in `folder`, if it belongs to a trial of a study."""
    return Judge(search, folder.parent, last_step) if search.trial is not None else None
