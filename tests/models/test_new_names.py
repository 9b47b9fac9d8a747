"""Which parameters the chosen weights do not have, from every source; the plan is made before they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file
from torch import nn

from lwexp.cli.app import register
from lwexp.config.compose import settings
from lwexp.config.defaults import CONF
from lwexp.config.schema import ModelConfig
from lwexp.experiment.instantiate import Experiment, make_experiment
from lwexp.models.build import build_model
from lwexp.training.checkpoint.weights import save_weights

DEVICES = ["cpu", "meta"]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def new_names(config: ModelConfig, device: str, channels: int = 3, classes: int = 4, size: int = 32) -> set[str]:
    how: Any = {"channels": channels, "classes": classes, "image_size": size, "pretrained": True}
    return {*build_model(config, device=device, **how).new_names}


def experiment(*overrides: str, base: Path, device: str) -> Experiment:
    register("runs")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*overrides, "tracking=none", "data.image_size=32"], return_hydra_config=True)
    return make_experiment(settings(config), base, device=device)


# --- timm and torchvision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "classes", "options", "expected"),
    [
        ("test_resnet", 4, {}, {"fc.weight", "fc.bias"}),
        ("test_resnet", 1000, {}, set()),
        ("test_vit", 4, {}, {"head.weight", "head.bias"}),
        ("test_vit", 4, {"global_pool": "avg"}, {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}),
        ("deit_tiny_distilled_patch16_224", 4, {}, {f"head{h}.{w}" for h in ("", "_dist") for w in ("weight", "bias")}),
    ],
    ids=["head", "same classes", "vit", "a layer by an option", "two heads"],
)  # fmt: skip
def test_timm_says_what_its_file_does_not_have(
    device: str, name: str, classes: int, options: dict[str, Any], expected: set[str], tmp_path: Path
) -> None:
    published = timm.create_model(name)
    save_weights(published.state_dict(), tmp_path / "w.safetensors")
    overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "w.safetensors"), "custom_load": False}}
    config = ModelConfig(source="timm", name=name, **options, **overlay)
    assert new_names(config, device, classes=classes, size=224 if "deit" in name else 160) == expected
    if device == "cpu":  # and it is so: what is not new is the published tensor
        made = build_model(config, channels=3, classes=classes, image_size=None, pretrained=True).module
        theirs = published.state_dict()
        weights = {n: p for n, p in made.named_parameters() if p.ndim > 1}  # a bias may be 0 in both
        same = {n for n, p in weights.items() if n in theirs and torch.equal(p, theirs[n])}
        assert weights.keys() - same == {n for n in expected if n in weights}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_an_input_layer_that_timm_converts_is_not_new(device: str, channels: int, tmp_path: Path) -> None:
    save_weights(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "w.safetensors")}}
    config = ModelConfig(source="timm", name="test_resnet", **overlay)
    assert new_names(config, device, channels=channels) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("device", DEVICES)
def test_an_input_layer_that_timm_cannot_convert_is_new(device: str, tmp_path: Path) -> None:
    name = "tresnet_m"  # its first convolution reads blocks of 4 × 4 pixels as channels
    save_weights(timm.create_model(name).state_dict(), tmp_path / "w.safetensors")
    overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "w.safetensors")}}
    names = new_names(ModelConfig(source="timm", name=name, **overlay), device, channels=5, size=64)
    assert names == {"head.fc.weight", "head.fc.bias", "body.conv1.conv.weight"}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "head"), [("resnet18", "fc"), ("squeezenet1_1", "classifier.1")])
def test_torchvisions_head_is_new(device: str, name: str, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = pytest.importorskip("torchvision")
    state = torchvision.models.get_model(name, num_classes=1000).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
    assert new_names(ModelConfig(source="torchvision", name=name), device) == {f"{head}.weight", f"{head}.bias"}


# --- transformers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("network", "labels", "expected"),
    [
        ("ViTForImageClassification", 7, {"classifier.weight", "classifier.bias"}),
        ("ViTForImageClassification", 4, set()),
        ("ViTModel", 4, {"classifier.weight", "classifier.bias"}),
        ("ViTForMaskedImageModeling", 4, {"classifier.weight", "classifier.bias"}),
    ],
    ids=["other classes", "same classes", "without a head", "another head"],
)
def test_transformers_says_what_its_file_does_not_have(
    device: str, network: str, labels: int, expected: set[str], tmp_path: Path
) -> None:
    config = transformers.ViTConfig(**TINY, image_size=32, patch_size=8, num_labels=labels)
    getattr(transformers, network)(config).save_pretrained(tmp_path)
    named = ModelConfig(source="huggingface", name=str(tmp_path), config_class=None, config={}, auto_class=None)
    assert new_names(named, device) == expected


def test_what_the_file_lacks_counts_not_what_its_config_names(tmp_path: Path) -> None:
    made: Any = transformers.ViTModel(transformers.ViTConfig(**TINY, image_size=32, patch_size=8))
    made.save_pretrained(tmp_path)
    state = {name: tensor for name, tensor in made.state_dict().items() if not name.startswith("layernorm.")}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    named = ModelConfig(source="huggingface", name=str(tmp_path), config_class=None, config={}, auto_class=None)
    head = {"classifier.weight", "classifier.bias"}
    assert new_names(named, "meta") == head
    assert new_names(named, "cpu") == {*head, "vit.layernorm.weight", "vit.layernorm.bias"}


# --- a file, a source task, none -----------------------------------------------------------------------------------

HEAD = {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("device", DEVICES)
def test_from_a_file_what_it_does_not_have_is_new(device: str, tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=7, in_chans=1).state_dict()
    lacking = {name for name in state if name.startswith("layer4.")}
    parameters = {name for name in lacking if name.endswith(("weight", "bias"))}  # running averages are none
    assert parameters < lacking
    save_weights(state, tmp_path / "whole.safetensors")
    save_weights({name: t for name, t in state.items() if name not in lacking}, tmp_path / "part.safetensors")
    for file, expected in (("whole", HEAD), ("part", HEAD | parameters)):
        weights = ["weights=checkpoint", f"weights.path={file}.safetensors"]
        made = experiment("model=test_resnet", *weights, base=tmp_path, device=device)
        assert made.built.new_names == expected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weights", ["source_task", "letters"])
@pytest.mark.parametrize(("model", "head"), [("test_resnet", HEAD), ("lstm", {"head.weight", "head.bias"})])
def test_the_head_is_new_after_a_source_task(
    weights: str, device: str, model: str, head: set[str], tmp_path: Path
) -> None:
    made = experiment(f"model={model}", f"weights={weights}", base=tmp_path, device=device)
    assert made.built.new_names == head


@pytest.mark.parametrize("device", DEVICES)
def test_without_weights_nothing_stands_apart(device: str, tmp_path: Path) -> None:
    assert experiment("model=test_resnet", base=tmp_path, device=device).built.new_names == set()


class TiedNet(nn.Module):
    """A head whose weight is also the embedding of rows."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.rows = nn.Conv2d(1, 4, 3)
        self.body = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
        self.head = nn.Linear(4, num_classes)
        self.again = self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.again(self.body(self.rows(x).mean(dim=(2, 3))))
        return logits


def test_a_tied_parameter_is_new_by_its_first_name(tmp_path: Path) -> None:
    save_weights(TiedNet(7).state_dict(), tmp_path / "w.safetensors")
    target = f"model._target_={TiedNet.__module__}.TiedNet"
    weights = ["weights=checkpoint", "weights.path=w.safetensors"]
    made = experiment("model=custom", target, *weights, base=tmp_path, device="cpu")
    assert made.built.new_names == {"head.weight", "head.bias"}
