"""The three tutorials' numbers, and their hand-written loops, against lwexp."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from lwexp import Plan, make_plan
from tests.helpers.networks import TinyNet

RESNET18_TOP = [
    ("fc", 0.01), ("layer4", 0.009), ("layer3", 0.0081), ("layer2", 0.00729), ("layer1", 0.006561),
    ("bn1", 0.0059049), ("conv1", 0.00531441),
]  # fmt: skip
STOCK = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.05}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
}


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return timm.create_model("resnet18", num_classes=2)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any = None, steps: int = 6) -> nn.Module:
    """The loop of the tutorials: forward, loss, backward, step."""
    generator = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(steps):
        images = torch.randn(8, 1, 8, 8, generator=generator)
        labels = torch.randint(3, (8,), generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return model


def assert_identical(one: nn.Module, other: nn.Module) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


# Tutorial 1: layer-wise rates


def test_one_group_for_each_of_the_62_parameters(resnet18: nn.Module) -> None:
    groups = make_plan(resnet18, grouping="per_parameter", lr=0.01, mult=0.9).groups
    assert len(groups) == 62
    expected = {
        0: ("fc.bias", 0.01), 1: ("fc.weight", 0.009), 2: ("layer4.1.bn2.bias", 0.0081),
        30: ("layer3.0.bn1.weight", 4.239116e-4), 60: ("bn1.weight", 1.797010e-5), 61: ("conv1.weight", 1.617309e-5),
    }  # fmt: skip
    for index, (name, lr) in expected.items():
        assert (groups[index].index, groups[index].name) == (index, name)
        assert groups[index].lr == pytest.approx(lr, rel=1e-6)


def test_one_group_for_each_top_level_module(resnet18: nn.Module) -> None:
    groups = make_plan(resnet18, grouping="top_module", lr=0.01, mult=0.9).groups
    assert [(g.name, pytest.approx(g.lr)) for g in groups] == RESNET18_TOP


def test_one_group_for_each_depth(resnet18: nn.Module) -> None:
    plan = make_plan(resnet18, grouping="depth_index", lr=0.01, mult=0.9)
    assert [g.lr for g in plan.groups] == pytest.approx([0.01 * 0.9**i for i in range(10)])
    assert [g.depth for g in plan.groups] == list(range(10))[::-1]


def test_frozen_parameters_are_left_out_and_the_others_rates_do_not_move(resnet18: nn.Module) -> None:
    model = copy.deepcopy(resnet18)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not name.startswith(("layer3", "bn1"))
    plan = make_plan(model, grouping="top_module", lr=0.01, mult=0.9)
    kept = [(name, lr) for name, lr in RESNET18_TOP if name not in ("layer3", "bn1")]
    assert [(g["name"], pytest.approx(g["lr"])) for g in plan.param_groups()] == kept


def per_parameter_loop(model: nn.Module, lr: float, mult: float) -> list[dict[str, Any]]:
    """As the tutorial writes it: the rate falls with each next parameter from the head on."""
    groups = []
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.requires_grad:
            groups.append({"params": [parameter], "lr": lr})
        lr *= mult
        assert name
    return groups


def per_module_loop(model: nn.Module, lr: float, mult: float) -> list[dict[str, Any]]:
    """As the tutorial writes it: the rate falls when the top-level module changes."""
    groups: list[dict[str, Any]] = []
    previous = None
    for name, parameter in reversed(list(model.named_parameters())):
        top = name.split(".")[0]
        if previous not in (None, top):
            lr *= mult
        previous = top
        groups.append({"params": [parameter], "lr": lr})
    return groups


@pytest.mark.parametrize("optimizer", STOCK)
@pytest.mark.parametrize(("grouping", "loop"), [("per_parameter", per_parameter_loop), ("top_module", per_module_loop)])
def test_training_equals_the_hand_written_loop_bit_for_bit(
    tiny: TinyNet, optimizer: str, grouping: str, loop: Any
) -> None:
    make, options = STOCK[optimizer]
    ours, theirs = copy.deepcopy(tiny), copy.deepcopy(tiny)
    plan = make_plan(ours, grouping=grouping, lr=0.01, mult=0.9)
    trained(ours, make(plan.param_groups(), **options))
    trained(theirs, make(loop(theirs, 0.01, 0.9), **options))
    assert_identical(ours, theirs)


@pytest.mark.parametrize("optimizer", STOCK)
@pytest.mark.parametrize("grouping", ["per_parameter", "top_module"])
def test_mult_one_equals_the_plain_optimizer_without_groups(tiny: TinyNet, optimizer: str, grouping: str) -> None:
    make, options = STOCK[optimizer]
    ours, theirs = copy.deepcopy(tiny), copy.deepcopy(tiny)
    trained(ours, make(make_plan(ours, grouping=grouping, lr=0.01, mult=1).param_groups(), **options))
    trained(theirs, make(theirs.parameters(), lr=0.01, **options))
    assert_identical(ours, theirs)


@pytest.mark.parametrize("optimizer", STOCK)
def test_plan_optimizer_equals_torchs_class_with_the_same_kernel(tiny: TinyNet, optimizer: str) -> None:
    make, options = STOCK[optimizer]
    ours, theirs = copy.deepcopy(tiny), copy.deepcopy(tiny)
    plan, same = make_plan(ours, lr=0.01, mult=0.5), make_plan(theirs, lr=0.01, mult=0.5)
    first = plan.optimizer(optimizer, **options)
    second = make(same.param_groups(), fused=True, **options)
    trained(ours, first, plan.scheduler(first, "cosine", steps=6))
    trained(theirs, second, same.scheduler(second, "cosine", steps=6))
    assert_identical(ours, theirs)


# Tutorial 2: rates of named parts, freezing


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_named_parts_have_their_rates_and_the_rest_the_base_rate(tiny: TinyNet, optimizer: str) -> None:
    make, options = STOCK[optimizer]
    ours, theirs = copy.deepcopy(tiny), copy.deepcopy(tiny)
    rates = {"head": 0.02, "blocks.3": 0.005}
    plan = make_plan(ours, decay="explicit", decay_options={"rates": rates}, lr=0.001)
    assert {g.name: g.lr for g in plan.groups} == {"head": 0.02, "blocks.3": 0.005, "blocks": 0.001, "stem": 0.001}
    trained(ours, make(plan.param_groups(), **options))
    by_hand = [
        {"params": theirs.head.parameters(), "lr": 0.02},
        {"params": theirs.blocks[3].parameters(), "lr": 0.005},
        {"params": [*theirs.stem.parameters(), *theirs.blocks[:3].parameters()]},
    ]
    trained(theirs, make(by_hand, lr=0.001, **options))
    assert_identical(ours, theirs)


@pytest.mark.parametrize("mode", ["requires_grad", "lr_zero"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"momentum": 0.9, "weight_decay": 0.1}),
        ("adam", {"weight_decay": 0.1}),
        ("adamw", {"weight_decay": 0.1}),
    ],
)
def test_frozen_weights_are_bit_identical_and_only_the_head_moved(
    tiny: TinyNet, mode: str, name: str, options: dict[str, Any]
) -> None:
    before = copy.deepcopy(dict(tiny.named_parameters()))
    plan = make_plan(tiny, lr=0.01, freeze=["stem", "blocks"], freeze_mode=mode)
    plan.apply_freeze(tiny)
    trained(tiny, plan.optimizer(name, **options))
    for parameter_name, parameter in tiny.named_parameters():
        assert torch.equal(parameter, before[parameter_name]) != parameter_name.startswith("head"), parameter_name


# Tutorial 3: rates by step


@pytest.mark.parametrize("floor", ["relative", "absolute"])
def test_exponential_fall_after_warm_up_with_a_floor(floor: str) -> None:
    plan = make_plan(nn.Linear(2, 2, bias=False), lr=0.01)
    table = plan.lr_table("warmup_exponential", steps=700, k=0.01, warmup_steps=100, min_lr=1e-4, floor=floor)
    expected = {
        0: 0.01, 50: 0.01, 100: 0.01, 101: 0.00990049833749, 200: 0.00367879441171, 300: 0.00135335283237,
        600: 1e-4, 699: 1e-4,
    }  # fmt: skip
    for step, rate in expected.items():
        assert table[step, 0].item() == pytest.approx(rate, rel=1e-11), step


def test_ratios_stay_as_in_the_plan_at_the_floor_too(resnet18: nn.Module) -> None:
    plan = make_plan(resnet18, lr=0.01, mult=0.9)
    table = plan.lr_table("warmup_exponential", steps=700, k=0.01, warmup_steps=100, min_lr=1e-4)
    scales = torch.tensor([g.scale for g in plan.groups], dtype=torch.float64)
    assert torch.allclose(table / table[:, :1], scales.expand_as(table), rtol=1e-12, atol=0)


def test_event_sets_one_group_by_index_and_leaves_the_others(resnet18: nn.Module) -> None:
    plan: Plan = make_plan(resnet18, lr=0.01, mult=0.9)
    settings: dict[str, Any] = {"steps": 20, "k": 0.1}
    free = plan.lr_table("warmup_exponential", **settings)
    table = plan.lr_table("warmup_exponential", lr_events=[{"step": 10, "group": 2, "lr": 0.05}], **settings)
    assert torch.equal(table[:10], free[:10])
    assert table[10:, 2].tolist() == [0.05] * 10
    others = [0, 1, 3, 4, 5, 6]
    assert torch.equal(table[:, others], free[:, others])
