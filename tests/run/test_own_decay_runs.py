"""Runs with `update_ratio` and `hypergradient`: networks of several kinds, scale 1, a kill, several processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.commands import RunHere
from tests.run.measured_runs import (
    assert_resumes_bit_for_bit,
    assert_scales_of_one_disturb_nothing,
    scales_of,
    scales_on_two_processes,
)
from tests.run.runs import FAKE, SMALL, UNTRACKED, folders, weights
from tests.run.test_heavy_tail_runs import TEXT, texts  # noqa: F401  (a fixture)

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
    scales = [scale for label, scale in scales_of(folder)[0].items() if label != "step"]
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
    rows = [[scale for label, scale in row.items() if label != "step"] for row in scales_of(folder)]
    assert rows[0] == rows[1] == pytest.approx([0.9**i for i in range(len(rows[0]))])
    for row in rows[2:]:
        assert row == pytest.approx([row[1] ** i for i in range(len(row))])
    assert len({row[1] for row in rows}) == 3


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("decay", OFTEN)
def test_scales_of_one_are_the_run_without_measurements(lwexp_here: RunHere, tmp_path: Path, decay: str) -> None:
    assert_scales_of_one_disturb_nothing(lwexp_here, tmp_path, LSTM, OFTEN[decay])
    assert lwexp_here("run", *LSTM, *OFTEN[decay], "hydra.run.dir=measured").code == 0
    plain, other = weights(tmp_path / "plain"), weights(tmp_path / "measured")
    assert not all(torch.equal(other[name], plain[name]) for name in plain)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("decay", OFTEN)
@pytest.mark.parametrize("step", [2, 3])
def test_a_killed_run_resumes_bit_for_bit(lwexp_here: RunHere, tmp_path: Path, decay: str, step: int) -> None:
    options = [*LSTM, *OFTEN[decay], "checkpoint.every_steps=1", "clip_grad_norm=0.1"]
    assert_resumes_bit_for_bit(lwexp_here, tmp_path, options, step=step)


@pytest.mark.slow
@pytest.mark.parametrize("decay", OFTEN)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_all_processes_come_to_the_scales_of_one(
    lwexp_here: RunHere, tmp_path: Path, decay: str, parallel: str
) -> None:
    options = [*LSTM, *OFTEN[decay], "optimizer=sgd", "lr=0.1", "checkpoint.every_steps=1"]
    one, _ = scales_on_two_processes(lwexp_here, tmp_path, options, parallel, rel=1e-3)
    assert len(one) == 3
    state = torch.load(sorted((tmp_path / "two" / "checkpoints").glob("*.ckpt"))[-1], weights_only=True)
    kept = state["scheduler"]["measured"]["rule"].get("before", {})
    whole = {name: tensor.shape for name, tensor in state["model"].items()}
    assert all(tensor.shape == whole[name] for name, tensor in kept.items()), "of shards the full tensors are saved"
