"""plan -> JSON -> plan: the same table and hash, and after `bind` the same training."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lwexp import ConfigError, Plan, make_plan
from tests.helpers.networks import TinyNet
from tests.helpers.strategies import models, mults, rates


@pytest.mark.filterwarnings("ignore::lwexp.errors.NoLayerwiseRatesWarning")  # some have one group
@given(
    model=models(), lr=rates, mult=mults, mode=st.sampled_from(["requires_grad", "lr_zero"]),
    grouping=st.sampled_from(["per_parameter", "top_module", "depth_index"]),
    no_weight_decay=st.sampled_from([False, True, ["m0"]]),
    group_options=st.one_of(st.none(), st.just({"*.weight": {"weight_decay": 0.1, "betas": (0.8, 0.9)}})),
    lr_mults=st.sampled_from([None, {"*.bias": 2.0}]), weight_decay=st.sampled_from([None, 0.1]),
    override=st.one_of(st.none(), rates), freeze=st.booleans(), index_from=st.sampled_from(["all", "trained"]),
)  # fmt: skip
def test_a_plan_read_and_bound_is_the_plan(
    model: nn.Module, override: float | None, freeze: bool, mode: Any, **settings: Any
) -> None:
    names = [name for name, _ in model.named_parameters()]
    free = [name for name, p in model.named_parameters() if p.requires_grad]
    frozen = names[-1:] if freeze and free != names[-1:] else []
    overrides = {names[0]: override} if override is not None and names[0] not in frozen else {}
    if overrides or frozen or not any(name.endswith(".bias") for name in names):
        settings["lr_mults"] = None
    if settings["weight_decay"]:
        settings.update(weight_decay_mult=0.5, independent_weight_decay=True)
    plan = make_plan(model, freeze=frozen, freeze_mode=mode, lr_overrides=overrides, **settings)
    table = Plan.from_json(plan.to_json())
    assert table == plan
    assert table.hash == plan.hash
    assert str(table) == str(plan)
    bound = table.bind(model)
    for ours, theirs in zip(bound.param_groups(), plan.param_groups(), strict=True):
        assert list(map(id, ours.pop("params"))) == list(map(id, theirs.pop("params")))
        assert ours == theirs


def test_what_needs_no_parameters_works_before_bind(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr=0.1, mult=0.5)
    table = Plan.from_json(plan.to_json())
    assert torch.equal(table.lr_table("cosine", steps=5), plan.lr_table("cosine", steps=5))
    assert table.to_csv() == plan.to_csv()
    assert table.scheduler(plan.optimizer("sgd"), "linear", steps=3).rates() == [0.1, 0.05, 0.025]
    for use in (table.param_groups, lambda: table.optimizer("adam"), lambda: table.trained_layers):
        with pytest.raises(ConfigError, match=r"has no parameters yet: use plan.bind\(model\)"):
            use()


def test_bind_refuses_another_model_with_the_difference(tiny: TinyNet) -> None:
    plan = make_plan(tiny, freeze=["blocks.0"])
    for known in (plan, Plan.from_json(plan.to_json())):
        frozen = copy.deepcopy(tiny).requires_grad_(False)
        with pytest.raises(ConfigError, match=r"of: (head|stem).\w+ does not require a gradient"):
            known.bind(frozen)
        with pytest.raises(ConfigError, match=r"of: (head.weight is 7x4, was 3x4|group head has 35 weights, had 15)"):
            known.bind(TinyNet(classes=7))
        with pytest.raises(ConfigError, match=r"lacks head.bias, head.weight, .* and 13 more; has weight, bias bes"):
            known.bind(nn.Linear(2, 2))
        assert known.bind(copy.deepcopy(tiny)).hash == plan.hash


@pytest.mark.parametrize(("change", "said"), [
    ({"lr": "a"}, "plan.lr=a: must be a number"),
    ({"groups": []}, r"plan.groups=\[\]: needs at least one group"),
    ({"groups": 3}, "plan.groups=3: must be a list"),
    ({"groups": [{}]}, r"plan.groups.0.index=\?\?\?: must be given"),
    ({"groups": ["a"]}, "plan.groups.0=a: must be an object"),
    ({"grouping": 3}, "plan.grouping=3: must be a text"),
    ({"no_weight_decay": 0}, "plan.no_weight_decay=0: must be true or false"),
    ({"mulct": 1}, "plan.mulct=1: unknown option; did you mean mult"),
    ({"hash": "0123456789"}, "plan.hash=0123456789: the groups give .*: the plan was changed"),
])  # fmt: skip
def test_what_is_no_plan_is_refused(tiny: TinyNet, change: dict[str, Any], said: str) -> None:
    written = {**json.loads(make_plan(tiny).to_json()), **change}
    with pytest.raises(ConfigError, match=f"^{said}"):
        Plan.from_json(json.dumps(written))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "index,name"])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^plan={re.escape(text)}: is not the JSON of a plan"):
        Plan.from_json(text)


def test_a_changed_rate_is_read_without_the_hash(tiny: TinyNet) -> None:
    written = json.loads(make_plan(tiny).to_json())
    written["groups"][0]["lr"] = 0.5
    del written["hash"]
    plan = Plan.from_json(json.dumps(written)).bind(tiny)
    assert plan.param_groups()[0]["lr"] == 0.5
