"""Ctrl-C while the jobs of a sweep train on a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.interrupted_sweep import check_ends, interrupted, to_all
from tests.helpers.processes import StartCommand
from tests.system.cluster.test_engines import LAUNCHERS


@pytest.mark.parametrize("launcher", ["submitit_slurm", "ray"])
def test_the_running_jobs_write_a_checkpoint_and_end(
    launcher: str, start_command_cold: StartCommand, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if launcher == "submitit_slurm":
        request.getfixturevalue("slurm")
    else:
        pytest.importorskip("ray")
    code, out = interrupted(start_command_cold, tmp_path, LAUNCHERS[launcher], 3, to_all)
    assert code == 130, out
    assert "SIGINT: the step is finished and a checkpoint written" in out
    assert out.count(": killed: interrupted\n") == 3
    check_ends(tmp_path, 3, saved=True)
