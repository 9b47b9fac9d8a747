"""timm's own description of depth, and what it misses."""

from __future__ import annotations

import pytest
import torch

from lwexp.core.depth import find_depths
from lwexp.errors import ConfigError
from tests.helpers.depth_networks import Described, HeadFirst, modules, timm_depths, timm_model

TIMM_MODELS = [
    "resnet18",
    "vit_tiny_patch16_224",
    "convnext_atto",
    "efficientnet_b0",
    "swin_tiny_patch4_window7_224",
    "levit_128s",
    "coat_lite_tiny",
    "volo_d1_224",
    "inception_v3",
]


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_auto_is_the_partition_of_the_models_own_description(name: str) -> None:
    model = timm_model(name)
    depths = find_depths(model)
    assert depths.source == "timm"
    assert depths.by_name == timm_depths(model)


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "efficientnet_b0", "crossvit_tiny_240", "xcit_nano_12_p16_224"]
)
def test_execution_finds_the_same_without_the_description(name: str) -> None:
    model = timm_model(name)
    assert find_depths(model, "execution").by_name == timm_depths(model)


def test_resnet18_has_ten_depths() -> None:
    parts = modules(find_depths(timm_model("resnet18", num_classes=2)))
    assert len(parts) == 10
    assert parts[0] == {"conv1", "bn1"}
    assert parts[9] == {"fc"}


def test_a_missed_parameter_after_the_last_block_joins_the_head_and_is_noted() -> None:
    depths = find_depths(timm_model("convnext_atto"), "timm")
    assert depths.by_name["head.norm.weight"] == depths.by_name["head.fc.weight"] == 13
    assert depths.notes == (
        "the model's own description misses head.norm.{weight,bias}: "
        "first used after the last described block, so with the head (depth 13)",
    )


def test_a_missed_parameter_that_is_used_early_goes_where_it_is_used() -> None:
    from timm.models.eva import Eva

    with torch.device("meta"):
        model = Eva(
            img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=3, rope_type="mixed",
            use_rot_pos_emb=True,
        )  # fmt: skip
    missed = [name for name in dict(model.named_parameters()) if name.startswith("rope")]
    assert missed
    depths = find_depths(model, "timm", torch.zeros(1, 3, 32, 32))
    assert {depths.by_name[name] for name in missed} == {0}
    assert max(depths.by_name.values()) == 3
    assert any(
        "misses rope.freqs: first used before the first described block (depth 0)" in note for note in depths.notes
    )


@pytest.mark.parametrize(
    "matcher",
    [
        {"blocks": r"^blocks\.(\d+)"},
        {"stem": None, "blocks": [(r"^blocks\.(\d+)", None)]},
        lambda name: int(name.split(".")[1]) if name.startswith("blocks") else float("inf"),
        lambda name: (0, int(name.split(".")[1])) if name.startswith("blocks") else None,
    ],
)
def test_what_a_matcher_of_any_form_misses_is_placed_by_use(matcher: object) -> None:
    depths = find_depths(Described(matcher))
    assert depths.source == "timm"
    by_module = {name.rpartition(".")[0]: depth for name, depth in depths.by_name.items()}
    assert [by_module[f"blocks.{i}.up"] for i in range(3)] == [0, 1, 2]
    assert (by_module["between"], by_module["norm"], by_module["head"], by_module["never"]) == (2, 3, 3, 3)
    assert [note for note in depths.notes if "between.{weight,bias}" in note and "(depth 2)" in note]
    assert [note for note in depths.notes if "never.{weight,bias} (never used in the forward pass)" in note]
    assert not [note for note in depths.notes if "head.weight" in note]


def test_a_tied_tensor_has_the_smallest_depth_of_its_names() -> None:
    model = Described({"blocks": r"^blocks\.(\d+)"})
    model.blocks[0].up = model.blocks[2].up  # registered under the first block, and under the last
    assert find_depths(model).by_name["blocks.0.up.weight"] == 0
    assert "blocks.2.up.weight" not in find_depths(model).by_name


def test_a_model_without_a_description_cannot_be_asked_for_it() -> None:
    with pytest.raises(ConfigError, match=r"grouping\.source=timm: the model has no group_matcher"):
        find_depths(HeadFirst(), "timm")


def test_a_description_that_fails_or_fits_nothing_is_replaced_and_said() -> None:
    def broken(name: str) -> int:
        raise KeyError(name)

    for matcher in (broken, {"blocks": r"^layers\.(\d+)"}):
        depths = find_depths(Described(matcher))
        assert depths.source == "execution"
        assert any("group_matcher" in note for note in depths.notes)
