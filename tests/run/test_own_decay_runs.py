"""Runs with `update_ratio` and `hypergradient`: networks of several kinds, scale 1, a kill, several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import ROOT, RunHere
from tests.run.runs import FAKE, SMALL, UNTRACKED, folders, weights
from tests.run.test_heavy_tail_runs import TEXT, texts  # noqa: F401  (a fixture)
from tests.run.test_measured_runs import TORCHRUN, table

LSTM = [*SMALL, "grouping=per_parameter", "threads=1", *UNTRACKED]
OFTEN = {
    "update_ratio": ["decay=update_ratio", "decay.every_epochs=null", "decay.every_steps=2"],
    "hypergradient": ["decay=hypergradient", "decay.every_steps=2", "decay.hyper_lr=0.3", "mult=0.9"],
}
NETWORKS = {
    "resnet18": [*FAKE, "model=timm", "model.name=resnet18"],
    "vit_tiny": [*FAKE, "model=timm", "model.name=vit_tiny_patch16_224", "data.options.image_size=[3,32,32]",
                 "grouping=depth_index"],
    "bert": [*TEXT, "grouping=depth_index"],
    "lstm": SMALL,
}  # fmt: skip


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", NETWORKS)
def test_update_ratios_of_any_network_are_within_the_base_rate(lwexp_here: RunHere, tmp_path: Path, name: str) -> None:
    options = [*NETWORKS[name], *UNTRACKED, "decay=update_ratio", "mult=1"]
    outcome = lwexp_here("run", *options)
    assert outcome.code == 0, outcome.err
    (folder,) = folders(tmp_path)
    scales = [scale for label, scale in table(folder)[0].items() if label != "step"]
    assert max(scales) == 1
    assert 0 < min(scales) < 1


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_multiplier_of_any_network_moves(lwexp_here: RunHere, tmp_path: Path, name: str) -> None:
    moves = ["decay=hypergradient", "decay.every_steps=1", "max_steps=4", "epochs=3", "mult=0.9"]
    outcome = lwexp_here("run", *NETWORKS[name], *UNTRACKED, *moves)
    assert outcome.code == 0, outcome.err
    assert "measured from the gradients of its steps before the first step and every 1 steps" in outcome.out
    assert outcome.out.count("scales from step") <= 3, "one line an epoch"
    (folder,) = folders(tmp_path)
    assert " mult=0.9 decay=hypergradient" in outcome.out, "the run's name has it"
    rows = [[scale for label, scale in row.items() if label != "step"] for row in table(folder)]
    assert rows[0] == rows[1] == pytest.approx([0.9**i for i in range(len(rows[0]))])
    for row in rows[2:]:
        assert row == pytest.approx([row[1] ** i for i in range(len(row))])
    assert len({row[1] for row in rows}) == 3


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("decay", OFTEN)
def test_scales_of_one_are_the_run_without_measurements(lwexp_here: RunHere, tmp_path: Path, decay: str) -> None:
    assert lwexp_here("run", *LSTM, "decay=none", "hydra.run.dir=plain").code == 0
    ones = [*OFTEN[decay], "decay.min_scale=1", "decay.max_scale=1"]
    assert lwexp_here("run", *LSTM, *ones, "hydra.run.dir=ones").code == 0
    assert lwexp_here("run", *LSTM, *OFTEN[decay], "hydra.run.dir=measured").code == 0
    plain, one, other = (weights(tmp_path / name) for name in ("plain", "ones", "measured"))
    assert all(torch.equal(one[name], plain[name]) for name in plain)
    assert not all(torch.equal(other[name], plain[name]) for name in plain)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("decay", OFTEN)
@pytest.mark.parametrize("step", [2, 3])
def test_a_killed_run_resumes_bit_for_bit(lwexp_here: RunHere, tmp_path: Path, decay: str, step: int) -> None:
    options = [*LSTM, *OFTEN[decay], "checkpoint.every_steps=1", "clip_grad_norm=0.1"]
    assert lwexp_here("run", *options, "hydra.run.dir=whole").code == 0
    kill = f"callbacks={{kill: {{_target_: tests.helpers.measured_decays.Kill, step: {step}}}}}"
    command = [sys.executable, "-m", "lwexp.run", *options, kill, "hydra.run.dir=killed"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KILL_HERE": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    outcome = lwexp_here("run", "resume=killed", "checkpoint.allow_targets=[tests.helpers.measured_decays.Kill]")
    assert outcome.code == 0, outcome.err
    assert "resum" in outcome.out
    assert table(tmp_path / "killed") == table(tmp_path / "whole")
    ours, other = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], other[name]) for name in other)


@pytest.mark.slow
@pytest.mark.parametrize("decay", OFTEN)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_all_processes_come_to_the_scales_of_one(
    lwexp_here: RunHere, tmp_path: Path, decay: str, parallel: str
) -> None:
    options = [*LSTM, *OFTEN[decay], "optimizer=sgd", "lr=0.1", "checkpoint.every_steps=1"]
    assert lwexp_here("run", *options, "hydra.run.dir=one").code == 0
    command = [*TORCHRUN, *options, f"parallel={parallel}", "hydra.run.dir=two"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    one, two = table(tmp_path / "one"), table(tmp_path / "two")
    assert len(one) == len(two) == 3
    for ours, other in zip(two, one, strict=True):
        assert ours == pytest.approx(other, rel=1e-3)
    state = torch.load(sorted((tmp_path / "two" / "checkpoints").glob("*.ckpt"))[-1], weights_only=True)
    kept = state["scheduler"]["measured"]["rule"].get("before", {})
    whole = {name: tensor.shape for name, tensor in state["model"].items()}
    assert all(tensor.shape == whole[name] for name, tensor in kept.items()), "of shards the full tensors are saved"
