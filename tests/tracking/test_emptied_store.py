"""A store that was emptied: `lwexp.sync --new-run` delivers its runs again, each as a new run with everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lwexp.sync import main
from lwexp.tracking.delivery_state import read_state
from tests.helpers.fake_mlflow import FakeMLflow
from tests.helpers.tracked_runs import begin_in, mlflow_config, until


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(run: dict[str, Any]) -> list[int]:
    return [int(row["step"]) for row in run["rows"]]


def test_a_run_that_is_under_way_when_its_store_is_emptied(
    server: FakeMLflow, here: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here / "outputs" / "run"
    tracker = begin_in(mlflow_config(server.uri), folder, params={"lr": 0.1})
    (folder / "a.txt").write_text("a")
    tracker.artifact(folder / "a.txt")
    tracker.log({"a": 1.0}, 0)
    until(lambda: read_state(folder).rows == 1)
    first = tracker.run_id
    server.runs.clear()
    server.artifacts.clear()
    tracker.log({"a": 2.0}, 2)
    tracker.finish("FINISHED")
    assert caplog.messages[-1].endswith(f"python -m lwexp.sync {folder}")
    assert f"to deliver everything as a new run: python -m lwexp.sync --new-run {folder}" in caplog.messages[-1]

    assert main([]) == 1
    assert f"the store has no run {first} any more" in capsys.readouterr().err
    assert server.runs == {}, "no run is made unasked"
    assert main(["--new-run"]) == 0
    (run,) = server.runs.values()
    assert rows(run) == [0, 2]
    assert (run["info"]["status"], run["params"], server.artifacts) == ("FINISHED", {"lr": "0.1"}, {"a.txt": b"a"})
    assert main(["--new-run"]) == 0
    assert len(server.runs) == 1, "what the store has stays as it is"


def test_runs_that_were_delivered_and_a_sweeps_jobs(server: FakeMLflow, here: Path) -> None:
    parent = begin_in(mlflow_config(server.uri), here / "outputs" / "sweep")
    for job in range(2):
        tracker = begin_in(
            mlflow_config(server.uri), here / "outputs" / "sweep" / str(job), parent=here / "outputs" / "sweep"
        )
        tracker.log({"a": 1.0}, job)
        tracker.finish("FINISHED")
    parent.finish("FINISHED")
    server.runs.clear()
    assert main([]) == 0, "nothing is left, as far as is known here"
    assert server.runs == {}
    assert main(["--new-run"]) == 0
    new = read_state(here / "outputs" / "sweep").run_id
    assert new in server.runs
    assert len(server.runs) == 3
    jobs = [run for run_id, run in server.runs.items() if run_id != new]
    assert {run["tags"]["mlflow.parentRunId"] for run in jobs} == {new}
    assert sorted(rows(run) for run in jobs) == [[0], [1]]


def test_a_new_run_that_was_interrupted_is_not_doubled(server: FakeMLflow, here: Path) -> None:
    tracker = begin_in(mlflow_config(server.uri), here / "outputs" / "run")
    tracker.log({"a": 1.0}, 0)
    tracker.finish("FINISHED")
    server.runs.clear()
    server.lose_writes = {server._writes + 2, server._writes + 4}
    assert main(["--new-run"]) == 0
    (run,) = server.runs.values()
    assert rows(run) == [0]
