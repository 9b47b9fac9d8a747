"""Runs with `temp_balance` and `heavy_tail`: networks of several kinds, scale 1, a kill, several processes."""

from __future__ import annotations

import re
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

LSTM = [*SMALL, "model.hidden_size=64", "grouping=per_parameter", "threads=1", *UNTRACKED]
OFTEN = ["decay.every_epochs=null", "decay.every_steps=2", "decay.ramp_steps=3"]
TEXT = [
    "data=text", "data.path=words.csv", "data.workers=0", "model=huggingface", "model.config_class=BertConfig",
    "model.config={hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 96}",
    "batch_size=8", "max_steps=2", "progress=false",
]  # fmt: skip
NETWORKS: dict[str, tuple[list[str], str, int]] = {  # options, pattern of the rows that keep the base rate, rows in all
    "resnet18": ([*FAKE, "model=timm", "model.name=resnet18", "grouping=per_parameter"], r"fc|conv1|bn1", 62),
    "vit_tiny": (
        [*FAKE, "model=timm", "model.name=vit_tiny_patch16_224", "data.options.image_size=[3,32,32]",
         "grouping=per_parameter"],
        r"head|patch_embed|pos_embed|cls_token|blocks\.0\.norm1", 152,
    ),
    "bert": ([*TEXT, "grouping=per_parameter"], r"classifier|bert\.embeddings", 41),
    "lstm": (LSTM, r"head|lstm\.(weight|bias)_ih_l0", 10),
}  # fmt: skip


@pytest.fixture(autouse=True)
def texts(tmp_path: Path) -> None:
    words = "\n".join(["text,label", *("a red one,colour", "the cat sat,animal") * 20])
    (tmp_path / "words.csv").write_text(words, encoding="utf-8")


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_but_the_ends_has_its_scale(lwexp_here: RunHere, tmp_path: Path, name: str) -> None:
    options, ends, rows = NETWORKS[name]
    outcome = lwexp_here("run", *options, *UNTRACKED, "decay=temp_balance")
    assert outcome.code == 0, outcome.err
    (folder,) = folders(tmp_path)
    scales = {label.partition("_")[2]: scale for label, scale in scales_of(folder)[0].items() if label != "step"}
    assert len(scales) == rows
    assert min(scales.values()) == 0.5
    assert max(scales.values()) == 1.5
    at_base = {label for label, scale in scales.items() if scale == 1}
    assert at_base == {label for label in scales if re.match(ends, label)}


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("decay", ["temp_balance", "heavy_tail"])
def test_scales_of_one_are_the_run_without_measurements(lwexp_here: RunHere, tmp_path: Path, decay: str) -> None:
    own = [f"decay={decay}", *OFTEN]
    assert_scales_of_one_disturb_nothing(lwexp_here, tmp_path, LSTM, own)
    assert lwexp_here("run", *LSTM, *own, "hydra.run.dir=measured").code == 0
    plain, other = weights(tmp_path / "plain"), weights(tmp_path / "measured")
    assert not all(torch.equal(other[name], plain[name]) for name in plain)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("decay", ["temp_balance", "heavy_tail"])
@pytest.mark.parametrize("step", [2, 3])
def test_a_killed_run_resumes_bit_for_bit(lwexp_here: RunHere, tmp_path: Path, decay: str, step: int) -> None:
    """Killed in the middle of a ramp, after which comes a measurement or not."""
    options = [*LSTM, f"decay={decay}", *OFTEN, "checkpoint.every_steps=1"]
    assert_resumes_bit_for_bit(lwexp_here, tmp_path, options, step=step)


@pytest.mark.slow
@pytest.mark.parametrize("decay", ["temp_balance", "heavy_tail"])
def test_sharded_weights_give_the_scales_of_whole_ones(lwexp_here: RunHere, tmp_path: Path, decay: str) -> None:
    options = [*LSTM, f"decay={decay}", *OFTEN, "optimizer=sgd"]
    one, two = scales_on_two_processes(lwexp_here, tmp_path, options, "fsdp", rel=1e-4)
    assert len(one) == 3
    assert one[0] == two[0], "of the same weights"
