"""Schedulers that consist of others: the factors are those of torch's own, and the ratios between groups stay."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim import lr_scheduler as theirs

from lwexp import make_plan
from lwexp.core.policy import make_policy
from lwexp.errors import ConfigError
from tests.helpers.networks import TinyNet

LINEAR = {"name": "LinearLR", "start_factor": 0.1, "total_iters": 5}
COSINE = {"name": "CosineAnnealingLR", "T_max": 20}
NESTED: dict[str, tuple[dict[str, Any], Callable[[Optimizer], theirs.LRScheduler]]] = {
    "two in turn": (
        {"name": "SequentialLR", "options": {"schedulers": [LINEAR, COSINE], "milestones": [5]}},
        lambda o: theirs.SequentialLR(
            o, [theirs.LinearLR(o, 0.1, total_iters=5), theirs.CosineAnnealingLR(o, 20)], [5]
        ),
    ),
    "three in turn": (
        {"name": "SequentialLR", "options": {
            "schedulers": [LINEAR, {"name": "ConstantLR", "factor": 0.5, "total_iters": 3},
                           {"name": "ExponentialLR", "gamma": 0.8}],
            "milestones": [6, 11]}},
        lambda o: theirs.SequentialLR(
            o, [theirs.LinearLR(o, 0.1, total_iters=5), theirs.ConstantLR(o, 0.5, 3), theirs.ExponentialLR(o, 0.8)],
            [6, 11],
        ),
    ),
    "chained": (
        {"name": "ChainedScheduler", "options": {"schedulers": [LINEAR, {"name": "StepLR", "step_size": 4}]}},
        lambda o: theirs.ChainedScheduler([theirs.LinearLR(o, 0.1, total_iters=5), theirs.StepLR(o, 4)]),
    ),
    "a sequence within a chain": (
        {"name": "ChainedScheduler", "options": {"schedulers": [
            {"name": "StepLR", "step_size": 9},
            {"name": "SequentialLR", "schedulers": [LINEAR, {"name": "ExponentialLR", "gamma": 0.9}],
             "milestones": [7]},
        ]}},
        lambda o: theirs.ChainedScheduler([
            theirs.StepLR(o, 9),
            theirs.SequentialLR(o, [theirs.LinearLR(o, 0.1, total_iters=5), theirs.ExponentialLR(o, 0.9)], [7]),
        ]),
    ),
    "restarts": (
        {"name": "SequentialLR", "options": {
            "schedulers": [LINEAR, {"name": "CosineAnnealingWarmRestarts", "T_0": 6}], "milestones": [5]}},
        lambda o: theirs.SequentialLR(
            o, [theirs.LinearLR(o, 0.1, total_iters=5), theirs.CosineAnnealingWarmRestarts(o, 6)], [5]
        ),
    ),
}  # fmt: skip


def stepped(make: Callable[[Optimizer], theirs.LRScheduler], rates: list[float], steps: int) -> list[list[float]]:
    """The slow oracle: torch's own scheduler on as many groups as there are rates."""
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own doing
        scheduler = make(optimizer)
        table = []
        for _ in range(steps):
            table.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
    return table


@pytest.mark.parametrize("case", NESTED)
def test_one_group_has_exactly_torchs_rates(case: str) -> None:
    options, make = NESTED[case]
    policy = make_policy("torch", options, lr=0.5, steps=25)
    assert [0.5 * policy(step) for step in range(25)] == [rates[0] for rates in stepped(make, [0.5], 25)]


@pytest.mark.parametrize("case", NESTED)
def test_every_group_of_a_plan_has_torchs_rates_in_the_plans_ratios(case: str, tiny: TinyNet) -> None:
    options, make = NESTED[case]
    plan = make_plan(tiny, lr=0.1, mult=0.7)
    table = plan.lr_table("torch", steps=25, **options)
    expected = torch.tensor(stepped(make, [group.lr for group in plan.groups], 25), dtype=torch.float64)
    assert torch.allclose(table, expected, rtol=1e-12, atol=0)
    ratios = table / table[:, :1]
    assert torch.allclose(ratios, ratios[:1].expand_as(ratios), rtol=1e-12, atol=0)


def test_lengths_that_are_left_out_are_those_of_the_part() -> None:
    left_out = {"schedulers": [LINEAR, {"name": "CosineAnnealingLR"}], "milestones": [5]}
    policy = make_policy("torch", {"name": "SequentialLR", "options": left_out}, lr=0.1, steps=25)
    assert policy(24) == pytest.approx(0, abs=1e-15)
    assert policy(5) == 1
    in_epochs = make_policy(
        "torch", {"name": "SequentialLR", "options": left_out, "interval": "epoch"}, lr=0.1, steps=250,
        steps_per_epoch=10,
    )  # fmt: skip
    assert [in_epochs(10 * epoch + 9) for epoch in range(25)] == [policy(epoch) for epoch in range(25)]


@pytest.mark.parametrize(("name", "options", "line"), [
    ("SequentialLR", {}, r"policy.options.schedulers=\?\?\?: must be a list of schedulers: \[\{name: LinearLR"),
    ("SequentialLR", {"schedulers": "LinearLR"}, "policy.options.schedulers=LinearLR: must be a list"),
    ("SequentialLR", {"schedulers": []}, r"policy.options.schedulers=\[\]: must be a list"),
    ("SequentialLR", {"schedulers": [LINEAR, COSINE]}, r"policy.options.milestones=\?\?\?: must be given: the 1 steps"),
    ("SequentialLR", {"schedulers": [LINEAR, COSINE], "milestones": [5, 9]}, r"=\[5, 9\]: 2 schedulers need 1"),
    ("SequentialLR", {"schedulers": [LINEAR, COSINE], "milestones": [0]}, r"milestones=\[0\]: needs rising steps"),
    ("SequentialLR", {"schedulers": [LINEAR, COSINE], "milestones": 5}, "milestones=5: needs rising steps"),
    ("ChainedScheduler", {"schedulers": [{"T_max": 5}]}, r"policy.options.schedulers.0=.*must have the name"),
    ("ChainedScheduler", {"schedulers": ["LinearLR"]}, r"policy.options.schedulers.0=LinearLR: must have the name"),
    ("ChainedScheduler", {"schedulers": [LINEAR, {"name": "CosineLR"}]},
     r"schedulers.1.name=CosineLR: no such class .* did you mean"),
    ("ChainedScheduler", {"schedulers": [{**LINEAR, "totl_iters": 3}]},
     r"schedulers.0.totl_iters=3: LinearLR has no such option; did you mean total_iters\?"),
    ("ChainedScheduler", {"schedulers": [{"name": "StepLR"}]}, r"schedulers.0=\{\}: StepLR refuses: .*step_size"),
    ("ChainedScheduler", {"schedulers": [LINEAR], "milestones": [3]}, "ChainedScheduler has no such option"),
    ("SequentialLR", {"schedulers": [LINEAR, {"name": "ChainedScheduler", "schedulers": [COSINE]}], "milestones": [5]},
     "schedulers.1.name=ChainedScheduler: torch can switch to a single scheduler only"),
    ("SequentialLR", {"schedulers": [LINEAR, {"name": "ReduceLROnPlateau"}], "milestones": [5]},
     "schedulers.1.name=ReduceLROnPlateau: is metric-driven"),
])  # fmt: skip
def test_a_mistake_is_named_by_its_place(name: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        make_policy("torch", {"name": name, "options": options}, lr=0.1, steps=25)


@pytest.mark.parametrize("case", NESTED)
def test_a_resumed_scheduler_goes_on_exactly(case: str, tiny: TinyNet) -> None:
    options, _ = NESTED[case]
    plan = make_plan(tiny, lr=0.1, mult=0.7)
    whole, first, second = (
        plan.scheduler(torch.optim.SGD(plan.param_groups()), "torch", steps=25, **options) for _ in range(3)
    )
    for scheduler in (whole, first):
        for _ in range(13):
            scheduler.optimizer.step()
            scheduler.step()
    second.load_state_dict(first.state_dict())
    for _ in range(11):
        assert second.rates() == whole.rates()
        for scheduler in (whole, second):
            scheduler.optimizer.step()
            scheduler.step()
