"""Low-rank adapters in any network: which layers, what trains, resumed exactly, used without peft's layers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lwexp
from lwexp import ConfigError, make_plan
from lwexp.models.adapters import Adapters, add_adapters, find_targets, merge_adapters
from lwexp.models.lstm import LSTMClassifier
from lwexp.tracking import JournalTracker
from tests.core.test_kinds import text_model, timm_model, torchvision_model
from tests.experiment.resumed_runs import rows, same
from tests.helpers.commands import RunHere
from tests.helpers.networks import TinyNet
from tests.run.runs import weights

CNN = ["model=resnet18", "data.image_size=32", "batch_size=256", "epochs=1", "max_steps=3", "progress=false",
       "tracking=none", "lora.rank=2"]  # fmt: skip


@pytest.mark.parametrize(
    ("build", "lasts", "count"),
    [
        (lambda: text_model("Bert", num_hidden_layers=2), {"query", "value"}, 4),
        (lambda: text_model("Llama", num_hidden_layers=2), {"q_proj", "v_proj"}, 4),
        (lambda: text_model("GPT2", n_layer=2), {"c_attn"}, 2),
        (lambda: timm_model("vit_tiny_patch16_224"), {"qkv"}, 12),
        (lambda: torchvision_model("vit_b_16"), {"self_attention"}, 12),
        (TinyNet, {"stem", "conv"}, 5),
    ],
)
def test_targets_are_queries_and_values_else_all_layers_but_the_head(
    build: Callable[[], nn.Module], lasts: set[str], count: int
) -> None:
    found = find_targets(build(), [])
    assert {path.rpartition(".")[2] for path in found} == lasts
    assert len(found) == count


def test_targets_by_pattern_and_kind() -> None:
    model = timm_model("vit_tiny_patch16_224")
    found = find_targets(model, ["kind/ffn", "blocks.0.attn"])
    assert len(found) == 26
    with pytest.raises(ConfigError, match=r"lora.target=blocks.99: the pattern matches no parameter"):
        find_targets(model, ["blocks.99"])


def test_network_without_layers_for_adapters_is_one_line() -> None:
    with pytest.raises(ConfigError, match="lora=LSTMClassifier: has no linear layer, convolution or attention"):
        find_targets(LSTMClassifier(in_chans=1, img_size=8, num_classes=3), [])


def test_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"lora.rank=2: needs the package peft: pip install 'lwexp\[lora\]'"):
        add_adapters(TinyNet(), Adapters(2, 2.0, 0.0, ("stem",)))


@pytest.mark.parametrize("network", ["tiny", "vit", "transformer"])
def test_adapters_change_nothing_at_first_and_merge_to_what_they_compute(network: str) -> None:
    pytest.importorskip("peft")
    torch.manual_seed(0)
    model = {"tiny": TinyNet, "vit": timm_model_on_cpu, "transformer": nn_transformer}[network]().eval()
    inputs = example(model)
    names, before = [name for name, _ in model.named_parameters()], model(inputs)
    add_adapters(model, Adapters(2, 6.0, 0.0, find_targets(model, [])))
    torch.testing.assert_close(model(inputs), before)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith(("head", "3")) for name in trained)
    assert any("lora_" not in name for name in trained)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    adapted = model(inputs)
    assert not torch.allclose(adapted, before)
    merge_adapters(model)
    assert sorted(name for name, _ in model.named_parameters()) == sorted(names)
    torch.testing.assert_close(model(inputs), adapted, rtol=1e-4, atol=1e-4)


def timm_model_on_cpu() -> nn.Module:
    import timm

    return timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, num_classes=3, depth=2)


def nn_transformer() -> nn.Module:
    layers = [nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(24, 3)]
    return nn.Sequential(*layers)


def example(model: nn.Module) -> Tensor:
    if isinstance(model, nn.Sequential):
        return torch.randn(2, 3, 4)
    return torch.randn(2, 1, 9, 9) if isinstance(model, TinyNet) else torch.randn(2, 3, 16, 16)


def test_plan_of_a_network_with_adapters_trains_them_by_depth() -> None:
    pytest.importorskip("peft")
    model = timm_model_on_cpu()
    add_adapters(model, Adapters(2, 2.0, 0.0, find_targets(model, [])))
    plan = make_plan(model, grouping="depth_index", mult=0.5, lr=1.0)
    rates = {name: g.lr for g in plan for name in g.optimizer_names}
    assert {name.split(".attn")[0]: rate for name, rate in rates.items() if "lora" in name} == {
        "blocks.1": 0.5, "blocks.0": 0.25,
    }  # fmt: skip
    assert rates["head.weight"] == 1


@pytest.mark.usefixtures("no_pictures")
def test_run_moves_adapters_and_head_alone_and_its_network_is_a_plain_one(lwexp_here: RunHere, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    outcome = lwexp_here("run", *CNN, "hydra.run.dir=here")
    assert outcome.code == 0, outcome.err
    assert "lora: adapters of rank 2, times 1, in 20 layers: conv1, layer1.0.conv1, layer1.0.conv2" in outcome.out
    loaded = lwexp.load(tmp_path / "here")
    import timm

    plain = timm.create_model("resnet18", num_classes=10, in_chans=1)
    assert loaded.model.state_dict().keys() == plain.state_dict().keys()
    assert "test accuracy" in outcome.out
    assert lwexp_here("evaluate", "here").code == 0


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    from lwexp.plots import process

    monkeypatch.setattr(process, "write_plots", lambda *_, **__: [])


@pytest.mark.usefixtures("no_pictures")
def test_run_with_adapters_resumes_bit_for_bit(
    lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    command = [*CNN, "lora.dropout=0.1", "checkpoint.every_steps=1"]
    assert lwexp_here("run", *command, "hydra.run.dir=whole").code == 0
    real = JournalTracker.log

    def log(self: JournalTracker, metrics: Any, step: int) -> None:
        real(self, metrics, step)
        if "train/loss" in metrics and step == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(JournalTracker, "log", log)
    assert lwexp_here("run", *command, "hydra.run.dir=killed").code == 130
    monkeypatch.setattr(JournalTracker, "log", real)
    outcome = lwexp_here("run", "resume=killed")
    assert outcome.code == 0, outcome.err
    same(tmp_path / "killed", tmp_path / "whole")
    assert any("lora_A" in name for name in weights(tmp_path / "whole"))
    assert rows(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["weights=source_task"], "lora.rank=2: is not for weights=source_task"),
        (["weights=letters"], "lora.rank=2: is not for weights=letters"),
        (["lora.target=[kind/head]"], "lora.target=fc: is in the head, or not loaded, and trains whole"),
        (["lora.target=[kind/qk]"], "lora.target=kind/qk: the model has none; its kinds: head, norm, conv"),
        (["lora.rank=0"], "lora.rank=0"),
    ],
)
def test_mistakes_are_one_line(options: list[str], words: str, lwexp_here: RunHere) -> None:
    pytest.importorskip("peft")
    outcome = lwexp_here("run", *CNN, *options)
    assert outcome.code == 2, outcome.out
    (line,) = outcome.err.splitlines()
    assert words in line
