from __future__ import annotations

import copy
import csv
import io
import json
import math
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from torch import nn

from lwexp import ConfigError, make_plan
from tests.helpers.commands import GOLDEN
from tests.helpers.networks import TinyNet
from tests.helpers.strategies import models, mults, rates


def numbers(plan: Any, *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(getattr(g, key) for key in keys) for g in plan.groups]


@pytest.mark.filterwarnings("ignore::lwexp.errors.NoLayerwiseRatesWarning")  # some have one group
@given(model=models(), lr=rates, mult=mults)
def test_rates_are_lr_times_mult_to_the_index(model: nn.Module, lr: float, mult: float) -> None:
    plan = make_plan(model, lr=lr, mult=mult)
    assert [g.index for g in plan.groups] == list(range(len(plan.groups)))
    for g in plan.groups:
        assert g.scale == pytest.approx(mult**g.index)
        assert g.lr == lr * g.scale
        assert g.depth == len(plan.groups) - 1 - g.index


@given(model=models())
def test_optimizer_gets_exactly_the_trainable_parameters(model: nn.Module) -> None:
    groups = make_plan(model, grouping="per_parameter").param_groups()
    given_ids = [id(p) for g in groups for p in g["params"]]
    assert sorted(given_ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@given(model=models())
def test_making_a_plan_changes_nothing(model: nn.Module) -> None:
    before = [(n, p.requires_grad, p.detach().clone()) for n, p in model.named_parameters()]
    make_plan(model, freeze=[before[0][0]], freeze_mode="lr_zero", grouping="per_parameter")
    for (_, flag, value), parameter in zip(before, model.parameters(), strict=True):
        assert parameter.requires_grad == flag
        assert torch.equal(parameter, value)


def test_freezing_never_moves_the_others_rates(tiny: TinyNet) -> None:
    free = make_plan(tiny, grouping="per_parameter", mult=0.9)
    frozen = make_plan(tiny, grouping="per_parameter", mult=0.9, freeze=["blocks.1", "head.bias"])
    assert numbers(free, "index", "name", "lr") == numbers(frozen, "index", "name", "lr")
    assert set(frozen.frozen_names) == {
        "head.bias",
        "blocks.1.conv.weight",
        "blocks.1.norm.weight",
        "blocks.1.norm.bias",
    }
    left = {g["name"]: g["lr"] for g in frozen.param_groups()}
    assert left == {g.name: g.lr for g in free.groups if g.name not in frozen.frozen_names}


def test_lr_zero_keeps_frozen_parameters_in_the_optimizer_at_rate_zero(tiny: TinyNet) -> None:
    plan = make_plan(tiny, freeze=["blocks.0", "stem"], freeze_mode="lr_zero", mult=0.5)
    assert numbers(plan, "index", "name", "lr") == [
        (0, "head", 1e-3),
        (1, "blocks", 5e-4),
        (1, "blocks.0", 0.0),
        (2, "stem", 0.0),
    ]
    assert sum(len(g["params"]) for g in plan.param_groups()) == 16
    plan.apply_freeze(tiny)
    assert all(p.requires_grad for p in tiny.parameters())


def test_apply_freeze_sets_requires_grad(tiny: TinyNet) -> None:
    make_plan(tiny, freeze=["stem"]).apply_freeze(tiny)
    assert [n for n, p in tiny.named_parameters() if not p.requires_grad] == ["stem.weight", "stem.bias"]


def test_override_of_a_part_splits_its_group_and_keeps_the_index(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr=0.1, mult=0.5, lr_overrides={"blocks.3": 0.7, "head": 0.3})
    assert numbers(plan, "index", "name", "lr") == [
        (0, "head", 0.3),
        (1, "blocks", 0.05),
        (1, "blocks.3", 0.7),
        (2, "stem", 0.025),
    ]
    assert plan.labels == ("00_head", "01_blocks", "01_blocks.3", "02_stem")
    assert plan.groups[2].scale == pytest.approx(7.0)


def test_override_that_splits_several_groups_names_each_part_after_its_group(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr_overrides={"*.bias": 0.5})
    names = [g.name for g in plan.groups]
    assert names == ["head:*.bias", "head", "blocks:*.bias", "blocks", "stem:*.bias", "stem"] or len(set(names)) == 6
    assert {g.lr for g in plan.groups if g.name.endswith("*.bias")} == {0.5}


def test_first_override_wins_and_explicit_rates_come_after_overrides(tiny: TinyNet) -> None:
    plan = make_plan(
        tiny,
        grouping="per_parameter",
        decay="explicit",
        decay_options={"rates": {"head": 0.2, "stem": 0.0}},
        lr=0.1,
        lr_overrides={"head.bias": 0.5, "head": 0.4},
    )
    by_name = {g.name: g.lr for g in plan.groups}
    assert by_name["head.bias"] == 0.5
    assert by_name["head.weight"] == 0.4
    assert by_name["stem.weight"] == 0.0
    assert by_name["blocks.0.conv.weight"] == 0.1


def test_shared_tensor_appears_once_and_its_other_names_are_told() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "body": nn.Linear(3, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    plan = make_plan(model)
    assert [g.name for g in plan.groups] == ["body", "embed"]
    assert plan.groups[1].tied_names == ("head.weight",)
    assert "head.weight" in str(plan)


def test_no_weight_decay_splits_inside_the_optimizer_only(tiny: TinyNet) -> None:
    plan = make_plan(tiny, no_weight_decay=True)
    assert len(plan.groups) == 3
    groups = plan.param_groups()
    assert [(g["name"], g.get("weight_decay")) for g in groups] == [
        ("head", None), ("head:no_weight_decay", 0.0),
        ("blocks", None), ("blocks:no_weight_decay", 0.0),
        ("stem", None), ("stem:no_weight_decay", 0.0),
    ]  # fmt: skip
    assert all((p.ndim <= 1) == ("weight_decay" in g) for g in groups for p in g["params"])
    optimizer = plan.optimizer("adamw", weight_decay=0.1)
    scheduler = plan.scheduler(optimizer, "cosine", steps=10)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[2]["lr"] == optimizer.param_groups[3]["lr"] < plan.groups[1].lr


def test_dominant_group_is_named_with_a_finer_grouping() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2)
    notes = " ".join(make_plan(model).notes)
    assert "(blocks) holds 97% of the trainable weights" in notes
    assert "grouping=depth_index" in notes
    assert make_plan(timm.create_model("resnet18", num_classes=2)).notes == ()


def test_mult_above_one_is_allowed_with_a_note(tiny: TinyNet) -> None:
    plan = make_plan(tiny, mult=1.5)
    assert plan.groups[-1].lr > plan.lr
    assert any("mult=1.5 is above 1" in note for note in plan.notes)


def test_plan_of_a_meta_model_equals_that_of_a_real_one() -> None:
    with torch.device("meta"):
        meta = timm.create_model("resnet18", num_classes=2)
    real = timm.create_model("resnet18", num_classes=2)
    for grouping in ("per_parameter", "top_module", "depth_index"):
        assert make_plan(meta, grouping=grouping).hash == make_plan(real, grouping=grouping).hash


def test_hash_follows_what_training_would_see(tiny: TinyNet) -> None:
    base = make_plan(tiny)
    assert base.hash == make_plan(copy.deepcopy(tiny)).hash
    others = [
        make_plan(tiny, mult=0.9), make_plan(tiny, lr=0.1), make_plan(tiny, grouping="per_parameter"),
        make_plan(tiny, freeze=["stem"]), make_plan(tiny, freeze=["stem"], freeze_mode="lr_zero"),
        make_plan(tiny, no_weight_decay=True),
    ]  # fmt: skip
    assert len({base.hash, *(plan.hash for plan in others)}) == 7


def test_table_round_trips_through_csv_and_json(tiny: TinyNet) -> None:
    plan = make_plan(tiny, freeze=["blocks.1"], lr_overrides={"blocks.2": 0.3})
    rows = list(csv.DictReader(io.StringIO(plan.to_csv())))
    expected = [(int(r["index"]), r["name"], float(r["lr"]), tuple(r["parameters"].split())) for r in rows]
    assert expected == numbers(plan, "index", "name", "lr", "parameter_names")
    groups = json.loads(plan.to_json())["groups"]
    assert [(g["index"], g["name"], g["lr"], tuple(g["parameter_names"])) for g in groups] == expected


def test_markdown_keeps_first_and_last_rows_within_the_limit() -> None:
    plan = make_plan(timm.create_model("resnet18", num_classes=2), grouping="per_parameter")
    assert len(plan.to_markdown(100_000).splitlines()) > 62
    assert len(plan.to_markdown()) < 8000
    assert "omitted" not in plan.to_markdown()
    short = plan.to_markdown(3000)
    assert len(short) <= 3000
    assert "fc.bias" in short
    assert "   61  conv1.weight" in short
    assert "plan.csv" in short
    assert len(plan.to_markdown(200)) <= 200


def test_printed_plan_is_the_golden_file(tiny: TinyNet, request: pytest.FixtureRequest) -> None:
    plan = make_plan(tiny, lr=0.01, mult=0.9, freeze=["blocks.0.norm"], lr_overrides={"blocks.2": 0.5})
    golden = GOLDEN / "plan.txt"
    if request.config.getoption("--rewrite-golden"):
        golden.write_text(f"{plan}\n", encoding="utf-8")
    assert f"{plan}\n" == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize(("overrides", "share"), [
    ({}, "group 1 (blocks) holds 92% of"),
    ({"blocks.2": 0.5}, ""),  # 68% at one rate, 23% at another
    ({"blocks.2": 0.009}, "group 1 (blocks) holds 92% of"),  # the rate that the group has anyway
    ({"blocks.*.weight": 0.5}, "group 1 (blocks.*.weight) holds 89% of"),
])  # fmt: skip
def test_nearly_uniform_rates_are_noted_by_the_weights_at_one_rate(
    tiny: TinyNet, overrides: dict[str, float], share: str
) -> None:
    plan = make_plan(tiny, lr=0.01, mult=0.9, lr_overrides=overrides)
    if not share:
        assert plan.notes == ()
    else:
        (note,) = plan.notes
        assert note.startswith(share)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr": 0}, "lr=0: must be above 0"),
        ({"lr": math.nan}, "lr=nan: must be finite"),
        ({"lr": "a"}, "lr=a: must be a number"),
        ({"mult": -1}, "mult=-1: must be above 0"),
        ({"mult": True}, "mult=True: must be a number"),
        ({"freeze": ["stm"]}, "freeze=stm: the pattern matches no parameter; did you mean stem"),
        ({"freeze": ["*"]}, r"freeze=\*: every parameter is frozen"),
        ({"freeze_mode": "none"}, "freeze_mode=none: no such mode; choices: lr_zero, requires_grad"),
        ({"lr_overrides": {"hed": 0.1}}, "lr_overrides=hed: .*did you mean head"),
        ({"lr_overrides": {"head": -0.1}}, "lr_overrides.head=-0.1: a rate must be finite and at least 0"),
        ({"lr_overrides": {"head": math.inf}}, "lr_overrides.head=inf: "),
        ({"lr_overrides": {"blocks": 0.1}, "freeze": ["blocks.1"]}, "freeze.blocks.1=.*: is frozen, but blocks gives"),
        ({"grouping": "x"}, "grouping=x: no such grouping"),
        ({"decay": "x"}, "decay=x: no such decay"),
        ({"decay_options": {"foo": 1}}, "decay.foo=1: unknown option"),
    ],
)  # fmt: skip
def test_mistakes_name_the_key_and_the_nearest_choice(tiny: TinyNet, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        make_plan(tiny, **settings)


def test_lazy_parameters_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"model=0.weight: has no shape yet; run a batch"):
        make_plan(nn.Sequential(nn.LazyLinear(2)))


def test_scalar_empty_and_complex_parameters_have_their_place() -> None:
    model = nn.Module()
    model.scalar = nn.Parameter(torch.tensor(1.0))
    model.empty = nn.Parameter(torch.empty(0, 3))
    model.wave = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    plan = make_plan(model)
    assert [(g.name, g.weights) for g in plan.groups] == [("wave", 2), ("empty", 0), ("scalar", 1)]
    plan.optimizer("adam")
