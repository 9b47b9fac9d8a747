"""Several optimizers under one plan: its parts, their rates and their schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lwexp import ConfigError, Plan, make_plan
from tests.helpers.networks import TinyNet


def planned(**options: Any) -> tuple[TinyNet, Plan]:
    model = TinyNet()
    return model, make_plan(model, lr=0.1, mult=0.5, **options)


def test_the_parts_of_a_split_have_each_parameter_once_with_the_rate_of_the_plan() -> None:
    _, plan = planned(no_weight_decay=True)
    rates = {name: g.lr for g in plan for name in g.parameter_names}
    parts = plan.split(lambda name, p: p.ndim == 2, ["stem", "*.norm.*"])
    assert [[g.name for g in part] for part in parts] == [["head"], ["blocks", "stem"], ["head", "blocks"]]
    assert [g.index for g in parts[1]] == [1, 2]
    names = [name for part in parts for g in part for name in g.parameter_names]
    assert sorted(names) == sorted(rates)
    for part in parts:
        for g in part:
            assert {rates[name] for name in g.parameter_names} == {g.lr}
    weights = sum(g.weights for part in parts for g in part)
    assert weights == sum(g.weights for g in plan)
    groups = [group for part in parts for group in part.param_groups()]
    assert sum(len(group["params"]) for group in groups) == len(names)


@pytest.mark.parametrize("policy", ["cosine", "linear"])
def test_each_part_has_its_own_optimizer_and_scheduler_and_moves_as_the_plan_says(policy: Any) -> None:
    _, plan = planned()
    whole = plan.lr_table(policy, steps=9)
    rows = {g.name: i for i, g in enumerate(plan)}
    matrices, rest = plan.split(lambda name, p: p.ndim == 2)
    assert rest.with_lr(0.01).groups[1].lr == pytest.approx(0.005)
    for part, optimizer in ((matrices, torch.optim.SGD(matrices.param_groups())), (rest, rest.optimizer("adamw"))):
        scheduler = part.scheduler(optimizer, policy, steps=9)
        for step in range(4):
            for group in optimizer.param_groups:
                assert group["lr"] == whole[step, rows[group["name"]]]
            optimizer.step()
            scheduler.step()
        assert len(scheduler.rates()) == len(part)


def test_two_networks_of_one_plan_and_an_optimizer_whose_names_were_lost() -> None:
    """As a GAN's."""
    model = nn.ModuleDict({"generator": TinyNet(), "critic": TinyNet()})
    plan = make_plan(model, grouping="depth_index", lr=0.1, mult=0.9, grouping_options={"source": "registration"})
    generator, critic = plan.split("generator")
    assert {n.partition(".")[0] for g in generator for n in g.parameter_names} == {"generator"}
    for part in (generator, critic):
        optimizer = part.optimizer("sgd")
        nameless = [{"params": g["params"], "lr": 7.0} for g in part.param_groups()]
        optimizer.load_state_dict(torch.optim.SGD(nameless).state_dict())
        scheduler = part.scheduler(optimizer, "cosine", steps=5)
        assert scheduler.rates() == part.lr_table("cosine", steps=5)[0].tolist()
    assert generator.hash != critic.hash


def test_an_optimizer_of_another_part_is_refused() -> None:
    _, plan = planned()
    matrices, rest = plan.split(lambda name, p: p.ndim == 2)
    with pytest.raises(ConfigError, match=r"lacks the plan's groups blocks, stem; .*plan.split"):
        plan.scheduler(matrices.optimizer("sgd"))
    with pytest.raises(ConfigError, match=r"lacks the plan's groups blocks, head, stem"):
        rest.scheduler(torch.optim.SGD([nn.Parameter(torch.ones(1))]))
    for where, said in (
        (("nothing",), "split=nothing: the pattern matches no"),
        (("*",), "split=the rest: has nothing"),
    ):
        with pytest.raises(ConfigError, match=said):
            plan.split(*where)
    with pytest.raises(ConfigError, match=r"lr=0\.0: must be above 0"):
        plan.with_lr(0)
