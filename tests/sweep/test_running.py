"""Running points: what is left to run, in batches; lost jobs get their end; each status is reported once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus

from lwexp.config.schema import RunConfig
from lwexp.errors import ConfigError
from lwexp.experiment.manifest import Point
from lwexp.sweep.launchers.base import LostJobError
from lwexp.sweep.monitor import Monitor
from lwexp.sweep.outcome import JobRecord, Outcome, note_loss, outcome_of
from lwexp.sweep.running import JobRunner, Records

POINTS = [Point(number, (f"seed={number}",), {"seed": str(number)}) for number in range(4)]
Run = Callable[[Path, int], JobReturn]


class Launcher:
    """Runs `run(folder, number)` in place of each job."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self.run, self.batches = folder, run, []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        numbers = [int(job[-1].removeprefix("hydra.sweep.subdir=")) for job in job_overrides]
        self.batches.append(numbers)
        return [self.run(self.folder / str(number), number) for number in numbers]


def finish(folder: Path, number: int) -> JobReturn:
    with record(folder) as job:
        job.end("FINISHED", value=0.5)
    return JobReturn(status=JobStatus.COMPLETED)


def lose(folder: Path, number: int) -> JobReturn:
    return JobReturn(status=JobStatus.FAILED, _return_value=LostJobError("the node is gone"))


def record(folder: Path) -> JobRecord:
    folder.mkdir(exist_ok=True)
    return JobRecord(folder)


def runner(launcher: Launcher, batch: int | None = None, mistaken: Sequence[int] = ()) -> JobRunner:
    """A runner of jobs without configs; those of `mistaken` have a mistake."""
    refused = {POINTS[number].overrides for number in mistaken}

    def config_of(job: tuple[str, ...]) -> Any:
        return ConfigError("seed", job, "is refused") if job in refused else RunConfig.model_construct()

    planner = SimpleNamespace(config_of=config_of, overrides_of=lambda job: ["epochs=1", *job])
    return JobRunner(launcher, planner, Records(launcher.folder, launcher.folder, None), batch)  # type: ignore[arg-type]


@pytest.mark.parametrize(("batch", "batches"), [(None, [[0, 2, 3]]), (2, [[0, 2], [3]])])
def test_what_is_not_finished_runs_in_batches(batch: int | None, batches: list[list[int]], tmp_path: Path) -> None:
    finish(tmp_path / "1", 1)
    launcher = Launcher(tmp_path, finish)
    outcomes = runner(launcher, batch).run(POINTS)
    assert launcher.batches == batches
    assert [outcome.status for outcome in outcomes] == ["FINISHED"] * 4


def test_a_failed_job_is_tried_once_and_one_with_a_mistake_never(tmp_path: Path) -> None:
    def fail(folder: Path, number: int) -> JobReturn:
        with record(folder) as job:
            job.end("FAILED", reason="the loss is nan", code=1)
        return JobReturn(status=JobStatus.FAILED)

    launcher = Launcher(tmp_path, fail)
    outcomes = runner(launcher, mistaken=[2]).run(POINTS)
    assert launcher.batches == [[0, 1, 3]]
    assert [outcome.status for outcome in outcomes] == ["FAILED", "FAILED", "MISSING", "FAILED"]


def test_a_lost_job_ends_with_what_its_launcher_knows(tmp_path: Path) -> None:
    (lost,) = runner(Launcher(tmp_path, lose)).run(POINTS[:1])
    assert (lost.status, lost.reason, lost.exit_code) == ("KILLED", "the node is gone", 1)


def test_an_error_of_the_launcher_is_one_line_and_the_outcomes_are_those_of_the_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(folder: Path, number: int) -> JobReturn:
        finish(folder, number)
        raise OSError("the cluster\ndoes not answer")

    outcomes = runner(Launcher(tmp_path, run)).run(POINTS[:2])
    assert [outcome.status for outcome in outcomes] == ["FINISHED", "MISSING"]
    assert capsys.readouterr().err == "the launcher reports OSError: the cluster does not answer\n"


def test_interrupted_jobs_that_could_not_record_it_are_killed(tmp_path: Path) -> None:
    def run(folder: Path, number: int) -> JobReturn:
        note_loss(folder, "")
        (folder / "job.json").write_text('{"status": "RUNNING"}', encoding="utf-8")  # its process has died
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner(Launcher(tmp_path, run)).run(POINTS[:1])
    outcome = outcome_of(tmp_path / "0")
    assert (outcome.status, outcome.reason) == ("KILLED", "interrupted")


# ---------------------------------------------------------------------------------------------------- what users see


class Parent:
    """The counts that the parent run was given."""

    def __init__(self) -> None:
        self.shown: list[tuple[list[str], int]] = []

    def show(self, outcomes: Sequence[Outcome], total: int) -> None:
        self.shown.append(([outcome.status for outcome in outcomes], total))


def test_each_end_is_one_line_and_failures_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parent = Parent()
    monitor = Monitor(tmp_path, parent, threaded=False)  # type: ignore[arg-type]
    monitor.points = tuple(POINTS)
    finish(tmp_path / "0", 0)
    monitor.skip_known()
    with monitor.watching():
        finish(tmp_path / "1", 1)
        note_loss(tmp_path / "2", "the node is gone")
        monitor.report(running=True)  # a cluster may restart a killed job
        assert capsys.readouterr().err == ""
    monitor.report()
    assert capsys.readouterr().err == "[3/4] seed=2: killed: the node is gone\n"
    assert parent.shown[-1] == (["FINISHED", "FINISHED", "KILLED", "MISSING"], 4)


def test_a_search_counts_the_jobs_that_it_expects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(tmp_path, None, threaded=True)
    monitor.points, monitor.expected = tuple(POINTS[:1]), 30
    with monitor.watching():
        finish(tmp_path / "0", 0)
    assert capsys.readouterr().out.startswith("[ 1/30] seed=0: finished, validation accuracy 50.00%, 0")
    monitor.expected = 0
    assert monitor.total == 1


def test_jobs_are_reported_as_the_sweep_is_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(tmp_path, None, threaded=True)
    monitor.points = tuple(POINTS[:2])

    def interrupt() -> None:
        with monitor.watching():
            note_loss(tmp_path / "0", "interrupted")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert capsys.readouterr().err == "[1/2] seed=0: killed: interrupted\n"
