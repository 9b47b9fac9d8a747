"""Policies and conventions that other libraries have: rates equal theirs to the last digit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lwexp import ConfigError, make_plan
from lwexp.core.policy import make_policy
from lwexp.core.shapes import ALIASES, POLICIES
from tests.helpers.networks import TinyNet


def optimizer_with(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates_of(scheduler: Any, steps: int) -> list[float]:
    """The rate that each step of a foreign scheduler uses."""
    rates = []
    for _ in range(steps):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def ours(name: str, steps: int, lr: float, **options: Any) -> list[float]:
    policy = make_policy(name, options, lr=lr, steps=steps)
    return [lr * policy(t) for t in range(steps)]


@pytest.mark.parametrize("lr", [3e-5, 0.1])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (7, 3), (100, 0), (137, 10), (1000, 63)])
def test_transformers_convention_equals_its_schedules_to_the_last_digit(steps: int, warmup: int, lr: float) -> None:
    transformers = pytest.importorskip("transformers")
    for name, theirs, options, own in (
        ("cosine", transformers.get_cosine_schedule_with_warmup, {}, {}),
        ("linear", transformers.get_linear_schedule_with_warmup, {}, {}),
        (
            "cosine_restarts",
            transformers.get_cosine_with_hard_restarts_schedule_with_warmup,
            {"num_cycles": 3},
            {"cycles": 3},
        ),
    ):
        scheduler = theirs(optimizer_with(lr), num_warmup_steps=warmup, num_training_steps=steps, **options)
        expected = rates_of(scheduler, steps)
        assert ours(name, steps, lr, convention="transformers", warmup_steps=warmup, **own) == expected, name
    scheduler = transformers.get_constant_schedule_with_warmup(optimizer_with(lr), num_warmup_steps=warmup)
    assert ours("constant", steps, lr, convention="transformers", warmup_steps=warmup) == rates_of(scheduler, steps)


def test_without_it_the_last_step_has_the_end_value() -> None:
    assert ours("linear", 5, 1.0, warmup_steps=2)[0] == 0.5
    assert ours("linear", 5, 1.0, warmup_steps=2)[-1] == 0.0
    assert ours("linear", 5, 1.0, warmup_steps=2, convention="transformers") == [0, 0.5, 1, 2 / 3, 1 / 3]


@pytest.mark.parametrize(("first", "mult"), [(1, 1), (5, 1), (4, 2), (3, 3), (1, 2)])
def test_cosine_restarts_equals_torchs_class_to_the_last_digit(first: int, mult: int) -> None:
    make = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
    expected = rates_of(make(optimizer_with(0.1), T_0=first, T_mult=mult), 60)
    assert ours("cosine_restarts", 60, 0.1, cycle_steps=first, cycle_mult=mult) == expected


def test_cycles_fill_the_training_or_end_after_so_many() -> None:
    cycles = ours("cosine_restarts", 9, 1.0, cycles=2)
    assert cycles == pytest.approx([1, *(math.cos(math.pi * t / 8) ** 2 for t in (1, 2, 3))] * 2 + [0])
    assert ours("cosine_restarts", 13, 1.0, cycles=2, cycle_mult=2)[4] == 1  # a third, then two thirds
    assert ours("cosine_restarts", 9, 1.0) == pytest.approx(ours("cosine", 9, 1.0))
    limited = ours("cosine_restarts", 9, 1.0, cycles=2, cycle_steps=2)
    assert limited == pytest.approx([1, 0.5, 1, 0.5, 0, 0, 0, 0, 0])
    limited = ours("cosine_restarts", 9, 1.0, cycles=2, cycle_steps=1, cycle_mult=2)
    assert limited == pytest.approx([1, 1, 0.5, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_rex_is_the_formula_of_its_paper(beta: float) -> None:
    """Its z is t / T; other implementations: pytorch_optimizer (beta 1/2), IvanVassi/REX_LR (0.9), init2winit."""
    steps = 40
    expected = [0.1 * ((1 - t / steps) / ((1 - beta) + beta * (1 - t / steps))) for t in range(steps)]
    assert ours("rex", steps, 0.1, beta=beta, convention="transformers") == pytest.approx(expected, rel=1e-15)
    if beta == 0.5:
        assert expected[20] == pytest.approx(0.1 * 2 / 3)
    assert ours("rex", steps, 0.1, beta=beta)[-1] == 0


@pytest.mark.parametrize(("fraction", "steps", "count"), [(0.1, 100, 10), (0.06, 73, 5), (0.5, 3, 2), (1.0, 4, 4)])
def test_warm_up_as_a_fraction_is_rounded_up_as_the_trainer_does(fraction: float, steps: int, count: int) -> None:
    assert ours("cosine", steps, 0.1, warmup_fraction=fraction) == ours("cosine", steps, 0.1, warmup_steps=count)


def test_warm_up_in_epochs_counts_their_steps() -> None:
    plan = make_plan(TinyNet(), lr=0.1)
    by_epochs = plan.lr_table("linear", steps=40, steps_per_epoch=8, warmup_epochs=1.5)
    assert torch.equal(by_epochs, plan.lr_table("linear", steps=40, warmup_steps=12))
    assert torch.equal(
        plan.lr_table("linear", steps=40, warmup_epochs=0), plan.lr_table("linear", steps=40, warmup_fraction=0)
    )


@pytest.mark.parametrize(
    ("options", "steps", "said"),
    [
        ({"warmup_fraction": 0.1, "warmup_steps": 5}, 50, "policy.warmup_fraction=0.1: is given beside warmup_steps=5"),
        ({"warmup_fraction": 1.5}, 50, "policy.warmup_fraction=1.5: must be from 0 to 1"),
        ({"warmup_fraction": -0.5}, 50, "policy.warmup_fraction=-0.5: must be at least 0"),
        ({"warmup_epochs": 7}, 50, "policy.warmup_epochs=7.0: the warm-up is longer than the training of 50 steps"),
        ({"warmup_fraction": 0.1}, None, "policy.warmup_fraction=0.1: needs the number of optimizer steps"),
        ({"convention": "huggingface"}, 50, "policy.convention=huggingface: not among the choices; .*transformers"),
    ],
)
def test_mistakes_about_the_warm_up_name_its_option(options: dict[str, Any], steps: int | None, said: str) -> None:
    plan = make_plan(TinyNet(), lr=0.1)
    with pytest.raises(ConfigError, match=f"^{said}"):
        plan.schedule("constant", steps=steps, steps_per_epoch=10, **options)


@pytest.mark.parametrize(
    ("policy", "options", "said"),
    [
        ("rex", {"beta": 1}, "policy.beta=1.0: must be below 1"),
        ("cosine_restarts", {"cycles": 0}, "policy.cycles=0: must be at least 1"),
        ("cosine_restarts", {"cycle_steps": 2.5}, "policy.cycle_steps=2.5: must be a whole number"),
        ("cosine_restart", {}, "policy=cosine_restart: no such policy; did you mean cosine_restarts"),
    ],
)
def test_mistakes_about_a_policy(policy: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        make_policy(policy, options, lr=0.1, steps=10)


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_its_policy(alias: str) -> None:
    options = {"milestones": [3]} if alias == "multi_step" else {}
    plan = make_plan(TinyNet(), lr=0.1)
    ours, named = (plan.scheduler(plan.optimizer("sgd"), n, steps=9, **options) for n in (alias, ALIASES[alias]))
    assert ALIASES[alias] in POLICIES
    assert alias not in POLICIES
    for _ in range(9):
        assert ours.rates() == named.rates()
        ours.optimizer.step()
        ours.step()
        named.optimizer.step()
        named.step()
    named.load_state_dict(ours.state_dict())
    ours.load_state_dict(named.state_dict())


def test_a_state_of_another_convention_is_refused() -> None:
    plan = make_plan(TinyNet(), lr=0.1)
    saved = plan.scheduler(plan.optimizer("sgd"), "cosine", steps=9, convention="transformers").state_dict()
    with pytest.raises(ConfigError, match=r"policy.convention was transformers, is lwexp"):
        plan.scheduler(plan.optimizer("sgd"), "cosine", steps=9).load_state_dict(saved)
    same = plan.scheduler(plan.optimizer("sgd"), "cosine", steps=10, warmup_fraction=0.2).state_dict()
    plan.scheduler(plan.optimizer("sgd"), "cosine", steps=10, warmup_steps=2).load_state_dict(same)


def test_lr_scale_by_option_makes_timms_schedulers_keep_the_ratios() -> None:
    """They overwrite each group's rate with one value times its `lr_scale`; without the option there is no such key."""
    from timm.scheduler import CosineLRScheduler

    plan = make_plan(TinyNet(), lr=0.1, mult=0.5, freeze=["stem"], freeze_mode="lr_zero")
    assert not any("lr_scale" in group for group in plan.param_groups())
    optimizer = torch.optim.SGD(plan.param_groups(lr_scale=True))
    assert [(g["lr"], g["lr_scale"]) for g in optimizer.param_groups] == [(0.1, 1.0), (0.1, 0.5), (0.1, 0.0)]
    scheduler = CosineLRScheduler(optimizer, t_initial=20, warmup_t=4, warmup_lr_init=0.01, t_in_epochs=False)
    plain = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    expected = CosineLRScheduler(plain, t_initial=20, warmup_t=4, warmup_lr_init=0.01, t_in_epochs=False)
    for step in range(20):
        (rate,) = [g["lr"] for g in plain.param_groups]
        assert [g["lr"] for g in optimizer.param_groups] == [rate, rate * 0.5, 0.0]
        scheduler.step_update(step + 1)
        expected.step_update(step + 1)
