"""Runs with a measured decay: what is printed and recorded, a new head, a resume after a kill, several processes."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import ROOT, RunHere
from tests.run.runs import SMALL, UNTRACKED, Store, folders, weights

OWN = ["decay=custom", "decay._target_=tests.helpers.measured_decays.GradientNorms"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lwexp.run"]


def table(folder: Path) -> list[dict[str, float]]:
    with (folder / "scales.csv").open(encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_scales_are_printed_logged_drawn_and_kept(lwexp_here: RunHere, store: Store, tmp_path: Path) -> None:
    outcome = lwexp_here("run", *SMALL, *OWN)
    assert outcome.code == 0, outcome.err
    assert "the scales are measured from gradients before the first step and every epoch;" in outcome.out
    assert "scales from step 0 on, measured in" in outcome.out
    assert "2 measurements of the scales took" in outcome.out
    run, (folder,) = store.run(), folders(tmp_path)
    rows = table(folder)
    assert [row["step"] for row in rows] == [0, 4]
    for row in rows:
        for label, scale in row.items():
            if label != "step":
                assert dict(store.history(run, f"scale/{label}"))[int(row["step"])] == scale
                assert dict(store.history(run, f"lr/{label}"))[int(row["step"])] == pytest.approx(1e-3 * scale)
    artifacts = {file.path for file in store.client.list_artifacts(run.info.run_id)}
    assert {"scales.csv", "rates_heatmap.png", "rates.html"} <= artifacts


@pytest.mark.usefixtures("no_pictures")
def test_the_head_that_the_weights_lack_stands_outside(lwexp_here: RunHere, tmp_path: Path) -> None:
    assert lwexp_here("run", *SMALL, *UNTRACKED, "weights=source_task", "weights.epochs=1", *OWN).code == 0
    (folder,) = folders(tmp_path)
    assert {*table(folder)[0]} == {"step", "01_lstm"}
    outcome = lwexp_here("preview", *SMALL, "weights=source_task", "weights.epochs=1", *OWN, "decay.include_new=true")
    assert outcome.code == 0, outcome.err
    assert "not compared" not in outcome.out
    assert "the decay is measured, so its rates are not known before training; no plots" in outcome.out


@pytest.mark.usefixtures("no_pictures")
def test_a_run_killed_after_a_measurement_resumes_bit_for_bit(lwexp_here: RunHere, tmp_path: Path) -> None:
    options = [*SMALL, *UNTRACKED, *OWN, "decay.every_epochs=null", "decay.every_steps=2", "checkpoint.every_steps=1"]
    assert lwexp_here("run", *options, "hydra.run.dir=whole", "threads=1").code == 0
    kill = "callbacks={kill: {_target_: tests.helpers.measured_decays.Kill, step: 3}}"
    command = [sys.executable, "-m", "lwexp.run", *options, kill, "hydra.run.dir=killed", "threads=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KILL_HERE": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    allowed = ",".join(f"tests.helpers.measured_decays.{name}" for name in ("GradientNorms", "Kill"))
    outcome = lwexp_here("run", "resume=killed", f"checkpoint.allow_targets=[{allowed}]")
    assert outcome.code == 0, outcome.err
    assert table(tmp_path / "killed") == table(tmp_path / "whole")
    ours, other = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], other[name]) for name in other)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_all_processes_come_to_the_result_of_one(lwexp_here: RunHere, tmp_path: Path, parallel: str) -> None:
    options = [*SMALL, *UNTRACKED, *OWN, "threads=1", "optimizer=sgd"]
    assert lwexp_here("run", *options, "hydra.run.dir=one").code == 0
    command = [*TORCHRUN, *options, f"parallel={parallel}", "hydra.run.dir=two"]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    one, two = table(tmp_path / "one"), table(tmp_path / "two")
    assert len(one) == len(two) == 2
    for ours, other in zip(two, one, strict=True):
        assert ours == pytest.approx(other, rel=1e-3)
