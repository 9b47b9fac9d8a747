"""The scheduler in loops that are not ours: groups that join, metrics, pickles and states of others."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from lwexp import ConfigError, PlanScheduler, make_plan
from tests.core.test_policy import OPTIONS
from tests.helpers.networks import TinyNet


def made(policy: str = "cosine", **options: Any) -> PlanScheduler:
    plan = make_plan(TinyNet(), lr=0.1, mult=0.5)
    return plan.scheduler(plan.optimizer("sgd"), policy, **{"steps": 20, **OPTIONS[policy], **options})


def steps(scheduler: PlanScheduler, count: int = 1) -> list[list[float]]:
    rows = []
    for _ in range(count):
        scheduler.optimizer.step()
        scheduler.step()
        rows.append(scheduler.rates())
    return rows


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_groups_that_join_later_keep_their_own_rate(optimizer: str) -> None:
    """As Lightning's BackboneFinetuning adds them, which then moves their rate by itself."""
    model = TinyNet()
    model.stem.requires_grad_(False)
    plan = make_plan(model, lr=0.1, mult=0.5)
    scheduler = plan.scheduler(plan.optimizer(optimizer), "cosine", steps=20)
    expected = plan.lr_table("cosine", steps=20).tolist()
    steps(scheduler, 3)
    model.stem.requires_grad_(True)
    scheduler.optimizer.add_param_group({"params": [*model.stem.parameters()], "lr": 0.033})
    scheduler.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.044, "name": "new"})
    for step in range(4, 8):
        scheduler.optimizer.param_groups[-1]["lr"] *= 2
        steps(scheduler)
        assert scheduler.rates() == expected[step]
        assert len(scheduler.get_last_lr()) == len(scheduler.optimizer.param_groups) == 4
        assert [g["lr"] for g in scheduler.optimizer.param_groups[-2:]] == [0.033, 0.044 * 2 ** (step - 3)]
    scheduler.set_lr("head", 0.5)
    assert scheduler.group_lr("head") == 0.5


def test_groups_that_join_with_parameters_of_the_plan_follow_it() -> None:
    """Nameless, in one or in parts; a mixture of the plan's groups keeps its own rate."""
    model = TinyNet()
    plan = make_plan(model, lr=0.1, mult=0.5)
    groups = [{"params": g["params"][:1], "lr": g["lr"], "name": g["name"]} for g in plan.param_groups()]
    optimizer = torch.optim.SGD(groups)
    scheduler = plan.scheduler(optimizer, "linear", steps=11)
    steps(scheduler, 2)
    rest = [g["params"][1:] for g in plan.param_groups()]
    optimizer.add_param_group({"params": rest[1][:3], "lr": 7.0})
    optimizer.add_param_group({"params": [*rest[1][3:], *rest[0]], "lr": 9.0})
    steps(scheduler)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.07, 0.035, 0.0175, 0.035, 9.0])


def test_an_optimizer_whose_names_were_lost_is_matched_by_its_parameters() -> None:
    """A state saved without names takes them away; so does a plain list of groups."""
    model = TinyNet()
    plan = make_plan(model, lr=0.1, mult=0.5)
    nameless = [{"params": g["params"], "lr": g["lr"]} for g in plan.param_groups()]
    optimizer = plan.optimizer("sgd")
    optimizer.load_state_dict(torch.optim.SGD(nameless).state_dict())
    assert "name" not in optimizer.param_groups[0]
    for each in (optimizer, torch.optim.SGD(nameless[::-1])):
        scheduler = plan.scheduler(each, "cosine", steps=20)
        assert steps(scheduler, 5) == plan.lr_table("cosine", steps=20)[1:6].tolist()
    scheduler = plan.scheduler(named := plan.optimizer("sgd"), "cosine", steps=20)
    named.load_state_dict(torch.optim.SGD(nameless).state_dict())  # after the scheduler was made
    assert steps(scheduler, 5) == plan.lr_table("cosine", steps=20)[1:6].tolist()


@pytest.mark.parametrize("as_a", [float, torch.tensor, lambda value: {"val/loss": value, "other": 0.0}, int])
def test_step_with_metrics_observes_as_torchs_reduce_on_plateau(as_a: Any) -> None:
    ours = made("plateau", patience=1, factor=0.5)
    p = nn.Parameter(torch.ones(1))
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(torch.optim.SGD([p], lr=0.1), patience=1, factor=0.5)
    for value in (3, 2, 2, 2, 2, 1, 1, 1, 1, 1):
        steps(ours, 2)
        before = ours.last_epoch
        ours.step(as_a(value))
        theirs.step(float(value))  # type: ignore[arg-type]
        assert ours.last_epoch == before
        assert ours.get_last_lr()[0] == pytest.approx(theirs.get_last_lr()[0])
    assert ours.rates()[0] < 0.1


def test_a_metric_for_a_policy_that_observes_none_is_refused() -> None:
    scheduler = made("cosine")
    for metrics in (0.5, torch.tensor(1.0), {"val/loss": 1.0}):
        with pytest.raises(
            ConfigError, match=r"^policy=cosine: observes no metric; call scheduler.step\(\) after each"
        ):
            scheduler.step(metrics)
    assert scheduler.last_epoch == 0
    with pytest.raises(ConfigError, match=r"policy.metric=val/loss: no such metric"):
        made("plateau").step({"loss": 1.0})


def test_a_warm_up_in_steps_needs_steps() -> None:
    """Calls once an epoch would leave the rates at the start of the warm-up."""
    said = r"^policy.warmup_steps=10: the warm-up counts optimizer steps: call scheduler.step\(\) after each"
    scheduler = made("plateau", warmup_steps=10)
    scheduler.step(0.5)  # an evaluation before the training
    scheduler.optimizer.step()
    with pytest.raises(ConfigError, match=said):
        scheduler.step(0.5)
    scheduler = made("plateau", warmup_steps=10)
    steps(scheduler, 3)
    scheduler.step(0.5)
    steps(scheduler, 1)
    scheduler.step(0.5)
    scheduler.optimizer.step()
    with pytest.raises(ConfigError, match=said):
        scheduler.step(0.5)
    held = made("plateau")
    held.optimizer.step()
    held.step(0.5)  # without a warm-up an epoch at a time is fine


class Sawtooth:
    """A policy of a user's own."""

    def __call__(self, step: int) -> float:
        return 1.0 - 0.1 * (step % 5)


@pytest.mark.parametrize(
    "copy_of", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
@pytest.mark.parametrize("policy", [*OPTIONS, "custom"])
def test_a_pickled_scheduler_goes_on_with_its_optimizer(policy: str, copy_of: Any) -> None:
    plan = make_plan(TinyNet(), lr=0.1, mult=0.5, no_weight_decay=True)
    chosen: Any = Sawtooth() if policy == "custom" else policy
    options: Any = {"warmup_steps": 2, "unfreeze_every_steps": 3, **OPTIONS.get(policy, {})}
    scheduler = plan.scheduler(plan.optimizer("adam"), chosen, steps=20, **options)
    steps(scheduler, 4)
    scheduler.set_lr(1, 0.3)
    for value in (1.0, 1.0, 1.0, 1.0):
        scheduler.observe({"val/loss": value})
    twin = copy_of(scheduler)
    assert twin.optimizer is not scheduler.optimizer
    assert twin.rates() == scheduler.rates()
    for _ in range(3):
        for each in (scheduler, twin):
            each.observe({"val/loss": 1.0})
            steps(each, 3)
        assert twin.rates() == scheduler.rates()
    assert scheduler.state_dict() == twin.state_dict()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (("linear", {}), ("cosine", {}), "policy=cosine: .*policy was linear, is cosine"),
        (("cosine", {}), ("cosine", {"steps": 40}), "policy=cosine: .*steps was 20, is 40"),
        (("cosine", {}), ("cosine", {"warmup_steps": 5}), "policy.warmup_steps was 0, is 5"),
        (
            ("cosine", {}),
            ("cosine", {"min_lr": 0.01}),
            r"policy.floor was 0.0, is 0.0999*|policy.floor was 0.0, is 0.1",
        ),
        (("cosine", {}), ("cosine", {"unfreeze_every_steps": 3}), "unfreeze.every_steps was null, is 3"),
        (("step", {}), ("step", {"gamma": 0.5}), "policy.gamma was 0.1, is 0.5"),
        (("plateau", {}), ("plateau", {"patience": 9}), "policy.patience was 2, is 9"),
        (
            ("torch", {}),
            ("torch", {"name": "StepLR", "options": {"step_size": 3}}),
            "policy.name was CosineAnnealingLR",
        ),
        (("torch", {}), ("torch", {"steps": 30}), "steps was 20, is 30"),
    ],
)
def test_a_state_of_another_policy_or_length_is_refused_with_the_difference(
    before: tuple[str, dict[str, Any]], after: tuple[str, dict[str, Any]], said: str
) -> None:
    saved, other = made(before[0], **before[1]), made(after[0], **after[1])
    steps(saved, 3)
    rates = other.rates()
    with pytest.raises(ConfigError, match=said):
        other.load_state_dict(saved.state_dict())
    assert other.rates() == rates
    other.load_state_dict(saved.state_dict(), remap=True)
    assert other.last_epoch == 3


def test_a_state_of_equal_rates_is_taken() -> None:
    """A default written out; another length where the policy has none; a state of before, without settings."""
    for before, after in (
        (("step", {}), ("step", {"gamma": 0.1})),
        (("constant", {}), ("constant", {"steps": 40})),
        (("step", {}), ("step", {"steps": None})),
        (("torch", {"name": "StepLR", "options": {"step_size": 3}, "steps": 9}),
         ("torch", {"name": "StepLR", "options": {"step_size": 3}})),
    ):  # fmt: skip
        saved, other = made(before[0], **before[1]), made(after[0], **after[1])
        steps(saved, 3)
        file = io.BytesIO()
        torch.save(saved.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        assert steps(other, 2) == steps(saved, 2)
    state = made("cosine").state_dict()
    del state["settings"]
    made("linear").load_state_dict(state)
