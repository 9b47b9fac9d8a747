"""Reports the evaluations of a trial to its study, which may prune the run.

Optuna is imported only where a run belongs to a study.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

from lwexp.config.schema import SearchConfig
from lwexp.errors import ConfigError
from lwexp.formatting import one_line
from lwexp.training.callbacks import Callback, Pruned
from lwexp.training.monitor import Mode, Monitor
from lwexp.training.state import Progress

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

DIRECTIONS: Mapping[Mode, Literal["minimize", "maximize"]] = {"min": "minimize", "max": "maximize"}
log = logging.getLogger(__name__)


class TrialReporter(Callback):
    """Reports a run's evaluations to its trial, and ends the run where the study's pruner says so.

    A study that cannot be reached, or whose trial has ended, prunes nothing.
    """

    def __init__(self, search: SearchConfig, folder: Path) -> None:
        """`folder` is the sweep's, which holds the study where `search` names no storage."""
        self._search, self._folder = search, folder

    def evaluation_end(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Report the evaluation; raises `Pruned`, but not after the last step, where nothing is left to save."""
        if progress.within_epoch:  # trials are compared at the ends of their epochs
            return
        monitor = progress.monitor
        value = monitor.value(metrics)
        try:
            direction, reason = self._report(progress.epoch + 1, progress.step - 1, value, monitor.metric)
        except Exception as error:  # storages raise errors of their drivers, which must not end a training
            log.warning("the search's study does not answer, the run continues: %s", one_line(error))
            return
        check_direction(direction, monitor)
        if reason is not None and progress.step < progress.steps:
            raise Pruned(reason)

    def _report(self, epoch: int, step: int, value: float, metric: str) -> tuple[str, str | None]:
        """The study's direction, and why it prunes the run, None if it does not."""
        import optuna

        from .study import open_storage, study_pruner, trial_id

        assert self._search.study is not None
        assert self._search.trial is not None
        storage = open_storage(self._search.storage, self._folder)
        id_ = trial_id(storage, self._search.study, self._search.trial)
        study = optuna.load_study(study_name=self._search.study, storage=storage)
        direction = study.direction.name.lower()
        if storage.get_trial(id_).state.is_finished():
            return direction, None
        storage.set_trial_intermediate_value(id_, epoch, value)
        name, pruner = study_pruner(study)
        trial = storage.get_trial(id_)
        if not pruner.prune(study, trial):
            return direction, None
        return direction, f"at epoch {epoch}, optimizer step {step}: {_against(study, trial, epoch, name, metric)}"


def check_direction(direction: str, monitor: Monitor) -> None:
    """Raise `ConfigError` for a search that looks for the worst value of what is monitored."""
    fits = DIRECTIONS[monitor.mode]
    if direction != fits:
        why = (
            f"low values of {monitor.metric} are good"
            if fits == "minimize"
            else f"high values of {monitor.metric} are good"
        )
        raise ConfigError("hydra.sweeper.direction", direction, f"{why}: {fits}, or another monitor")


def _against(study: Study, trial: FrozenTrial, epoch: int, pruner: str | None, metric: str) -> str:
    reported = trial.intermediate_values.values()
    highest = study.direction.name == "MAXIMIZE"
    best = (max if highest else min)(reported)
    if pruner != "median":
        return f"{metric} {best:.4f} was not enough for the pruner {pruner}"
    complete = [t.intermediate_values for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    others = [values[epoch] for values in complete if epoch in values]
    side = "below" if highest else "above"
    return f"{metric} {best:.4f} is {side} {median(others):.4f}, the median of {len(others)} trials at that epoch"


def trial_reporter(search: SearchConfig, folder: Path) -> dict[str, Callback]:
    """The callback of the run in `folder`, by its name, if the run belongs to a trial of a study."""
    return {"search": TrialReporter(search, folder.parent)} if search.trial is not None else {}
