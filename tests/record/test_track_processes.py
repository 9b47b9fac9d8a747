"""`lwexp.track` in scripts that are killed, interrupted, fail, run twice or on several processes."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

import lwexp
from lwexp import ConfigError
from lwexp.tracking.delivery_state import read_state
from tests.helpers.commands import Outcome
from tests.helpers.processes import clean_environment
from tests.helpers.tracked_loops import RATES, only_run, planned, points
from tests.helpers.tracked_runs import until

FOLDER = Path("outputs", "runs", "mine")
KEYS = ["train/loss", *RATES]


def script(ends: str, first: int = 0, last: int = 10**6) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.helpers.tracked_script", ends, str(first), str(last)]
    return subprocess.Popen(command, env=clean_environment(), text=True, stderr=subprocess.PIPE, start_new_session=True)


def truth() -> dict[int, list[str]]:
    """By step, what the script had recorded for sure: loss and rates in hexadecimal."""
    path = Path("truth.txt")
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return {int(step): values for step, *values in (line.split() for line in lines)}


def recorded(client: MlflowClient, run_id: str) -> dict[int, list[str]]:
    """What MLflow has, each step exactly once."""
    columns = [points(client, run_id, key) for key in KEYS]
    steps = [[step for step, _ in column] for column in columns]
    assert steps[0] == steps[1] == steps[2] == list(range(len(steps[0])))
    return {rows[0][0]: [value for _, value in rows] for rows in zip(*columns, strict=True)}


@pytest.mark.parametrize("deliverer", ["delivers the rest", "is killed as well"])
def test_kill_9_in_the_middle_loses_nothing_and_the_run_resumes_without_doubled_points(
    deliverer: str, client: MlflowClient, lwexp_here: Callable[..., Outcome], tmp_path: Path
) -> None:
    process = script("with")
    wanted = random.randint(20, 900)
    until(lambda: len(truth()) >= wanted or process.poll() is not None)
    plan, optimizer, _ = planned()
    with pytest.raises(ConfigError, match=rf"in use by process {process.pid} on "):
        lwexp.track(plan, optimizer, folder=FOLDER, resume="auto").start()
    process.kill()
    process.communicate()
    if deliverer == "is killed as well":
        os.kill(read_state(FOLDER).pid, signal.SIGKILL)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        os.chdir(elsewhere)
        outcome = lwexp_here("sync", str(tmp_path))
        assert (outcome.code, outcome.err) == (0, "")
        os.chdir(tmp_path)
    until(lambda: read_state(FOLDER).status is not None)
    run, known = only_run(client), truth()
    assert run.info.status == "KILLED"
    assert "died unexpectedly" in run.data.tags["lwexp.reason"]
    found = recorded(client, run.info.run_id)
    assert len(known) <= len(found) <= len(known) + 1  # the last step may not have come to the script's own file
    assert {step: found[step] for step in known} == known

    again = script("with", len(known) - 10, len(known) + 50)
    assert again.communicate(timeout=120)[1] == ""
    run = only_run(client)
    assert run.info.status == "FINISHED"
    assert run.data.tags["lwexp.resumed"] == f"step {len(known) - 10}"
    after = recorded(client, run.info.run_id)
    assert len(after) == len(known) + 50
    assert {step: after[step] for step in found} == found


@pytest.mark.parametrize(
    ("ends", "status", "reason", "line"),
    [
        ("with", "KILLED", "interrupted", "KeyboardInterrupt"),
        ("object-error", "FAILED", "no more data", "ValueError: no more data"),
        ("object", "KILLED", "the process ended before record.end()", ""),
    ],
)
def test_a_script_that_ends_in_another_way_leaves_no_run_open(
    ends: str, status: str, reason: str, line: str, client: MlflowClient
) -> None:
    process = script(ends, 0, 10**6 if ends == "with" else 30)
    if ends == "with":
        until(lambda: len(truth()) >= 30 or process.poll() is not None)
        process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    assert error.strip().rpartition("\n")[2] == line
    run = only_run(client)
    assert (run.info.status, run.data.tags["lwexp.reason"]) == (status, reason)
    known, found = truth(), recorded(client, run.info.run_id)
    assert {step: found[step] for step in known} == known


def test_of_several_processes_rank_0_keeps_the_record(client: MlflowClient) -> None:
    code = """
import torch, lwexp
from tests.helpers.tracked_loops import planned
torch.distributed.init_process_group("gloo")
_, optimizer, scheduler = planned(policy="constant")
scheduler.schedule.steps = None
rank = torch.distributed.get_rank()
with lwexp.track(scheduler, params={"rank": rank}) as record:
    for _ in range(5):
        optimizer.step()
        record.step({"rank": rank})
        scheduler.step()
    record.log({"val": 1.0})
    record.artifact("train.py")
    assert (record.run_id is None) == (rank != 0)
torch.distributed.destroy_process_group()
"""
    Path("train.py").write_text(code, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    done = subprocess.run(launcher, env=clean_environment(), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    run = only_run(client)
    assert (run.info.status, run.data.params["rank"]) == ("FINISHED", "0")
    assert points(client, run.info.run_id, "rank") == [(step, "0x0.0p+0") for step in range(5)]
    assert [path.name for path in Path("outputs", "runs").iterdir()] == [Path(run.data.tags["lwexp.folder"]).name]


def test_without_mlflow_track_says_so_in_one_line_and_the_rest_of_lwexp_works() -> None:
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"mlflow", "mlflow_skinny"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
import lwexp
names = [getattr(lwexp, name) for name in lwexp.__all__]
import torch
plan = lwexp.make_plan(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)))
optimizer = plan.optimizer("adamw")
scheduler = plan.scheduler(optimizer, "cosine", steps=3)
optimizer.step()
scheduler.step()
try:
    lwexp.track(scheduler)
except lwexp.LwexpError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"lwexp\.track needs MLflow, which is not installed: pip install mlflow\n", done.stdout)
