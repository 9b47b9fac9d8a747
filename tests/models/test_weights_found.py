"""Weights in files as people have them: other prefixes, places, objects beside them, other image sizes."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import pathlib
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lwexp.errors import ConfigError
from lwexp.models.weights import LoadReport, load_checkpoint
from tests.helpers.commands import RunHere
from tests.helpers.networks import conv_network, same_weights


def state(model: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}


def loaded(
    content: object, folder: Path, model: nn.Module | None = None, **options: Any
) -> tuple[nn.Module, LoadReport]:
    torch.save(content, folder / "w.pt")
    model = model or conv_network(seed=1)
    return model, load_checkpoint(model, folder / "w.pt", **options)


# --- prefixes and places -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["model.", "net.", "encoder.", "module.backbone.", "a.b.c.", "visual.trunk."])
def test_a_prefix_need_not_be_common_to_all_names(tmp_path: Path, prefix: str) -> None:
    file = conv_network()
    others = {"criterion.weight": torch.ones(2), "aux.stem.weight": torch.ones(3), "logit_scale": torch.ones(())}
    model, report = loaded({"state_dict": {**state(file, prefix), **others}, "epoch": 3}, tmp_path)
    assert same_weights(model, file)
    assert report.unexpected == tuple(others)
    first, *rest = str(report).splitlines()
    assert first == f"11 tensors loaded from w.pt, under state_dict, without the prefix {prefix}"
    assert rest == ["3 of the file not in the model, ignored: criterion.weight, aux.stem.weight, logit_scale"]


def test_a_model_within_the_users_own_takes_the_weights_of_the_bare_one(tmp_path: Path) -> None:
    file = conv_network()
    wrapped = nn.Sequential(OrderedDict(backbone=conv_network(seed=1), extra=nn.Linear(2, 2)))
    for prefix, said in (("", ", as backbone.*"), ("module.", ", without the prefix module., as backbone.*")):
        model, report = loaded(state(file, prefix), tmp_path, wrapped)
        assert same_weights(model.backbone, file)
        assert str(report).startswith(f"11 tensors loaded from w.pt{said}")


def test_a_file_with_the_weights_twice_asks_which(tmp_path: Path) -> None:
    student, teacher = conv_network(seed=2), conv_network(seed=3)
    content = {**state(student, "student."), **state(teacher, "teacher.backbone.")}
    with pytest.raises(
        ConfigError, match=r"more than once, under student and teacher\.backbone; weights\.prefix=… picks"
    ):
        loaded(content, tmp_path)
    for prefix in ("teacher", "teacher.", "teacher.backbone"):
        model, report = loaded(content, tmp_path, prefix=prefix)
        assert same_weights(model, teacher)
        assert report.renaming.old == "teacher.backbone."
    with pytest.raises(
        ConfigError, match=r"weights\.prefix=techer: no name in w\.pt begins with it; did you mean teacher"
    ):
        loaded(content, tmp_path, prefix="techer")


def test_the_place_that_fits_best_is_found_or_given(tmp_path: Path) -> None:
    weights, ema, other = conv_network(seed=2), conv_network(seed=3), nn.Linear(2, 3)
    optimizer = {"state": {0: {"exp_avg": torch.ones(4)}}}
    content = {"optimizer": optimizer, "critic": state(other), "nets": {"actor": state(weights)}, "a.b": state(ema)}
    content["bias"] = torch.ones(1)
    model, report = loaded({**content, "nets": {"actor": state(weights)}, "a.b": {}}, tmp_path)
    assert same_weights(model, weights)
    assert report.place == "nets.actor"
    for place, expected in (("nets.actor", weights), ("a.b", ema)):
        model, report = loaded(content, tmp_path, place=place)
        assert same_weights(model, expected)
    for place, why in {
        "nets.acto": r"w\.pt has no such place; did you mean nets\.actor",
        "nets": r"holds no named tensors in w\.pt; nets\.actor does",
        "": r"holds no named tensors|another model",
    }.items():
        with pytest.raises(ConfigError, match=why):
            loaded(content, tmp_path, place=place)


def test_the_raw_weights_come_before_their_average(tmp_path: Path) -> None:
    raw, average = conv_network(seed=2), conv_network(seed=3)
    model, report = loaded({"state_dict_ema": state(average), "state_dict": state(raw, "module.")}, tmp_path)
    assert same_weights(model, raw)
    assert report.place == "state_dict"
    model, report = loaded(
        {"state_dict_ema": state(average), "state_dict": state(raw)}, tmp_path, place="state_dict_ema"
    )
    assert same_weights(model, average)


def test_the_command_takes_both_and_says_what_it_found(lwexp_here: RunHere, tmp_path: Path) -> None:
    from lwexp.models.lstm import LSTMClassifier

    options = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "weights=checkpoint", "weights.path=w.ckpt"]
    networks = [LSTMClassifier(in_chans=1, img_size=8, num_classes=10, hidden_size=8) for _ in range(2)]
    both = {**state(networks[0], "net."), **state(networks[1], "shadow.net."), "criterion.weight": torch.ones(10)}
    torch.save({"ema": {"model": both}, "hparams": argparse.Namespace(lr=0.1)}, tmp_path / "w.ckpt")
    outcome = lwexp_here("run", *options, "max_steps=1", "lr=1e-30", "tracking=none", "progress=false",
                         "weights.key=ema.model", "weights.prefix=shadow", "hydra.run.dir=here")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "loaded from w.ckpt, under ema.model, without the prefix shadow.net.\n" in outcome.out
    end = load_file(tmp_path / "here" / "model.safetensors")
    assert all(torch.equal(end[name], tensor) for name, tensor in networks[1].state_dict().items())
    config = tmp_path / "here" / "config.yaml"  # as an earlier version wrote it
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not line.startswith(("  key:", "  prefix:"))))
    assert lwexp_here("run", "resume=here").code == 0
    outcome = lwexp_here("run", *options, "tracking=none", "weights.key=ema.modle")
    assert (outcome.code, outcome.err) == (
        2, "error: weights.key=ema.modle: w.ckpt has no such place; did you mean ema.model?\n")  # fmt: skip


# --- objects beside the weights ------------------------------------------------------------------------------------


class Phase(enum.Enum):
    ONE = 1


class Options:
    """A class of the project that made the file; not importable where it is read."""

    def __init__(self) -> None:
        self.values = {"lr": 0.1}
        executed.append(1)

    def __setstate__(self, values: dict[str, Any]) -> None:
        executed.append(1)


executed: list[int] = []


def beside() -> dict[str, Any]:
    return {
        "args": argparse.Namespace(lr=0.1, path=pathlib.Path("x"), inner=argparse.Namespace(a=[1, {2}])),
        "loss": np.float64(0.5), "step": np.int64(3), "curve": np.arange(3), "history": collections.deque([1]),
        "counts": collections.defaultdict(list, a=[1]), "when": datetime.datetime(2024, 5, 1),
        "options": Options(), "phase": Phase.ONE, "complex": 1j, "range": range(3),
        "scheduler": torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1)], 0.1), 1),
    }  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_beside_the_weights_need_no_code(tmp_path: Path, zipped: bool) -> None:
    file, model = conv_network(), conv_network(seed=1)
    torch.save({**beside(), "state_dict": state(file)}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    executed.clear()
    load_checkpoint(model, tmp_path / "w.pt", strict=True)
    assert same_weights(model, file)
    assert not executed, "nothing of the file's classes ran"


def test_omegaconf_beside_the_weights_as_lightning_saves_it(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    file = conv_network()
    hyper = OmegaConf.create({"lr": 0.1, "layers": [1, 2], "name": "${lr}"})
    model, _ = loaded({"hyper_parameters": hyper, "state_dict": state(file, "model.")}, tmp_path)
    assert same_weights(model, file)


class Runs:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize("function", [eval, exec, __import__, getattr], ids=lambda function: function.__name__)
def test_functions_beside_the_weights_are_refused_by_name(tmp_path: Path, function: Callable[..., Any]) -> None:
    content = {"state_dict": state(conv_network()), "trap": Runs(function, "1", "x")}
    with pytest.raises(
        ConfigError, match=rf"\((builtins|__builtin__)\.{function.__name__}\), so .* would execute code"
    ):
        loaded(content, tmp_path)


def test_a_model_that_was_pickled_whole_is_refused_also_below_a_key(tmp_path: Path) -> None:
    for content in (conv_network(), {"model": conv_network(), "epoch": 3}):
        with pytest.raises(ConfigError, match="would execute code"):
            loaded(content, tmp_path)


# --- position embeddings of another size ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"])
def test_position_embeddings_are_resized_as_timm_does(tmp_path: Path, name: str) -> None:
    import timm

    small = {"depth": 1, "embed_dim": 24, "num_heads": 3}
    torch.manual_seed(0)
    file = timm.create_model(name, num_classes=2, **small)
    for parameter in file.parameters():
        nn.init.normal_(parameter)
    save_file(state(file), tmp_path / "w.safetensors")
    model = timm.create_model(name, num_classes=2, img_size=64, **small)
    report = load_checkpoint(model, tmp_path / "w.safetensors", strict=True)
    expected = timm.create_model(name, num_classes=2, img_size=64, **small)
    convert = sys.modules[type(expected).__module__].checkpoint_filter_fn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm.models.load_checkpoint(expected, str(tmp_path / "w.safetensors"), filter_fn=convert)
    assert same_weights(model, expected)
    assert "\n1 resized: " in str(report)


def test_those_of_torchvision_and_of_own_models_too(tmp_path: Path) -> None:
    from timm.layers import resample_abs_pos_embed
    from torchvision.models import VisionTransformer

    def network(size: int) -> nn.Module:
        return VisionTransformer(size, 16, 1, 2, 8, 16, num_classes=2)

    file = network(64)
    nn.init.normal_(file.encoder.pos_embedding)
    model, report = loaded(state(file, "module."), tmp_path, network(32))
    assert report.resized == ("encoder.pos_embedding [1, 17, 8] -> [1, 5, 8]",)
    assert torch.equal(model.encoder.pos_embedding, resample_abs_pos_embed(file.encoder.pos_embedding, [2, 2]))


def test_other_tensors_of_another_size_are_refused_as_before(tmp_path: Path) -> None:
    import timm

    file = timm.create_model("vit_tiny_patch16_224", num_classes=2, depth=1, embed_dim=24, num_heads=3)
    with pytest.raises(ConfigError, match=r"another model|in the file, .* in the model"):
        loaded(state(file), tmp_path, timm.create_model("vit_tiny_patch16_224", num_classes=2, depth=1, img_size=64))
