"""`no_weight_decay`: which parameters are not decayed, under which names, as timm does it."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from lwexp import ConfigError, make_plan
from tests.helpers.networks import TinyNet

MODELS = [
    ("vit_tiny_patch16_224", {}), ("swin_tiny_patch4_window7_224", {}), ("resnet18", {}),
    ("beit_base_patch16_224", {"depth": 2}), ("cait_xxs24_224", {"depth": 2}),
]  # fmt: skip


def undecayed(model: nn.Module, plan: Any) -> set[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    groups = plan.optimizer("adamw", weight_decay=0.1).param_groups
    return {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}


@pytest.mark.parametrize(("name", "options"), MODELS, ids=[name for name, _ in MODELS])
def test_the_parameters_without_weight_decay_are_timms(name: str, options: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=3, **options)
    listed: Any = getattr(model, "no_weight_decay", set)()
    groups = param_groups_weight_decay(model, 0.1, no_weight_decay_list=listed)
    names = {id(p): n for n, p in model.named_parameters()}
    expected = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    for grouping in ("top_module", "per_parameter"):
        assert undecayed(model, make_plan(model, grouping=grouping, no_weight_decay=True)) == expected
    assert not undecayed(model, make_plan(model))


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = model, nn.Linear(4, 2)


def test_a_model_inside_a_wrapper_is_asked_too() -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=3)
    plan = make_plan(wrapped := Wrapped(model), no_weight_decay=True)
    assert {"backbone.pos_embed", "backbone.cls_token", "head.bias"} <= undecayed(wrapped, plan)
    assert "head.weight" not in undecayed(wrapped, plan)
    assert any(
        note == "the model's own no_weight_decay() keeps the weight decay off backbone.cls_token, backbone.pos_embed"
        for note in plan.notes
    )
    compiled = torch.compile(model)
    assert {n.removeprefix("_orig_mod.") for n in undecayed(compiled, make_plan(compiled, no_weight_decay=True))} == {
        *undecayed(model, make_plan(model, no_weight_decay=True))
    }
    assert plan.hash != make_plan(Wrapped(nn.Sequential()), no_weight_decay=True).hash


def test_a_user_s_own_list_may_have_globs_and_must_be_a_list() -> None:
    class Own(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.listed: Any = ["blocks.*.conv.weight"]

        def no_weight_decay(self) -> Any:
            return self.listed

    model = Own()
    found = undecayed(model, make_plan(model, no_weight_decay=True))
    assert {f"blocks.{i}.conv.weight" for i in range(4)} <= found
    assert "head.weight" not in found
    model.listed = "head.weight"
    with pytest.raises(ConfigError, match=r"^no_weight_decay=True: Own.no_weight_decay\(\) must return names"):
        make_plan(model, no_weight_decay=True)


@pytest.mark.parametrize("grouping", ["top_module", "per_parameter", "depth_index"])
def test_names_in_the_optimizer_are_unique_and_those_of_the_plan_are_one(grouping: str) -> None:
    """Lightning's LearningRateMonitor refuses two groups of one name."""
    model = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=3)
    plan = make_plan(model, grouping=grouping, no_weight_decay=True, lr_overrides={"blocks.1.mlp": 0.5})
    optimizer = plan.optimizer("adamw")
    names = [group["name"] for group in optimizer.param_groups]
    assert len(set(names)) == len(names)
    assert {name.removesuffix(":no_weight_decay") for name in names} == {g.name for g in plan.groups}
    scheduler = plan.scheduler(optimizer, "cosine", steps=10)
    optimizer.step()
    scheduler.step()
    assert scheduler.rates() == plan.lr_table("cosine", steps=10)[1].tolist()
    by_name = {group["name"]: group["lr"] for group in optimizer.param_groups}
    for name, lr in by_name.items():
        assert lr == by_name.get(name.removesuffix(":no_weight_decay"), lr)


def test_a_group_that_has_the_second_name_already_keeps_it() -> None:
    patterns = {"head": "head", "head:no_weight_decay": "blocks", "rest": "*"}
    plan = make_plan(TinyNet(), grouping="by_name", grouping_options={"patterns": patterns}, no_weight_decay=True)
    optimizer = plan.optimizer("sgd")
    names = [group["name"] for group in optimizer.param_groups]
    assert len(set(names)) == len(names) == 6
    scheduler = plan.scheduler(optimizer, "constant")
    scheduler.set_lr("head", 0.7)
    assert [g["lr"] == 0.7 for g in optimizer.param_groups] == [True, True, False, False, False, False]


def test_a_state_saved_with_two_groups_of_one_name_still_loads() -> None:
    """As checkpoints of before have them."""
    plan = make_plan(TinyNet(), lr=0.1, no_weight_decay=True)
    optimizer = plan.optimizer("sgd")
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["name"] = group["name"].removesuffix(":no_weight_decay")
    optimizer.load_state_dict(state)
    scheduler = plan.scheduler(optimizer, "linear", steps=5)
    assert scheduler.rates() == [g.lr for g in plan.groups]
