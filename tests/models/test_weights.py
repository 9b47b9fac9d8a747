"""Checkpoints from elsewhere: they fit, or are explained in one line."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lwexp.errors import ConfigError
from lwexp.models.weights import load_checkpoint
from lwexp.training.checkpoint.weights import save_weights
from tests.helpers.networks import Tied, conv_network, same_weights


class HeadFirst(nn.Module):
    """Its classifier is registered before what it is fed by."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.head = nn.Linear(6, classes)
        self.body = nn.Conv2d(1, 6, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images).mean((2, 3)))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin", ".ckpt"])
def test_a_checkpoint_of_the_same_model_loads_whole(tmp_path: Path, suffix: str) -> None:
    model, other = conv_network(), conv_network(seed=1)
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    report = load_checkpoint(other, path, strict=True)
    assert same_weights(model, other)
    assert set(report.loaded) == set(model.state_dict())
    assert not report.missing + report.unexpected + report.dropped
    assert str(report) == f"11 tensors loaded from w{suffix}"


@pytest.mark.parametrize("nest", ["state_dict", "model", "model_state_dict", "state_dict_ema"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "model.backbone."]
)
def test_nests_and_common_prefixes_are_taken_off(tmp_path: Path, nest: str, prefix: str) -> None:
    model, other = conv_network(), conv_network(seed=1)
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, nest: state, "optimizer": {"state": {}, "lr": 0.1}}, tmp_path / "w.pt")
    load_checkpoint(other, tmp_path / "w.pt", strict=True)
    assert same_weights(model, other)


def test_a_prefix_that_is_the_models_own_stays(tmp_path: Path) -> None:
    model = nn.Sequential(OrderedDict(model=conv_network()))
    other = nn.Sequential(OrderedDict(model=conv_network(seed=1)))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    load_checkpoint(other, tmp_path / "w.pt", strict=True)
    assert same_weights(model, other)


def test_the_head_is_dropped_when_the_classes_differ(tmp_path: Path) -> None:
    file, model, before = conv_network(classes=10), conv_network(seed=1), conv_network(seed=1)
    torch.save(file.state_dict(), tmp_path / "w.pt")
    report = load_checkpoint(model, tmp_path / "w.pt", strict=True)
    assert report.dropped == ("head.weight", "head.bias")
    assert report.missing == report.unexpected == ()
    assert "2 head tensors not loaded, randomly initialized: head.weight, head.bias" in str(report)
    assert same_weights(model, file, but="head")
    assert torch.equal(model.head.weight, before.head.weight)


def test_a_head_registered_first_is_dropped_too(tmp_path: Path) -> None:
    torch.save(HeadFirst(classes=10).state_dict(), tmp_path / "w.pt")
    assert load_checkpoint(HeadFirst(), tmp_path / "w.pt").dropped == ("head.weight", "head.bias")


@pytest.mark.parametrize("build", [conv_network, HeadFirst])
def test_drop_head_drops_it_though_the_classes_are_as_many(tmp_path: Path, build: type[nn.Module]) -> None:
    torch.save(build(2).state_dict(), tmp_path / "w.pt")
    model = build(2)
    before = model.head.weight.clone()
    with torch.no_grad():
        model.body.weight.zero_()
    report = load_checkpoint(model, tmp_path / "w.pt", drop_head=True)
    assert report.dropped == ("head.weight", "head.bias")
    assert torch.equal(model.head.weight, before)
    assert model.body.weight.any()


def test_timm_models_tell_their_head(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_vit", num_classes=2)
    save_weights(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "three.safetensors")
    save_weights(timm.create_model("test_vit", num_classes=2).state_dict(), tmp_path / "two.safetensors")
    assert load_checkpoint(model, tmp_path / "three.safetensors").dropped == ("head.weight", "head.bias")
    assert load_checkpoint(model, tmp_path / "two.safetensors").dropped == ()
    assert load_checkpoint(model, tmp_path / "two.safetensors", drop_head=True).dropped == ("head.weight", "head.bias")


def test_every_missing_and_unexpected_key_is_listed_and_strict_refuses_them(tmp_path: Path) -> None:
    state = conv_network().state_dict()
    del state["norm.running_mean"], state["head.bias"]
    state.update({f"extra.{i}": torch.zeros(1) for i in range(30)})
    torch.save(state, tmp_path / "w.pt")
    report = load_checkpoint(conv_network(seed=1), tmp_path / "w.pt")
    assert report.missing == ("norm.running_mean", "head.bias")
    assert report.unexpected == tuple(f"extra.{i}" for i in range(30))
    assert all(name in str(report) for name in report.missing + report.unexpected)
    model = conv_network(seed=1)
    with pytest.raises(ConfigError, match=r"missing: norm.running_mean, head.bias; unexpected: extra.0, extra.1, "):
        load_checkpoint(model, tmp_path / "w.pt", strict=True)
    assert same_weights(model, conv_network(seed=1))  # untouched


def test_one_name_of_a_tied_tensor_is_enough(tmp_path: Path) -> None:
    state = Tied(0).state_dict()
    del state["head.weight"]
    torch.save(state, tmp_path / "w.pt")
    model = Tied(1)
    load_checkpoint(model, tmp_path / "w.pt", strict=True)
    assert same_weights(model, Tied(0))


def test_a_checkpoint_of_another_model_is_refused_with_counts_and_examples(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(3, 3), "head.bias": torch.zeros(2)}, tmp_path / "w.pt")
    expected = r"another model: 1 of the model's 8 parameters found; .*has stem\.weight .*encoder\.weight \[3, 3\]"
    with pytest.raises(ConfigError, match=expected):
        load_checkpoint(conv_network(), tmp_path / "w.pt")


def test_any_other_difference_in_shape_is_an_error_that_names_the_tensor(tmp_path: Path) -> None:
    file = conv_network()
    file.norm = nn.BatchNorm2d(5)
    torch.save(file.state_dict(), tmp_path / "w.pt")
    model = conv_network(seed=1)
    with pytest.raises(ConfigError, match=r"norm\.weight is \[5\] in the file, \[4\] in the model \(4 tensors differ"):
        load_checkpoint(model, tmp_path / "w.pt")
    assert same_weights(model, conv_network(seed=1))


def test_another_width_is_not_taken_for_another_head(tmp_path: Path) -> None:
    file = conv_network()
    file.body, file.head = nn.Conv2d(4, 7, 3), nn.Linear(7, 2)
    torch.save(file.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"head\.weight is \[2, 7\] in the file, \[2, 6\] in the model"):
        load_checkpoint(conv_network(), tmp_path / "w.pt")


def test_other_input_channels_are_named(tmp_path: Path) -> None:
    torch.save(conv_network(channels=3).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"stem\.weight takes 3 channels in the file, the model's takes 1"):
        load_checkpoint(conv_network(), tmp_path / "w.pt")


def test_a_model_on_meta_is_compared_but_not_filled(tmp_path: Path) -> None:
    torch.save(conv_network().state_dict(), tmp_path / "w.pt")
    with torch.device("meta"):
        model = conv_network()
    assert len(load_checkpoint(model, tmp_path / "w.pt").loaded) == 11
    assert all(parameter.is_meta for parameter in model.parameters())


# --- files that are not checkpoints --------------------------------------------------------------------------------


class Opens:
    """Unpickling it opens, and so makes, a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["torch.save", "pickle"])
def test_a_pickle_that_would_execute_code_is_refused_and_does_not(tmp_path: Path, how: str) -> None:
    content = {"state_dict": conv_network().state_dict(), "trap": Opens(tmp_path / "executed")}
    path = tmp_path / "w.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(ConfigError, match=r"would execute code; torch\.save\(model\.state_dict\(\)") as caught:
        load_checkpoint(conv_network(), path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(conv_network(), tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="would execute code"):
        load_checkpoint(conv_network(), tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("cut", ["junk", "half"])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, suffix: str, cut: str) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(conv_network().state_dict(), path) if suffix == ".pt" else save_file(conv_network().state_dict(), path)
    path.write_bytes(b"\x93junk" * 40 if cut == "junk" else path.read_bytes()[:-200])
    with pytest.raises(ConfigError, match=rf"weights\.path=.*w{suffix}: cannot be read, .*damaged") as caught:
        load_checkpoint(conv_network(), path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {}}, torch.zeros(3), {"model": "resnet18"}])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="holds no named tensors"):
        load_checkpoint(conv_network(), tmp_path / "w.pt")


def test_missing_folder_empty_and_unknown_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    (tmp_path / "w.onnx").write_bytes(b"x")
    for name, why in {
        "none.pt": "there is no such file",
        "": "is a folder",
        "empty.pt": "the file is empty",
        "w.onnx": r"must end in \.safetensors, \.pt",
    }.items():
        with pytest.raises(ConfigError, match=why) as caught:
            load_checkpoint(conv_network(), tmp_path / name, key="weights.file")
        assert caught.value.key == "weights.file"
