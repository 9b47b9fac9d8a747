"""Ctrl-C and SIGTERM while a sweep's jobs train: no run stays RUNNING, and the sweep can be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.interrupted_sweep import check_ends, interrupted, to_all, to_launcher
from tests.helpers.processes import StartCommand

JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


@pytest.mark.parametrize(("start", "options", "at_once", "interrupt", "code", "reported"), [
    ("start_command", [], 1, to_all, 130, "SIGINT"),
    ("start_command_cold", JOBLIB, 2, to_all, 130, "SIGINT"),
    ("start_command", [*JOBLIB, "hydra.launcher.n_jobs=1"], 1, to_launcher, 143, "SIGTERM"),
    pytest.param("start_command", JOBLIB, 2, to_launcher, 143, "SIGTERM", marks=pytest.mark.slow),
], ids=["one after another, Ctrl-C", "joblib, Ctrl-C", "joblib with one job, SIGTERM", "joblib, SIGTERM"])  # fmt: skip
def test_the_running_jobs_write_a_checkpoint_and_end(
    start: str,
    options: list[str],
    at_once: int,
    interrupt: Any,
    code: int,
    reported: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    pytest.importorskip("joblib")
    found, out = interrupted(request.getfixturevalue(start), tmp_path, options, at_once, interrupt)
    assert found == code, out
    assert out.count("the step is finished and a checkpoint written") == 1
    assert f"{reported}: the step is finished" in out
    assert out.count(": killed: interrupted\n") == at_once
    assert out.splitlines()[-2:] == ["resume with: python -m lwexp.run -m sweep.resume=sweep", "interrupted"]
    assert "Traceback" not in out
    check_ends(tmp_path, at_once, saved=True)


@pytest.mark.slow
def test_a_second_interrupt_waits_for_no_checkpoint_and_leaves_no_run_without_an_end(
    start_command: StartCommand, tmp_path: Path
) -> None:
    pytest.importorskip("joblib")
    code, out = interrupted(start_command, tmp_path, JOBLIB, 2, to_all, to_all)
    assert code == 130, out
    check_ends(tmp_path, 2, saved=False)
