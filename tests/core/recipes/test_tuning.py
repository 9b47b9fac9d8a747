"""Recipes that say what moves, against what their authors' code gave on the networks it was made for.

tests/golden/tuning.json: BitFit's `_deactivate_relevant_gradients` on a BERT, surgical fine-tuning's
`tune_params_dict` of a ResNet-50, Wang et al.'s lists of a LLaMA's parameters, fastai's `combined_cos`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from lwexp import ConfigError, Plan, make_plan
from lwexp.core.kinds import Kinds
from lwexp.core.recipes.tuning import TUNING
from lwexp.models.lstm import LSTMClassifier
from tests.core.test_kinds import text_model, timm_model
from tests.helpers.commands import GOLDEN

AUTHORS: dict[str, Any] = json.loads((GOLDEN / "tuning.json").read_text())
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: timm_model("resnet18"),
    "lstm": lambda: LSTMClassifier(in_chans=1, img_size=8, num_classes=3),
    "bert": lambda: text_model("Bert", num_hidden_layers=2, hidden_size=32, num_attention_heads=2, vocab_size=50),
}
NEEDS = {
    ("blockwise", "resnet18"): "lr_mults=kind/vo: the model has none; its kinds: head, norm, conv",
    ("blockwise", "lstm"): "lr_mults=kind/vo: the model has none; its kinds: head, recurrent",
    ("norm_tuning", "lstm"): "train=kind/norm: the model has none; its kinds: head, recurrent",
}


def moving(plan: Plan) -> list[str]:
    names = {name for g in plan for name in g.optimizer_names}
    return [name for name in plan._parameters if name in names]


def test_bitfit_moves_what_the_authors_leave_trainable() -> None:
    model = text_model("Bert", num_hidden_layers=2)
    assert moving(make_plan(model, recipe="bitfit")) == AUTHORS["bitfit"]


def test_surgical_moves_the_authors_blocks() -> None:
    model = timm_model("resnet50")
    first = moving(make_plan(model, recipe="surgical_first"))
    assert [name for name in first if not name.startswith("bn1.")] == AUTHORS["surgical"]["first_two_block"]
    assert moving(make_plan(model, recipe="surgical_last")) == AUTHORS["surgical"]["last"]


def test_blockwise_has_the_authors_groups_and_published_ratios() -> None:
    model = text_model("Llama", num_hidden_layers=2)
    plan = make_plan(model, recipe="blockwise")
    rates = {name: g.lr / plan.lr for g in plan for name in g.optimizer_names}
    published = {"embed": 10, "qk": 8, "mlp": 6, "vo": 4, "ln": 1}  # README of the authors
    assert {name for key in published for name in AUTHORS["blockwise"][key]} | {"score.weight"} == rates.keys()
    for key, ratio in published.items():
        assert {round(rates[name], 9) for name in AUTHORS["blockwise"][key]} == {ratio}
    assert rates["score.weight"] == 1  # `lm_head` has their base rate


def test_blockwise_falls_to_one_floor_as_the_authors_do() -> None:
    plan = make_plan(text_model("Llama", num_hidden_layers=2), recipe="blockwise")
    last = plan.lr_table(steps=100)[-1]
    assert last.tolist() == pytest.approx([3e-5] * len(plan), rel=1e-6)


def test_fused_attention_has_the_rate_of_values() -> None:
    plan = make_plan(timm_model("vit_tiny_patch16_224"), recipe="blockwise")
    rates = {name: g.lr / plan.lr for g in plan for name in g.optimizer_names}
    assert rates["blocks.0.attn.qkv.weight"] == pytest.approx(4)
    assert rates["pos_embed"] == pytest.approx(10)
    assert rates["head.weight"] == 1


def test_fastai_is_near_its_own_schedule_at_every_step() -> None:
    """torch's one cycle ends at the last step, fastai's one step later: 2.2 % of the peak at most."""
    plan = make_plan(timm_model("resnet18"), recipe="fastai_fine_tune")
    first, second = AUTHORS["fastai"]["steps"]
    table = plan.lr_table(steps=first + second, steps_per_epoch=first)
    rows = {g.name: table[:, i].tolist()[::10] for i, g in enumerate(plan)}
    for name, key, peak in (("fc", "head", 2e-3), ("conv1", "stem", 1e-5)):
        far = max(abs(ours - theirs) for ours, theirs in zip(rows[name], AUTHORS["fastai"][key], strict=True))
        assert far < 0.022 * peak, (name, far / peak)
    norms = rows["layer4:norm"]
    assert norms[5] > 0
    assert rows["layer4"][5] == 0


def test_lp_ft_trains_the_head_first_and_then_all() -> None:
    plan = make_plan(timm_model("resnet18"), recipe="lp_ft", lr=0.1)
    table = plan.lr_table(steps=20)
    head = [g.name for g in plan].index("fc")
    rest = [i for i in range(len(plan)) if i != head]
    assert (table[:10, rest] == 0).all()
    assert (table[10:19, rest] > 0).all()
    assert table[0, head] == table[10, head] == pytest.approx(0.1)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("recipe", [each.name for each in TUNING])
def test_every_recipe_plans_every_network_or_says_what_it_needs(recipe: str, network: str) -> None:
    model = NETWORKS[network]()
    words = NEEDS.get((recipe, network))
    if words is not None:
        with pytest.raises(ConfigError) as caught:
            make_plan(model, recipe=recipe)
        assert str(caught.value).startswith(words)
        return
    plan = make_plan(model, recipe=recipe)
    assert plan.schedule(steps=100, steps_per_epoch=20)
    assert plan.optimizer()
    assert any(line.startswith(f"recipe={recipe}: ") for line in plan.notes)


@pytest.mark.parametrize("network", ["resnet18", "bert"])
def test_recipes_of_parts_move_those_alone(network: str) -> None:
    model = NETWORKS[network]()
    kinds = Kinds.of(model).names
    for recipe, parts in (
        ("head_only", ("head",)), ("surgical_last", ("head",)), ("norm_tuning", ("norm", "head")),
        ("bitfit", ("bias", "head")), ("surgical_first", ("first_block",)),
    ):  # fmt: skip
        assert set(moving(make_plan(model, recipe=recipe))) == {name for part in parts for name in kinds[part]}


def test_tutorial_is_the_tutorials_plan() -> None:
    model = timm_model("resnet18")
    assert (
        make_plan(model, recipe="tutorial").hash == make_plan(model, grouping="per_parameter", lr=0.01, mult=0.9).hash
    )


def test_kind_that_need_not_be_there_is_dropped() -> None:
    model = timm_model("resnet18")
    plan = make_plan(model, lr=1.0, decay="none", lr_mults={"kind/qk?": 8, "kind/head?": 2})
    assert {name: g.lr for g in plan for name in g.optimizer_names}["fc.weight"] == 2
    with pytest.raises(ConfigError, match="lr_mults=kind/qq\\?: no such kind"):
        make_plan(model, lr_mults={"kind/qq?": 8})
