from __future__ import annotations

from typing import Any

import pytest
import timm

from lwexp import Plan, make_plan
from tests.helpers.networks import TinyNet


@pytest.mark.parametrize(("changed", "lines"), [
    ({}, []),
    ({"mult": 0.25}, ["mult 0.5 -> 0.25", "01_blocks 0.05 -> 0.025", "02_stem 0.025 -> 0.00625"]),
    ({"lr_overrides": {"head": 0.2}}, ["00_head 0.1 -> 0.2"]),
    ({"lr_overrides": {"head.bias": 0.2}}, ["00_head.bias is new at 0.2"]),
    ({"freeze": ["stem"]}, ["stem.bias, stem.weight frozen"]),
    ({"freeze": ["head.bias"], "freeze_mode": "lr_zero"}, [
        "freeze_mode requires_grad -> lr_zero", "00_head.bias is new at 0", "head.bias frozen",
    ]),
    ({"no_weight_decay": True}, [
        "no_weight_decay False -> True",
        "weight_decay of head.bias, blocks.3.norm.bias, blocks.3.norm.weight and 7 more default -> 0.0",
    ]),
    ({"lr": 0.1 + 1e-9}, [
        "lr 0.1 -> 0.100000001", "00_head 0.1 -> 0.100000001", "01_blocks 0.05 -> 0.0500000005",
        "02_stem 0.025 -> 0.02500000025",
    ]),
    ({"decay": "none"}, ["decay linear -> none", "01_blocks 0.05 -> 0.1", "02_stem 0.025 -> 0.1"]),
])  # fmt: skip
def test_differences_are_settings_rates_groups_and_freezing(
    tiny: TinyNet, changed: dict[str, Any], lines: list[str]
) -> None:
    plan = make_plan(tiny, lr=0.1, mult=0.5)
    other = make_plan(tiny, **{"lr": 0.1, "mult": 0.5, **changed})
    assert sorted(plan.diff(other).splitlines()) == sorted(lines)
    assert plan.diff(Plan.from_json(other.to_json())) == plan.diff(other)


def test_plans_that_differ_in_order_alone_say_so(tiny: TinyNet) -> None:
    names = [name for name, _ in tiny.named_parameters()]
    forth = make_plan(tiny, grouping=lambda model: [("all", names)], decay="none")
    back = make_plan(tiny, grouping=lambda model: [("all", names[::-1])], decay="none")
    assert forth.diff(back) == "the order of the parameters"


def test_what_a_model_keeps_from_weight_decay_is_a_difference() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2)
    plan = make_plan(model, no_weight_decay=True)
    model.no_weight_decay = lambda: {"pos_embed"}
    assert plan.diff(make_plan(model, no_weight_decay=True)) == "weight_decay of cls_token 0.0 -> default"
