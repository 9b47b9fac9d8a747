"""What a run with any measured decay must show: nothing is disturbed, and after a kill it is the same bit for bit."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import ROOT, RunHere
from tests.run.runs import weights

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lwexp.run"]


def scales_of(folder: Path) -> list[dict[str, float]]:
    """`scales.csv` of a run: a row for each measurement."""
    with (folder / "scales.csv").open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def assert_same_weights(one: Path, other: Path) -> None:
    """The final weights of two runs are the same bits."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def assert_resumes_bit_for_bit(
    lwexp_here: RunHere, base: Path, options: Sequence[str], *, step: int, targets: Sequence[str] = ()
) -> list[dict[str, float]]:
    """A run that is killed (SIGKILL) when `step` is done and resumed is the undisturbed one; returns its scales.

    `options` save a checkpoint at every step; `targets` are the user's own classes in them.
    """
    whole = lwexp_here("run", *options, "hydra.run.dir=whole")
    assert whole.code == 0, whole.err
    kill = f"callbacks={{kill: {{_target_: tests.helpers.measured_decays.Kill, step: {step}}}}}"
    command = [sys.executable, "-m", "lwexp.run", *options, kill, "hydra.run.dir=killed"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KILL_HERE": "1"}
    ended = subprocess.run(command, cwd=base, env=environment, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    allowed = ",".join(["tests.helpers.measured_decays.Kill", *targets])
    outcome = lwexp_here("run", "resume=killed", f"checkpoint.allow_targets=[{allowed}]")
    assert outcome.code == 0, outcome.err
    assert "resum" in outcome.out
    rows = scales_of(base / "whole")
    assert scales_of(base / "killed") == rows
    assert_same_weights(base / "whole", base / "killed")
    return rows


def assert_scales_of_one_disturb_nothing(
    lwexp_here: RunHere, base: Path, options: Sequence[str], decay: Sequence[str]
) -> list[dict[str, float]]:
    """With every scale forced to 1 the run is that of `decay=none`, bit for bit; returns the scales."""
    ones = [*decay, "decay.min_scale=1", "decay.max_scale=1"]
    for folder, own in (("plain", ["decay=none"]), ("ones", ones)):
        outcome = lwexp_here("run", *options, *own, f"hydra.run.dir={folder}")
        assert outcome.code == 0, outcome.err
    assert_same_weights(base / "plain", base / "ones")
    return scales_of(base / "ones")


def scales_on_two_processes(
    lwexp_here: RunHere, base: Path, options: Sequence[str], parallel: str, *, rel: float
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Two processes come to the scales of one, within `rel`; returns those of one and of two."""
    alone = lwexp_here("run", *options, "hydra.run.dir=one")
    assert alone.code == 0, alone.err
    command = [*TORCHRUN, *options, f"parallel={parallel}", "hydra.run.dir=two"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=base, env=environment, check=False, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stderr
    one, two = scales_of(base / "one"), scales_of(base / "two")
    for ours, other in zip(two, one, strict=True):
        assert ours == pytest.approx(other, rel=rel)
    return one, two
