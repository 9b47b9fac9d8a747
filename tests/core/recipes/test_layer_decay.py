"""Layer decays of the recipes, parameter by parameter as the functions of their authors give them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn

from lwexp import Plan, make_plan
from lwexp.core.recipes import RECIPES
from lwexp.core.recipes.layer_decay import LAYER_DECAY
from lwexp.models.lstm import LSTMClassifier
from tests.helpers.commands import ROOT

# By the function of each repository, on these networks under its own names of the parameters. It gives for each
# parameter its factor, here by the shortest prefix that has one factor, and its weight decay, here the number without.
GOLDEN: dict[str, dict[str, Any]] = json.loads((ROOT / "tests/golden/layer_decays.json").read_text())
RTOL = 1e-8  # the file has nine digits
# Where weight decay is as the network lists it: parameters that the authors decay
LISTED = {
    "beit": "relative_position_bias_table",
    "dinov2": ("cls_token", "pos_embed", "reg_token"),
}
SMALL = {
    "num_hidden_layers": 12, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30,
}  # fmt: skip


def bert(**options: Any) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(**{**SMALL, **options}))


def electra() -> nn.Module:
    from transformers import ElectraConfig, ElectraForSequenceClassification

    return ElectraForSequenceClassification(ElectraConfig(embedding_size=8, **SMALL))


def network(recipe: str, name: str) -> nn.Module:
    with torch.device("meta"):
        if name == "12 layers":
            return electra() if recipe == "electra" else bert()
        pooled = {"global_pool": "avg"} if recipe in ("mae", "vitdet") else {}
        return timm.create_model(name, num_classes=10, **pooled)


@pytest.mark.parametrize("case", GOLDEN)
def test_factors_are_those_of_the_authors_code(case: str) -> None:
    recipe, _, name = case.partition("/")
    model, known = network(recipe, name), GOLDEN[case]
    plan = make_plan(model, recipe=recipe)
    factors = {prefix: float(factor) for factor, prefixes in known["scales"].items() for prefix in prefixes}
    checked = 0
    for group in plan:
        for parameter in group.parameter_names:
            prefixes = [each for each in factors if f"{parameter}.".startswith(f"{each}.")]
            if not prefixes:
                assert (recipe, parameter) == ("vitdet", "cls_token")  # detectron2's network has none
                continue
            checked += 1
            if recipe == "bert_llrd" and "embeddings" in parameter:
                assert factors[prefixes[0]] == 1  # as `differs` says
                assert group.lr / plan.lr == pytest.approx(0.95**12)
                continue
            assert group.lr / plan.lr == pytest.approx(factors[prefixes[0]], rel=RTOL), parameter
    assert checked == known["parameters"]


@pytest.mark.parametrize("case", [case for case, known in GOLDEN.items() if "undecayed" in known])
def test_the_authors_decay_the_same_parameters(case: str) -> None:
    recipe, _, name = case.partition("/")
    plan = make_plan(network(recipe, name), recipe=recipe)
    undecayed = [
        each for g in plan for p in g.parts if p.options.get("weight_decay") == 0 for each in p.parameter_names
    ]
    listed = [each for each in undecayed if each.endswith(LISTED.get(recipe, ()))]
    assert len(undecayed) - len(listed) == GOLDEN[case]["undecayed"]
    assert (recipe in LISTED) == bool(listed)  # as `differs` says


def test_the_smallest_parts_that_golden_numbers_name_are_blocks() -> None:
    assert all(
        prefix.count(".") <= 3 for known in GOLDEN.values() for each in known["scales"].values() for prefix in each
    )
    assert {case.partition("/")[0] for case in GOLDEN} == {each.name for each in LAYER_DECAY} - {"ulmfit"}


def test_ulmfit_is_the_formula_of_the_paper() -> None:
    """eta(l-1) = eta(l) / 2.6; after all layers are open, its equation 3 for the triangle."""
    model = LSTMClassifier(num_classes=3, in_chans=1, img_size=8, hidden_size=4, num_layers=2)
    plan = make_plan(model, recipe="ulmfit")
    assert [g.lr for g in plan] == pytest.approx([0.01 / 2.6**i for i in range(len(plan))])
    steps, per_epoch = 40, 5
    table = plan.lr_table(steps=steps, steps_per_epoch=per_epoch)
    cut = int(steps * 0.1)
    for step in range(steps):
        p = step / cut if step < cut else 1 - (step - cut) / (cut * (1 / 0.1 - 1))
        opened = min(1 + step // per_epoch, len(plan))
        wanted = [g.lr * (1 + p * 31) / 32 if i < opened else 0.0 for i, g in enumerate(plan)]
        assert table[step].tolist() == pytest.approx(wanted, rel=1e-9)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: timm.create_model("resnet18", num_classes=4),
    "lstm": lambda: LSTMClassifier(num_classes=4, in_chans=1, img_size=8, hidden_size=8, num_layers=2),
    "bert": lambda: bert(num_hidden_layers=2),
}


@pytest.mark.parametrize("name", [each.name for each in LAYER_DECAY])
@pytest.mark.parametrize("network", NETWORKS)
def test_each_plans_any_network_to_its_optimizer_and_rates(name: str, network: str) -> None:
    model, recipe = NETWORKS[network](), RECIPES[name]
    plan = make_plan(model, recipe=name, batch_size=32)
    assert plan.lr == recipe.rates(sum(p.numel() for p in model.parameters()), 32).lr
    assert plan[0].lr == plan.lr
    assert plan[-1].lr < plan.lr
    optimizer = plan.optimizer()
    assert type(optimizer).__name__.lower().endswith(recipe.settings["optimizer"]["name"])
    scheduler = plan.scheduler(optimizer, steps=60, steps_per_epoch=10)
    peaks = scheduler.schedule.table(range(60)).max(dim=0).values
    late = "unfreeze" in recipe.settings  # a group that opens after the peak misses it
    assert peaks[: 1 if late else None].tolist() == pytest.approx([g.lr for g in plan][: 1 if late else None], rel=0.2)
    assert f"recipe={name}: {recipe.source}" in plan.notes


def test_patch_embeddings_of_dinov2_have_a_fifth() -> None:
    plan = make_plan(network("dinov2", "vit_small_patch14_reg4_dinov2"), recipe="dinov2")
    rates = {name: g.lr for g in plan for name in g.parameter_names}
    assert rates["patch_embed.proj.weight"] == pytest.approx(0.2 * rates["pos_embed"])
    without: Plan = make_plan(NETWORKS["resnet18"](), recipe="dinov2")
    assert "recipe=dinov2: the network has no *patch_embed*, so its lr_mults are omitted" in without.notes


@pytest.mark.parametrize(
    ("name", "model", "mult"),
    [
        ("mae", "vit_base_patch16_224", 0.65), ("mae", "vit_large_patch16_224", 0.75),
        ("mae", "vit_huge_patch14_224", 0.75), ("vitdet", "vit_large_patch16_224", 0.8),
        ("eva02", "eva02_small_patch14_336", 0.8), ("eva02", "eva02_large_patch14_448", 0.8),
        ("ft_clip", "vit_large_patch14_clip_224", 0.65),
    ],
)  # fmt: skip
def test_sizes_are_those_of_the_commands(name: str, model: str, mult: float) -> None:
    assert make_plan(network(name, model), recipe=name).mult == mult
