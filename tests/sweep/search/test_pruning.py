"""A run that reports to a study is pruned if its pruner says so, and never because of the study itself."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from hydra.core.override_parser.overrides_parser import OverridesParser

from lwexp.config.schema import SearchConfig
from lwexp.sweep.search.pruning import TrialReporter, trial_reporter
from lwexp.sweep.search.space import parse_space
from lwexp.sweep.search.study import Study, TrialRun, make_sampler, open_storage
from lwexp.training.callbacks import Pruned
from lwexp.training.state import Progress

SPACE = parse_space(OverridesParser.create().parse_overrides(["mult=interval(0.7,1.0)"]))


def begin(folder: Path, pruner: str | None = "median", storage: str | None = None, **options: Any) -> Study:
    return Study(
        open_storage(storage, folder), "search", direction="maximize",
        sampler=make_sampler("random", {}, 0), pruner=(pruner, options), owner=None,
    )  # fmt: skip


def ask(study: Study) -> int:
    return study.ask(SPACE.searched, SPACE.shown, (TrialRun(0, 0),)).number


def reporter_of(trial: int, folder: Path, storage: str | None = None) -> TrialReporter:
    (reporter,) = trial_reporter(SearchConfig(study="search", storage=storage, trial=trial), folder / "7").values()
    assert isinstance(reporter, TrialReporter)
    return reporter


def report_one(reporter: TrialReporter, epoch: int, step: int, accuracy: float) -> None:
    """The evaluation after `epoch` epochs, the last optimizer step being `step` of 0 to 99."""
    progress = Progress(steps=100, epochs=10, step=step + 1, epoch=epoch - 1)
    reporter.evaluation_end(progress, {"val/accuracy": accuracy, "val/loss": 1.0})


def report(reporter: TrialReporter, *accuracies: float) -> None:
    for epoch, accuracy in enumerate(accuracies, start=1):
        report_one(reporter, epoch, 10 * epoch - 1, accuracy)


def complete(study: Study, folder: Path, *accuracies: float) -> None:
    number = ask(study)
    report(reporter_of(number, folder), *accuracies)
    study.complete(number, max(accuracies))


def test_a_run_outside_a_search_reports_nothing(tmp_path: Path) -> None:
    assert trial_reporter(SearchConfig(study=None, storage=None, trial=None), tmp_path) == {}


def test_a_run_below_the_median_is_given_up_with_the_reason(tmp_path: Path) -> None:
    study = begin(tmp_path, n_startup_trials=3, n_warmup_steps=2)
    for accuracies in ((0.1, 0.4, 0.6), (0.1, 0.5, 0.7), (0.1, 0.6, 0.8)):
        complete(study, tmp_path, *accuracies)
    poor = reporter_of(ask(study), tmp_path)
    report(poor, 0.0)  # before the end of the warm-up
    why = r"at epoch 2, optimizer step 19: val/accuracy 0\.4900 is below 0\.5000, the median of 3 trials at that epoch"
    with pytest.raises(Pruned, match=why):
        report_one(poor, 2, 19, 0.49)


def test_nothing_is_given_up_before_enough_trials_or_with_no_pruner(tmp_path: Path) -> None:
    study = begin(tmp_path, n_startup_trials=2)
    complete(study, tmp_path, 0.5, 0.9)
    report(reporter_of(ask(study), tmp_path), 0.1, 0.1)
    (tmp_path / "none").mkdir()
    study = begin(tmp_path / "none", pruner=None)
    for _ in range(3):
        complete(study, tmp_path / "none", 0.5, 0.9)
    report(reporter_of(ask(study), tmp_path / "none"), 0.1, 0.1)


def test_the_last_evaluation_is_reported_and_ends_well(tmp_path: Path) -> None:
    study = begin(tmp_path, n_startup_trials=1)
    complete(study, tmp_path, 0.5)
    report_one(reporter_of(ask(study), tmp_path), 1, 99, 0.1)


def test_a_run_that_goes_on_reports_again(tmp_path: Path) -> None:
    study = begin(tmp_path, n_startup_trials=1)
    number = ask(study)
    report(reporter_of(number, tmp_path), 0.3, 0.4)
    report(reporter_of(number, tmp_path), 0.3, 0.4, 0.5)
    study.complete(number, 0.5)
    with pytest.raises(Pruned, match=r"below 0\.5000, the median of 1 trials"):
        report_one(reporter_of(ask(study), tmp_path), 3, 29, 0.45)


def test_another_pruner_is_named(tmp_path: Path) -> None:
    begin(tmp_path, pruner="threshold", lower=0.5)
    study = begin(tmp_path, pruner="threshold", lower=0.5)
    with pytest.raises(Pruned, match=r"val/accuracy 0\.2000 was not enough for the pruner threshold"):
        report(reporter_of(ask(study), tmp_path), 0.2)


def test_a_study_that_does_not_answer_ends_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        report(reporter_of(0, tmp_path / "gone"), 0.1)
        begin(tmp_path)
        report(reporter_of(5, tmp_path), 0.1)
    assert len(caplog.messages) == 2
    assert all("the search's study does not answer, the run continues" in message for message in caplog.messages)


def test_a_trial_that_has_its_end_is_no_longer_judged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = begin(tmp_path, n_startup_trials=1)
    complete(study, tmp_path, 0.5)
    number = ask(study)
    study.fail(number, "lost")
    with caplog.at_level(logging.WARNING):
        report(reporter_of(number, tmp_path), 0.1)
    assert not caplog.messages


def test_a_database_serves_as_well(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/studies.db"
    study = begin(tmp_path, storage=address, n_startup_trials=1)
    first = ask(study)
    report(reporter_of(first, tmp_path, address), 0.5)
    study.complete(first, 0.5)
    with pytest.raises(Pruned):
        report(reporter_of(ask(study), tmp_path, address), 0.1)
