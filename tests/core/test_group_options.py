"""`group_options`: options of the optimizer by pattern, in the plan, its table, its hash and the optimizer."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lwexp import ConfigError, make_plan
from tests.helpers.networks import TinyNet

KINDS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {"head": {"weight_decay": 0.3, "betas": [0.5, 0.9]}, "*.bias": {"eps": 1e-3}}),
    "adam": (torch.optim.Adam, {"blocks.1": {"amsgrad": True, "weight_decay": 0.1}}),
    "sgd": (torch.optim.SGD, {"head": {"momentum": 0.9, "nesterov": True}, "stem": {"weight_decay": 0.2}}),
}


def options_of(model: nn.Module, optimizer: torch.optim.Optimizer, *keys: str) -> dict[str, tuple[Any, ...]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: tuple(g[key] for key in keys) for g in optimizer.param_groups for p in g["params"]}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 1, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("name", KINDS)
def test_training_is_that_of_torchs_optimizer_with_hand_made_groups(name: str) -> None:
    """One group per parameter, each with its options written out, is the same training."""
    kind, group_options = KINDS[name]
    ends = []
    for by_hand in (False, True):
        torch.manual_seed(0)
        model = TinyNet()
        plan = make_plan(model, lr=0.1, mult=0.5, group_options=group_options)
        if by_hand:
            rates = {n: g.lr for g in plan.groups for n in g.parameter_names}
            groups = []
            for n, p in model.named_parameters():
                own: dict[str, Any] = {"params": [p], "lr": rates[n]}
                for pattern, written in group_options.items():
                    if n.startswith(f"{pattern}.") or (pattern == "*.bias" and n.endswith(".bias")):
                        own = {**own, **written}
                groups.append(own)
            ends.append(train(model, kind(groups, lr=1.0, fused=True)))  # type: ignore[call-arg]
        else:
            ends.append(train(model, plan.optimizer(name)))
    for ours, theirs in zip(*ends, strict=True):
        assert torch.equal(ours, theirs)


def test_for_each_option_the_first_pattern_that_gives_it_wins(tiny: TinyNet) -> None:
    written = {
        "head.bias": {"eps": 1e-3}, "*.bias": {"eps": 1e-4, "betas": (0.1, 0.2)}, "head": {"weight_decay": 0.5},
    }  # fmt: skip
    optimizer = make_plan(tiny, group_options=written).optimizer("adamw", weight_decay=0.01)
    found = options_of(tiny, optimizer, "eps", "betas", "weight_decay")
    assert found["head.bias"] == (1e-3, (0.1, 0.2), 0.5)
    assert found["head.weight"] == (1e-8, (0.9, 0.999), 0.5)
    assert found["stem.bias"] == (1e-4, (0.1, 0.2), 0.01)
    assert found["stem.weight"] == (1e-8, (0.9, 0.999), 0.01)


def test_they_split_groups_in_the_optimizer_and_leave_the_plan_as_it_is(tiny: TinyNet) -> None:
    bare = make_plan(tiny, lr=0.1)
    plan = make_plan(tiny, lr=0.1, group_options={"*.bias": {"weight_decay": 0.0}, "head": {"betas": [0.8, 0.9]}})
    rows = [(g.index, g.name, g.lr, g.parameter_names, g.optimizer_names) for g in plan.groups]
    assert rows == [(g.index, g.name, g.lr, g.parameter_names, g.optimizer_names) for g in bare.groups]
    assert plan.labels == bare.labels
    names = [group["name"] for group in plan.param_groups()]
    assert names == ["head:*.bias+head", "head:head", "blocks:*.bias", "blocks", "stem:*.bias", "stem"]
    scheduler = plan.scheduler(plan.optimizer("adamw"), "cosine", steps=10)
    scheduler.set_lr("head", 0.7)
    assert scheduler.rates() == [0.7, *(g.lr for g in plan.groups[1:])]
    assert plan.hash != bare.hash
    assert plan.hash != make_plan(tiny, lr=0.1, group_options={"*.bias": {"weight_decay": 0.1}}).hash


def test_a_group_with_one_set_of_options_keeps_its_name(tiny: TinyNet) -> None:
    plan = make_plan(tiny, group_options={"head": {"weight_decay": 0.1}, "*": {"weight_decay": 0.2}})
    assert [(g["name"], g["weight_decay"]) for g in plan.param_groups()] == [
        ("head", 0.1), ("blocks", 0.2), ("stem", 0.2),
    ]  # fmt: skip


def test_without_options_everything_is_as_before(tiny: TinyNet) -> None:
    """The hash is the value that earlier versions gave, so that their checkpoints still fit."""
    assert make_plan(tiny).hash == make_plan(tiny, group_options={}, no_weight_decay=[]).hash == "6e496535d1"
    assert make_plan(tiny, no_weight_decay=True).hash == "3a1b2d2c36"
    assert [set(group) for group in make_plan(tiny, group_options={}).param_groups()] == [{"params", "lr", "name"}] * 3
    assert "parts" not in make_plan(tiny).to_json()


PATTERNS = st.sampled_from(["head", "*.bias", "blocks.1", "*", "blocks.*.weight", "stem.weight", "*.norm.*"])
OPTIONS = st.dictionaries(st.sampled_from(["weight_decay", "eps"]), st.sampled_from([0.0, 0.1, 0.2]), min_size=1)


@given(
    group_options=st.dictionaries(PATTERNS, OPTIONS, max_size=4),
    no_weight_decay=st.one_of(st.booleans(), st.lists(PATTERNS, unique=True, max_size=2)),
    freeze=st.sampled_from([[], ["stem"], ["blocks.1", "head.bias"]]),
    lr_overrides=st.sampled_from([{}, {"blocks.2": 0.3}, {"*.bias": 0.2}]),
    grouping=st.sampled_from(["top_module", "per_parameter"]),
)
def test_every_trained_parameter_is_in_one_param_group_with_its_rate(
    group_options: Any, no_weight_decay: Any, freeze: Any, lr_overrides: Any, grouping: str
) -> None:
    model = TinyNet()
    if freeze and lr_overrides == {"*.bias": 0.2}:
        lr_overrides = {}
    plan = make_plan(
        model, grouping=grouping, freeze=freeze, lr_overrides=lr_overrides, group_options=group_options,
        no_weight_decay=no_weight_decay,
    )  # fmt: skip
    groups = plan.param_groups()
    members = [id(p) for group in groups for p in group["params"]]
    expected = {id(p) for n, p in model.named_parameters() if n not in plan.frozen_names}
    assert len(members) == len(expected)
    assert set(members) == expected
    assert all(group["params"] for group in groups)
    names = [group["name"] for group in groups]
    assert len(set(names)) == len(names)
    for position, group in zip(plan.positions(groups), groups, strict=True):
        assert position is not None
        assert group["lr"] == plan.groups[position].lr
        assert [id(plan._parameters[n]) for n in plan.groups[position].optimizer_names if id(plan._parameters[n]) in {
            id(p) for p in group["params"]
        }] == [id(p) for p in group["params"]]  # fmt: skip


def test_no_weight_decay_takes_patterns_and_is_above_group_options(tiny: TinyNet) -> None:
    plan = make_plan(tiny, no_weight_decay=["*.norm", "stem", "*.norm.*"][1:], group_options={"*": {"weight_decay": 1}})
    found = options_of(tiny, plan.optimizer("adamw"), "weight_decay")
    assert {name for name, (decay,) in found.items() if decay == 0} == {
        "stem.weight", "stem.bias", *(f"blocks.{i}.norm.{kind}" for i in range(4) for kind in ("weight", "bias")),
    }  # fmt: skip
    assert {decay for (decay,) in found.values()} == {0.0, 1.0}
    assert plan.hash != make_plan(tiny, no_weight_decay=["stem"], group_options={"*": {"weight_decay": 1}}).hash
    with pytest.raises(ConfigError, match=r"^no_weight_decay=hed: the pattern matches no parameter; did you mean head"):
        make_plan(tiny, no_weight_decay="hed")


def test_the_table_has_a_column_for_each_option_that_differs(tiny: TinyNet) -> None:
    plan = make_plan(tiny, group_options={"head": {"betas": [0.8, 0.9]}, "*.norm.*": {"weight_decay": 0.25}})
    lines = str(plan).splitlines()
    assert lines[-5].split()[-2:] == ["betas", "weight_decay"]
    assert lines[-3].endswith("[0.8, 0.9]")
    assert lines[-2].endswith("0.25 (8 of 12)")
    assert lines[-1].endswith("%")
    rows = list(csv.DictReader(io.StringIO(plan.to_csv())))
    assert [(row["betas"], row["weight_decay"]) for row in rows] == [
        ("'[0.8, 0.9]".removeprefix("'"), ""), ("", "0.25 (8 of 12)"), ("", ""),
    ]  # fmt: skip
    parts = [part for group in json.loads(plan.to_json())["groups"] for part in group["parts"]]
    assert [(part["name"], part["options"]) for part in parts] == [
        ("head", {"betas": [0.8, 0.9]}), ("blocks:*.norm.*", {"weight_decay": 0.25}), ("blocks", {}), ("stem", {}),
    ]  # fmt: skip
    assert "weight_decay" in plan.to_markdown()
    bare = str(make_plan(tiny))
    assert "weight_decay" not in bare


@pytest.mark.parametrize(
    ("optimizer", "written", "said"),
    [
        ("adamw", {"head": {"weight_decy": 1}}, "group_options.head.weight_decy=1: adamw has .*mean weight_decay"),
        ("sgd", {"head": {"betas": [0.1, 0.2]}}, r"group_options.head.betas=\[0.1, 0.2\]: sgd has no such option"),
        ("adamw", {"head": {"betas": [2, 3]}}, r"group_options.head.betas=\[2, 3\]: is refused: Invalid beta"),
        ("adamw", {"head": {"betas": [2, 3], "eps": 1}}, r"group_options.head.betas=\[2, 3\]: is refused"),
        ("sgd", {"*": {"nesterov": True}}, "group_options.*.nesterov=True: is refused: Nesterov momentum requires"),
        ("adam", {"head": {"eps": "small"}}, "group_options.head.eps=small: must be a number"),
        ("adam", {"head": {"fused": True}}, "group_options.head.fused=True: is the same for all groups"),
        ("adam", {"hed": {"eps": 1}}, "group_options=hed: the pattern matches no parameter; did you mean head"),
        ("adam", {"head": {"lr": 1}}, "group_options.head.lr=1: is no option of a group: lr_overrides sets rates"),
        ("adam", {"head": 3}, "group_options.head=3: must map patterns to options"),
        ("adam", ["head"], r"group_options=\['head'\]: must map patterns to options"),
        ("adam", {"head": {"weight_decay": -1}}, "group_options.head.weight_decay=-1: must be at least 0"),
    ],
)  # fmt: skip
def test_mistakes_name_the_pattern_the_option_and_the_nearest_choice(
    tiny: TinyNet, optimizer: str, written: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        make_plan(tiny, group_options=written).optimizer(optimizer)
