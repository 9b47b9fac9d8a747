"""A run that reports to a study is given up where it is hopeless, and never for the study's sake."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from hydra.core.override_parser.overrides_parser import OverridesParser

from lwexp.config.schema import SearchConfig
from lwexp.sweep.search.pruning import Judge, Pruned, judge
from lwexp.sweep.search.space import parse_space
from lwexp.sweep.search.study import Job, Study, make_sampler, open_storage

SPACE = parse_space(OverridesParser.create().parse_overrides(["mult=interval(0.7,1.0)"]))


def begin(folder: Path, pruner: str | None = "median", storage: str | None = None, **options: Any) -> Study:
    return Study(
        open_storage(storage, folder), "search", direction="maximize",
        sampler=make_sampler("random", {}, 0), pruner=(pruner, options), owner=None,
    )  # fmt: skip


def ask(study: Study) -> int:
    return study.ask(SPACE.searched, SPACE.shown, (Job(0, 0),)).number


def judge_of(trial: int, folder: Path, storage: str | None = None) -> Judge:
    found = judge(SearchConfig(study="search", storage=storage, trial=trial), folder / "7", last_step=99)
    assert found is not None
    return found


def report(judge: Judge, *accuracies: float) -> None:
    for epoch, accuracy in enumerate(accuracies, start=1):
        judge(epoch, 10 * epoch - 1, {"val/accuracy": accuracy, "val/loss": 1.0})


def complete(study: Study, folder: Path, *accuracies: float) -> None:
    number = ask(study)
    report(judge_of(number, folder), *accuracies)
    study.complete(number, max(accuracies))


def test_a_run_outside_a_search_has_no_judge(tmp_path: Path) -> None:
    assert judge(SearchConfig(study=None, storage=None, trial=None), tmp_path, last_step=9) is None


def test_a_run_below_the_median_is_given_up_with_the_reason(tmp_path: Path) -> None:
    study = begin(tmp_path, n_startup_trials=3, n_warmup_steps=2)
    for accuracies in ((0.1, 0.4, 0.6), (0.1, 0.5, 0.7), (0.1, 0.6, 0.8)):
        complete(study, tmp_path, *accuracies)
    poor = judge_of(ask(study), tmp_path)
    report(poor, 0.0)  # before the end of the warm-up
    why = r"at epoch 2, optimizer step 19: val/accuracy 0\.4900 is below 0\.5000, the median of 3 trials at that epoch"
    with pytest.raises(Pruned, match=why):
        poor(2, 19, {"val/accuracy": 0.49})


def test_nothing_is_given_up_before_enough_trials_or_with_no_pruner(tmp_path: Path) -> None:
    study = begin(tmp_path, n_startup_trials=2)
    complete(study, tmp_path, 0.5, 0.9)
    report(judge_of(ask(study), tmp_path), 0.1, 0.1)
    (tmp_path / "none").mkdir()
    study = begin(tmp_path / "none", pruner=None)
    for _ in range(3):
        complete(study, tmp_path / "none", 0.5, 0.9)
    report(judge_of(ask(study), tmp_path / "none"), 0.1, 0.1)


def test_the_last_evaluation_is_reported_and_ends_well(tmp_path: Path) -> None:
    study = begin(tmp_path, n_startup_trials=1)
    complete(study, tmp_path, 0.5)
    judge_of(ask(study), tmp_path)(1, 99, {"val/accuracy": 0.1})


def test_a_run_that_goes_on_reports_again(tmp_path: Path) -> None:
    study = begin(tmp_path, n_startup_trials=1)
    number = ask(study)
    report(judge_of(number, tmp_path), 0.3, 0.4)
    report(judge_of(number, tmp_path), 0.3, 0.4, 0.5)
    study.complete(number, 0.5)
    with pytest.raises(Pruned, match=r"below 0\.5000, the median of 1 trials"):
        judge_of(ask(study), tmp_path)(3, 29, {"val/accuracy": 0.45})


def test_another_pruner_is_named(tmp_path: Path) -> None:
    begin(tmp_path, pruner="threshold", lower=0.5)
    study = begin(tmp_path, pruner="threshold", lower=0.5)
    with pytest.raises(Pruned, match=r"val/accuracy 0\.2000 was not enough for the pruner threshold"):
        report(judge_of(ask(study), tmp_path), 0.2)


def test_a_study_that_does_not_answer_ends_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        report(judge_of(0, tmp_path / "gone"), 0.1)
        begin(tmp_path)
        report(judge_of(5, tmp_path), 0.1)
    assert len(caplog.messages) == 2
    assert all("the search's study does not answer, the run goes on" in message for message in caplog.messages)


def test_a_trial_that_has_its_end_is_no_longer_judged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = begin(tmp_path, n_startup_trials=1)
    complete(study, tmp_path, 0.5)
    number = ask(study)
    study.fail(number, "lost")
    with caplog.at_level(logging.WARNING):
        report(judge_of(number, tmp_path), 0.1)
    assert not caplog.messages


def test_a_database_serves_as_well(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/studies.db"
    study = begin(tmp_path, storage=address, n_startup_trials=1)
    first = ask(study)
    report(judge_of(first, tmp_path, address), 0.5)
    study.complete(first, 0.5)
    with pytest.raises(Pruned):
        report(judge_of(ask(study), tmp_path, address), 0.1)
