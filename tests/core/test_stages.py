"""Other borders of depth groups: several blocks in one, the last norm with the head, downsampling with a stage."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from lwexp import ConfigError, make_plan
from lwexp.models.lstm import LSTMClassifier


def groups(model: nn.Module, **options: Any) -> dict[str, tuple[str, ...]]:
    plan = make_plan(model, grouping="depth_index", grouping_options=options)
    assert sorted(name for g in plan for name in g.parameter_names) == sorted(
        name for name, _ in model.named_parameters()
    )
    return {g.name: g.parameter_names for g in plan}


def blocks_in(names: tuple[str, ...]) -> set[str]:
    return {name.partition(".conv")[0] for name in names if "conv1.weight" in name}


def test_blocks_are_joined_within_their_stage() -> None:
    model = timm.create_model("resnet34", num_classes=3)  # 3, 4, 6, 3 blocks
    found = [blocks_in(names) for names in groups(model, blocks=2).values()]
    wanted = [
        set(), {"layer4.2"}, {"layer4.0", "layer4.1"}, {"layer3.4", "layer3.5"}, {"layer3.2", "layer3.3"},
        {"layer3.0", "layer3.1"}, {"layer2.2", "layer2.3"}, {"layer2.0", "layer2.1"}, {"layer1.2"},
        {"layer1.0", "layer1.1"}, {"conv1.weight"},
    ]  # fmt: skip
    assert found == wanted


@pytest.mark.parametrize("blocks", [1, 100])
def test_the_head_and_the_stem_stay_apart(blocks: int) -> None:
    for model in (
        timm.create_model("resnet18"),
        torchvision.models.mobilenet_v2(),
        LSTMClassifier(num_classes=3, in_chans=1, img_size=8, num_layers=3),
    ):
        before, after = [*groups(model).values()], [*groups(model, blocks=blocks).values()]
        assert (after[0], after[-1]) == (before[0], before[-1])
        assert len(after) <= len(before)


def test_a_network_that_ends_with_a_block_has_no_head_to_keep_apart() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    assert [*groups(model, blocks=6, last_norm="head")][-1] == "stem"


@pytest.mark.parametrize(
    ("name", "norm"),
    [("timm/vit_tiny_patch16_224", "norm."), ("torchvision/vit_b_16", "encoder.ln."), ("torchvision/swin_t", "norm.")],
)
def test_the_last_norm_joins_the_head(name: str, norm: str) -> None:
    library, _, model_name = name.partition("/")
    with torch.device("meta"):
        model = timm.create_model(model_name) if library == "timm" else torchvision.models.get_model(model_name)
    before, after = [*groups(model).values()], [*groups(model, last_norm="head").values()]
    assert {each for each in before[1] if each.startswith(norm)} == {f"{norm}weight", f"{norm}bias"}
    assert {*after[0]} == {*before[0], f"{norm}weight", f"{norm}bias"}
    assert before[2:] == after[2:]


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "densenet121"])
def test_without_a_norm_of_its_own_nothing_joins_the_head(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert groups(model, last_norm="head") == groups(model)


@pytest.mark.parametrize(("name", "down"), [("swin_t", "features.2."), ("convnext_tiny", "features.2.")])
def test_downsampling_joins_the_block_before(name: str, down: str) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    before, after = groups(model), groups(model, between_stages="previous")
    assert [each for each in before["features.3.0"] if each.startswith(down)]
    last = max(group for group in before if group.startswith("features.1."))
    moved = {each for each in before["features.3.0"] if each.startswith(down)}
    assert {*after[last]} == {*before[last]} | moved
    assert {*after["features.3.0"]} == {*before["features.3.0"]} - moved


@pytest.mark.parametrize(
    ("options", "line"),
    [({"blocks": 0}, "grouping.blocks=0: must be at least 1"),
     ({"last_norm": "stem"}, "grouping.last_norm=stem: not among the choices"),
     ({"between_stages": "nex"}, "grouping.between_stages=nex: not among the choices; did you mean next")],
)  # fmt: skip
def test_mistakes_are_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        groups(nn.Linear(2, 2), **options)
