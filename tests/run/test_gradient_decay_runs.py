"""Runs with `decay=auto_rgn` and `decay=auto_snr`: undisturbed, killed and resumed bit for bit, on four networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.commands import RunHere
from tests.run.measured_runs import assert_resumes_bit_for_bit, assert_scales_of_one_disturb_nothing, scales_of
from tests.run.runs import UNTRACKED

SHORT = [*UNTRACKED, "batch_size=32", "max_steps=5", "epochs=3", "progress=false", "threads=1"]
BERT = "{hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 32}"  # dropout 0.1
NETWORKS = {
    "lstm": ["model=lstm", "model.hidden_size=8", "model.dropout=0.2", "data.image_size=8"],
    "resnet18": ["model=resnet18", "data.image_size=32"],
    "vit_tiny": ["model=vit_tiny_patch16_224", "data.image_size=32", "model.drop_path_rate=0.1", "optimizer=adamw"],
    "bert": ["data=text", "data.path=words.csv", "data.max_length=16", "model=huggingface",
             "model.config_class=BertConfig", f"model.config={BERT}", "accumulate=2"],
}  # fmt: skip
RULES = {
    "auto_rgn": ["decay=auto_rgn", "decay.batches=2"],
    "auto_snr": ["decay=auto_snr", "decay.batches=3", "decay.threshold=0.9"],
}
RESUMED = ["decay.smoothing=0.5", "decay.reset_optimizer=true", "checkpoint.every_steps=1"]
OFTEN = ["decay.every_epochs=null", "decay.every_steps=2"]
CASES = [
    pytest.param(network, rule, marks=() if network == "lstm" else pytest.mark.slow)
    for network in NETWORKS
    for rule in RULES
]
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(autouse=True)
def words(tmp_path: Path) -> None:
    """Sentences of two kinds, for the network of texts."""
    rows = [f"{('red', 'green', 'blue')[i % 3]} number {i},{'colours' if i % 2 else 'others'}" for i in range(240)]
    (tmp_path / "words.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")


@pytest.mark.parametrize(("network", "rule"), CASES)
def test_with_every_scale_at_1_training_is_that_without_a_measurement(
    lwexp_here: RunHere, tmp_path: Path, network: str, rule: str
) -> None:
    options = [*NETWORKS[network], *SHORT]
    rows = assert_scales_of_one_disturb_nothing(lwexp_here, tmp_path, options, [*RULES[rule], *OFTEN])
    assert [row["step"] for row in rows] == [0, 2, 4]


@pytest.mark.parametrize(("network", "rule"), CASES)
def test_killed_and_resumed_it_is_the_same_bit_for_bit(
    lwexp_here: RunHere, tmp_path: Path, network: str, rule: str
) -> None:
    options = [*NETWORKS[network], *SHORT, *RULES[rule], *OFTEN, *RESUMED]
    rows = assert_resumes_bit_for_bit(lwexp_here, tmp_path, options, step=3)
    assert [row["step"] for row in rows] == [0, 2, 4]
    compared = [value for row in rows for key, value in row.items() if key != "step"]
    assert min(compared) < 1 == max(compared)


@pytest.mark.parametrize("rule", RULES)
def test_a_new_head_stands_outside_by_default(lwexp_here: RunHere, tmp_path: Path, rule: str) -> None:
    pretrained = [*NETWORKS["lstm"], *SHORT, "weights=source_task", "weights.epochs=1", *RULES[rule]]
    for folder, options in (("apart", []), ("paper", ["decay.include_new=true"])):
        outcome = lwexp_here("run", *pretrained, "grouping=per_parameter", *options, f"hydra.run.dir={folder}")
        assert outcome.code == 0, outcome.err
        assert ("not compared, at the planned rate" in outcome.out) == (folder == "apart")
    head = {"00_head.bias", "01_head.weight"}
    apart, paper = scales_of(tmp_path / "apart")[0], scales_of(tmp_path / "paper")[0]
    assert {*paper} - {*apart} == head
    assert max(value for key, value in apart.items() if key != "step") == 1
    assert max(value for key, value in paper.items() if key != "step") == 1


def test_mistakes_are_one_line_before_anything_is_trained(lwexp_here: RunHere) -> None:
    for option, message in (
        ("decay.threshold=2", r"decay.threshold=2.0: must be from 0 to 1"),
        ("decay.noise=rwos", r"decay.noise=rwos: not among the choices; did you mean rows?"),
        ("decay.bathces=3", r"decay.bathces=3: unknown option; did you mean batches?"),
        ("decay.batches=2", r"decay.batches=2: must be at least 3: the noise is that between batches"),
        ("decay.every_steps=5", r"decay.every_steps=5: is given beside every_epochs=1"),
        ("mult=0.9", r"mult=0.9: "),
    ):
        outcome = lwexp_here("run", *NETWORKS["lstm"], *SHORT, "decay=auto_snr", option)
        if option.startswith("mult"):
            assert "mult=0.9" in outcome.out + outcome.err
            continue
        assert outcome.code == 2, option
        assert message in outcome.err
        assert outcome.err.count("\n") == 1
