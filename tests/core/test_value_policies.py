"""Schedules of weight decay and momentum: torch's and DINO's values, in every group, exactly after a resume."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch

from lwexp import ConfigError, make_plan
from tests.helpers.networks import TinyNet

DINO = {"name": "cosine", "end": 0.4}


def momentums(optimizer: torch.optim.Optimizer) -> list[float]:
    return [g["momentum"] if "momentum" in g else g["betas"][0] for g in optimizer.param_groups]


def run(scheduler: Any, steps: int, key: str) -> list[list[float]]:
    rows = []
    for _ in range(steps):
        rows.append(
            momentums(scheduler.optimizer) if key == "momentum" else [g[key] for g in scheduler.optimizer.param_groups]
        )
        scheduler.optimizer.step()
        scheduler.step()
    return rows  # fmt: skip


@pytest.mark.parametrize(("optimizer", "options"), [("sgd", {"momentum": 0.9}), ("adam", {"betas": (0.9, 0.99)})])
@pytest.mark.parametrize(
    ("steps", "cycle"),
    [
        (100, {}),
        (37, {"pct_start": 0.25}),
        (50, {"pct_start": 0.6, "base": 0.8, "max": 0.99}),
        (10, {"pct_start": 0.1}),
        (10, {"pct_start": 0.0}),
    ],
)
def test_onecycle_equals_torchs_to_the_last_digit(
    steps: int, cycle: dict[str, Any], optimizer: str, options: dict[str, Any]
) -> None:
    model = TinyNet()
    plan = make_plan(model, lr=0.1, mult=0.5)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    theirs_of: Any = kind(model.parameters(), lr=0.1, **options)
    given = {f"{key}_momentum" if key in ("base", "max") else key: value for key, value in cycle.items()}
    if cycle.get("pct_start") == 0.1:  # torch divides by its peak at 0
        given["pct_start"] = cycle["pct_start"] = 0.11
    theirs = torch.optim.lr_scheduler.OneCycleLR(theirs_of, max_lr=0.1, total_steps=steps, **given)
    policy = {"name": "onecycle", **cycle}
    ours = plan.scheduler(plan.optimizer(optimizer, **options), "onecycle", steps=steps, momentum_policy=policy,
                          pct_start=cycle.get("pct_start", 0.3))  # fmt: skip
    expected = run(theirs, steps, "momentum")
    found = run(ours, steps, "momentum")
    assert found == [row * 3 for row in expected]
    if optimizer == "adam":
        assert all(g["betas"][1] == 0.99 for g in ours.optimizer.param_groups)


def test_the_cycle_has_its_peak_where_that_of_the_rates_is() -> None:
    plan = make_plan(TinyNet())
    options: dict[str, Any] = {"steps": 40, "pct_start": 0.55, "momentum_policy": "onecycle"}
    scheduler = plan.scheduler(plan.optimizer("adam"), "onecycle", **options)
    found = [row[0] for row in run(scheduler, 40, "momentum")]
    assert found.index(min(found)) == plan.lr_table("onecycle", steps=40, pct_start=0.55)[:, 0].argmax() == 21


def test_weight_decay_is_dinos() -> None:
    """utils.cosine_scheduler of facebookresearch/dino: end + (start - end) / 2 * (1 + cos(pi * t / T))."""
    plan = make_plan(TinyNet(), no_weight_decay=True)
    optimizer = plan.optimizer("adamw", weight_decay=0.04)
    scheduler = plan.scheduler(
        optimizer, "cosine", steps=50, weight_decay_policy={**DINO, "convention": "transformers"}
    )
    decayed = ["no_weight_decay" not in g["name"] for g in optimizer.param_groups]
    assert not all(decayed)
    for t, row in enumerate(run(scheduler, 50, "weight_decay")):
        value = 0.4 + 0.5 * (0.04 - 0.4) * (1 + math.cos(math.pi * t / 50))
        assert row == [pytest.approx(value, rel=1e-14) if own else 0 for own in decayed]
    plain = plan.scheduler(plan.optimizer("adamw", weight_decay=0.04), steps=50, weight_decay_policy=DINO)
    assert run(plain, 50, "weight_decay")[-1][0] == 0.4  # the last step has the end value
    assert plain.values(49) == {"weight_decay": 0.4}


@pytest.mark.parametrize("settings", [{}, {"weight_decay_mult": 0.5}, {"independent_weight_decay": True}])
def test_the_weight_decay_of_the_plan_ends_at_its_end_in_any_optimizer(settings: dict[str, Any]) -> None:
    """Not in relation to what the optimizer's class has for groups that do not say: AdamW's 0.01."""
    plan = make_plan(TinyNet(), weight_decay=0.05, **settings)
    own = torch.optim.AdamW(plan.param_groups())
    before = [group["weight_decay"] for group in own.param_groups]
    for optimizer in (own, plan.optimizer("adamw")):
        rows = run(
            plan.scheduler(optimizer, steps=11, weight_decay_policy={"name": "linear", "end": 0.4}), 11, "weight_decay"
        )
        assert rows[0] == pytest.approx(before)
        assert rows[-1] == pytest.approx([0.4 * value / 0.05 for value in before])
        assert rows[-1][0] == pytest.approx(0.4)


def test_groups_keep_the_ratios_of_their_own_weight_decay() -> None:
    plan = make_plan(TinyNet(), group_options={"head": {"weight_decay": 0.2}})
    policy = {"name": "linear", "end": 0.0}
    scheduler = plan.scheduler(plan.optimizer("adamw", weight_decay=0.1), steps=11, weight_decay_policy=policy)
    rows = run(scheduler, 11, "weight_decay")
    assert rows[0] == [0.2, 0.1, 0.1]  # exactly
    assert rows[5] == pytest.approx([0.1, 0.05, 0.05])
    assert rows[10] == [0, 0, 0]


def test_a_warm_up_of_momentum_ends_after_its_steps() -> None:
    plan = make_plan(TinyNet())
    policy = {"name": "linear", "start": 0.85, "end": 0.95, "steps": 6}
    scheduler = plan.scheduler(plan.optimizer("sgd", momentum=0.9), steps=20, momentum_policy=policy)
    found = [row[0] for row in run(scheduler, 20, "momentum")]
    assert found[:6] == pytest.approx([0.85, 0.87, 0.89, 0.91, 0.93, 0.95])
    assert found[6:] == [0.95] * 14


@pytest.mark.parametrize("optimizer_first", [True, False])
def test_a_resumed_training_is_the_same_bit_for_bit(optimizer_first: bool) -> None:
    """Whether the optimizer's state is loaded before the scheduler is made or after it."""
    options: dict[str, Any] = {"steps": 20, "weight_decay_policy": DINO, "momentum_policy": "onecycle"}

    def start() -> tuple[TinyNet, Any]:
        torch.manual_seed(0)
        model = TinyNet()
        plan = make_plan(model, lr=0.01, no_weight_decay=True)
        return model, plan.scheduler(plan.optimizer("adamw", weight_decay=0.04), "onecycle", **options)

    def steps(model: TinyNet, scheduler: Any, numbers: range) -> None:
        for number in numbers:
            for p in model.parameters():
                p.grad = torch.full_like(p, math.sin(number))
            scheduler.optimizer.step()
            scheduler.step()

    whole, scheduler = start()
    steps(whole, scheduler, range(20))
    half, scheduler = start()
    steps(half, scheduler, range(8))
    resumed = TinyNet()
    resumed.load_state_dict(half.state_dict())
    plan = make_plan(resumed, lr=0.01, no_weight_decay=True)
    optimizer = plan.optimizer("adamw", weight_decay=0.04)
    if optimizer_first:
        optimizer.load_state_dict(scheduler.optimizer.state_dict())
    again = plan.scheduler(optimizer, "onecycle", **options)
    optimizer.load_state_dict(scheduler.optimizer.state_dict())
    again.load_state_dict(scheduler.state_dict())
    assert pickle.loads(pickle.dumps(again)).values() == again.values() == scheduler.values()
    steps(resumed, again, range(8, 20))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("other", [{**DINO, "end": 0.5}, {"name": "linear", "end": 0.4}, None])
def test_a_state_of_another_schedule_is_refused(other: Any) -> None:
    plan = make_plan(TinyNet())

    def made(policy: Any) -> Any:
        return plan.scheduler(plan.optimizer("adamw"), steps=20, weight_decay_policy=policy)

    saved = made(DINO).state_dict()
    made(DINO).load_state_dict(saved)
    with pytest.raises(ConfigError, match=r"saved with others: weight_decay_policy\.(end|name)"):
        made(other).load_state_dict(saved)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weight_decay_policy": {"name": "cosin", "end": 1}}, "weight_decay_policy=cosin: no such .*mean cosine"),
        ({"weight_decay_policy": {"name": "onecycle"}}, "weight_decay_policy=onecycle: no such policy of a value"),
        ({"weight_decay_policy": {"name": "cosine"}}, r"weight_decay_policy.end=\?\?\?: must be given"),
        ({"weight_decay_policy": {"end": 1}}, r"weight_decay_policy.name=\?\?\?: must be given"),
        ({"weight_decay_policy": {**DINO, "end": -1}}, "weight_decay_policy.end=-1.0: must be at least 0"),
        ({"weight_decay_policy": {**DINO, "power": 2}}, "weight_decay_policy.power=2: unknown option"),
        ({"weight_decay_policy": 0.4}, "weight_decay_policy=0.4: must be a mapping"),
        ({"momentum_policy": {"name": "linear", "end": 1.5}}, "momentum_policy.end=1.5: must be from 0 to 1"),
        ({"momentum_policy": {"name": "onecycle", "base": 0.99}}, "momentum_policy.base=0.99: is above max=0.95"),
        ({"momentum_policy": {"name": "onecycle", "end": 1}}, "momentum_policy.end=1: unknown option"),
        ({"momentum_policy": "onecycle", "steps": None}, "steps=null: momentum_policy needs the number of"),
    ],
)  # fmt: skip
def test_mistakes_name_their_key(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        make_plan(TinyNet()).schedule(**{"steps": 20, **options})


def test_an_optimizer_without_the_value_is_refused() -> None:
    plan = make_plan(TinyNet())
    with pytest.raises(ConfigError, match=r"^weight_decay_policy=cosine: the optimizer \w+ has no weight decay"):
        plan.scheduler(plan.optimizer("adam"), steps=20, weight_decay_policy=DINO)
    with pytest.raises(ConfigError, match=r"^momentum_policy=onecycle: the optimizer Adagrad has neither"):
        plan.scheduler(plan.optimizer("adagrad"), steps=20, momentum_policy="onecycle")
