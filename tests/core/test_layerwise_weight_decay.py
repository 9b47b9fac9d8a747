"""Weight decay that changes with depth, and that which a group's rate leaves as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lwexp import ConfigError, make_plan
from tests.helpers.networks import TinyNet


def decays(plan: Any) -> list[tuple[str, float | None]]:
    return [(group["name"], group.get("weight_decay")) for group in plan.param_groups()]


def test_weight_decay_changes_by_a_factor_from_group_to_group(tiny: TinyNet) -> None:
    plan = make_plan(tiny, weight_decay=0.1, weight_decay_mult=0.5)
    assert decays(plan) == [("head", 0.1), ("blocks", 0.05), ("stem", 0.025)]
    rising = make_plan(tiny, weight_decay=0.1, weight_decay_mult=2, freeze="head", index_from="trained")
    assert decays(rising) == [("blocks", 0.1), ("stem", 0.2)]
    assert str(plan).splitlines()[-3].endswith("  0.1")
    assert "weight_decay=0.1 weight_decay_mult=0.5 plan" in str(plan)
    assert len({plan.hash, rising.hash, make_plan(tiny).hash, make_plan(tiny, weight_decay=0.1).hash}) == 4


@given(
    mult=st.floats(0.5, 1.5), weight_decay=st.floats(1e-4, 1), falls=st.floats(0.5, 1.5),
    lr_mults=st.sampled_from([{}, {"head": 10, "blocks.1": 0.5}]),
)  # fmt: skip
def test_rate_times_weight_decay_is_the_same_in_all_groups(
    mult: float, weight_decay: float, falls: float, lr_mults: dict[str, float]
) -> None:
    plan = make_plan(
        TinyNet(), lr=0.1, mult=mult, lr_mults=lr_mults, weight_decay=weight_decay, weight_decay_mult=falls,
        independent_weight_decay=True,
    )  # fmt: skip
    for group, position in zip(plan.param_groups(), plan.positions(plan.param_groups()), strict=True):
        assert position is not None
        expected = 0.1 * weight_decay * falls ** plan.groups[position].index
        assert group["lr"] * group["weight_decay"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("policy", ["constant", "cosine"])
def test_adamw_shrinks_all_groups_alike(policy: str) -> None:
    """Without gradients a step of AdamW only multiplies the weights by 1 - lr * weight_decay, here of each group."""
    model = TinyNet()
    before = copy.deepcopy(model)
    plan = make_plan(model, lr=0.1, mult=0.5, weight_decay=0.2, independent_weight_decay=True)
    optimizer = plan.optimizer("adamw")
    scheduler = plan.scheduler(optimizer, policy, steps=5)
    factor = 1.0
    for step in range(3):
        factor *= 1 - 0.2 * float(plan.lr_table(policy, steps=5)[step][0])
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        scheduler.step()
    for p, old in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(p, old * factor)


def test_patterns_and_no_weight_decay_are_above_it(tiny: TinyNet) -> None:
    plan = make_plan(
        tiny, weight_decay=0.1, weight_decay_mult=0.5, group_options={"blocks.1": {"weight_decay": 0.7}},
        no_weight_decay=["*.bias"],
    )  # fmt: skip
    assert decays(plan) == [
        ("head", 0.1), ("head:no_weight_decay", 0.0),
        ("blocks", 0.05), ("blocks:blocks.1", 0.7), ("blocks:no_weight_decay", 0.0),
        ("stem", 0.025), ("stem:no_weight_decay", 0.0),
    ]  # fmt: skip


def test_a_group_at_rate_0_keeps_the_weight_decay_of_the_others(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr_overrides={"stem": 0}, weight_decay=0.1, independent_weight_decay=True, mult=0.5)
    assert decays(plan) == [("head", 0.1), ("blocks", 0.2), ("stem", 0.1)]


def test_it_trains_like_torchs_optimizer_with_the_values_written_out() -> None:
    ends = []
    for by_hand in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))
        optimizer: torch.optim.Optimizer
        if by_hand:
            written = [(2, 0.1, 0.3), (1, 0.05, 0.3 * 0.5 * 0.1 / 0.05), (0, 0.025, 0.3 * 0.25 * 0.1 / 0.025)]
            groups = [{"params": list(model[i].parameters()), "lr": lr, "weight_decay": wd} for i, lr, wd in written]
            optimizer = torch.optim.AdamW(groups, fused=True)
        else:
            plan = make_plan(
                model, lr=0.1, mult=0.5, weight_decay=0.3, weight_decay_mult=0.5, independent_weight_decay=True
            )
            optimizer = plan.optimizer("adamw", weight_decay=0.3)
        for step in range(4):
            optimizer.zero_grad()
            model(torch.full((2, 4), float(step))).square().mean().backward()
            optimizer.step()
        ends.append([p.detach().clone() for p in model.parameters()])
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_a_schedule_of_the_weight_decay_keeps_the_ratios(tiny: TinyNet) -> None:
    plan = make_plan(tiny, weight_decay=0.1, weight_decay_mult=0.5, group_options={"head": {"weight_decay": 0.2}})
    optimizer = plan.optimizer("adamw")
    assert optimizer.defaults["weight_decay"] == 0.1
    scheduler = plan.scheduler(optimizer, steps=10, weight_decay_policy={"name": "linear", "end": 0.4})
    for _ in range(9):
        optimizer.step()
        scheduler.step()
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.8, 0.2, 0.1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weight_decay_mult": 0.5}, "weight_decay_mult=0.5: weight_decay must be given with it"),
        ({"independent_weight_decay": True}, "independent_weight_decay=True: weight_decay must be given with it"),
        ({"weight_decay": 0, "weight_decay_mult": 0.5}, "weight_decay_mult=0.5: weight_decay is 0"),
        ({"weight_decay": -1}, "weight_decay=-1: must be at least 0"),
        ({"weight_decay": 1, "weight_decay_mult": 0}, "weight_decay_mult=0: must be above 0"),
        ({"weight_decay": 1, "independent_weight_decay": "yes"}, "independent_weight_decay=yes: must be true or false"),
    ],
)
def test_mistakes(tiny: TinyNet, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        make_plan(tiny, **settings)


def test_an_optimizer_without_weight_decay_or_with_another_one_is_refused(tiny: TinyNet) -> None:
    plan = make_plan(tiny, weight_decay=0.1, weight_decay_mult=0.5)
    with pytest.raises(ConfigError, match=r"^weight_decay=0.1: rprop has no weight decay"):
        plan.optimizer("rprop")
    with pytest.raises(ConfigError, match=r"^optimizer.weight_decay=0.2: the plan was made with weight_decay=0.1"):
        plan.optimizer("adamw", weight_decay=0.2)
