"""Measured decays in plans, schedules and loops of one's own: bounds, smoothing, timing, a new head, mistakes."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import lwexp
from lwexp import ConfigError, Plan, PlanScheduler, make_plan
from tests.helpers.measured_decays import Given, GradientNorms
from tests.helpers.tiny_training import flat

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8), nn.Linear(8, 2))


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def scheduler_of(plan: Plan, policy: Any = "constant", **options: Any) -> PlanScheduler:
    return plan.scheduler(plan.optimizer("adam"), policy, **{"steps_per_epoch": 1, **options})


def train(scheduler: PlanScheduler, model: nn.Module, steps: int) -> list[dict[str, float] | None]:
    found = []
    for _ in range(steps):
        found.append(scheduler.measure(model, loss, [X, X + 1]))
        scheduler.optimizer.zero_grad()
        loss(model, X).backward()
        scheduler.optimizer.step()
        scheduler.step()
    return found


def test_before_training_the_plan_says_what_it_cannot_know() -> None:
    plan = make_plan(network(), decay=GradientNorms(), lr=0.1)
    text = str(plan)
    assert "the scales are measured from gradients before the first step and every epoch" in text
    assert text.count("  measured  ") == len(plan), "no scale is made up"
    with pytest.raises(ConfigError, match="is measured, so its rates are not known before training"):
        plan.lr_table(steps=3)
    assert not plan.uniform
    assert plan.hash != make_plan(network(), decay="none", lr=0.1).hash
    assert plan.hash != make_plan(network(), decay=GradientNorms(smoothing=0.5), lr=0.1).hash
    assert Plan.from_json(plan.to_json()).hash == plan.hash


def test_measured_scales_multiply_whatever_else_gives_rates() -> None:
    model = network()
    plan = make_plan(
        model, decay=Given(given=[[0.5, 0.25, 2.0, 0.0]]), lr=0.1, lr_mults={"3": 10}, lr_overrides={"0.bias": 0.03}
    )
    scheduler = scheduler_of(
        plan, "cosine", steps=10, min_lr=0.01, phases=[{"steps": 5, "lr_factor": 0.5}, {}],
        lr_events=[{"step": 3, "group": "1", "lr": 0.007}],
    )  # fmt: skip
    names = [g.name for g in plan]
    assert names == ["4", "3", "1", "0", "0.bias"]
    first = scheduler.measure(model, loss, [X])
    assert first == {"4": 0.5, "3": 0.25, "1": 2.0, "0": 0.0, "0.bias": 1.0}
    rates = dict(zip(names, scheduler.rates(), strict=True))
    assert rates == pytest.approx({"4": 0.025, "3": 0.125, "1": 0.1, "0": 0.0, "0.bias": 0.015})
    table = scheduler.schedule.table(range(10))
    # the phase ends at its floor, 0.01 of the base rate 0.05; an event is above the scale
    assert table[4].tolist() == pytest.approx([0.005, 0.025, 0.007, 0.0, 0.003])


def test_a_loop_of_ones_own_measures_when_it_is_due_and_is_not_disturbed() -> None:
    plain, model = network(), network()
    unmeasured = scheduler_of(make_plan(plain, decay="none", lr=0.01), "cosine", steps=6)
    torch.manual_seed(1)
    train(unmeasured, plain, 6)
    plan = make_plan(model, decay=GradientNorms(every_epochs=None, every_steps=2, value=1.0), lr=0.01)
    scheduler = scheduler_of(plan, "cosine", steps=6)
    torch.manual_seed(1)
    found = train(scheduler, model, 6)
    assert [each is not None for each in found] == [True, False] * 3
    for ours, other in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, other)


def test_a_gradient_that_is_there_stays() -> None:
    model = network()
    scheduler = scheduler_of(make_plan(model, decay=GradientNorms()))
    loss(model, X).backward()
    before = [p.grad for p in model.parameters()]
    copies = [grad.clone() for grad in before if grad is not None]
    scheduler.measure(model, loss, [X, X])
    assert all(p.grad is grad for p, grad in zip(model.parameters(), before, strict=True))
    assert all(torch.equal(grad, copy) for grad, copy in zip(before, copies, strict=True) if grad is not None)


@given(
    raw=st.lists(st.floats(0, 100) | st.sampled_from([float("nan"), float("inf")]), min_size=3, max_size=3),
    low=st.floats(0, 2), width=st.floats(0, 5), smoothing=st.floats(0, 0.99),
)  # fmt: skip
def test_scales_are_smoothed_and_bounded(raw: list[float], low: float, width: float, smoothing: float) -> None:
    model = nn.Linear(4, 2)
    rule = Given(every_steps=1, min_scale=low, max_scale=low + width, smoothing=smoothing, given=[[x] for x in raw])
    scheduler = scheduler_of(make_plan(nn.Sequential(model), decay=rule, grouping="top_module"))
    expected = 1.0
    for number, value in enumerate(raw):
        (scale,) = (scheduler.measure(scheduler_model(scheduler, model), loss, [X]) or {}).values()
        if math.isfinite(value):
            kept = smoothing if number else 0.0
            expected = min(max(kept * expected + (1 - kept) * value, low), low + width)
        assert scale == pytest.approx(expected)
        scheduler.optimizer.step()
        scheduler.step()


def scheduler_model(scheduler: PlanScheduler, model: nn.Module) -> nn.Module:
    return nn.Sequential(model)


def test_a_new_head_stands_outside_unless_it_is_asked_for() -> None:
    model = network()
    plan = make_plan(model, decay=GradientNorms(new=["4"]), lr=0.1)
    assert [g.measured for g in plan] == [False, True, True, True]
    assert "not compared, at the planned rate: 4" in str(plan)
    scales = scheduler_of(plan).measure(model, loss, [X, X])
    assert scales is not None
    assert scales.pop("4") == 1.0
    assert 1.0 not in scales.values()
    assert all(g.measured for g in make_plan(model, decay=GradientNorms(new=["4"], include_new=True)))
    bias_only = make_plan(model, decay=GradientNorms(new=["4.bias"]))
    assert [(g.name, g.measured) for g in bias_only][:2] == [("4", True), ("new", False)], "the rest is compared"
    assert bias_only.groups[1].parameter_names == ("4.bias",)
    with pytest.raises(ConfigError, match=r"decay\.new"):
        make_plan(model, decay=GradientNorms(new=["fc"]))


def test_frozen_groups_are_not_measured() -> None:
    plan = make_plan(network(), decay=GradientNorms(), freeze=["0"])
    assert [g.name for g in plan if g.measured] == ["4", "3", "1"]


def test_the_state_of_a_scheduler_has_the_scales() -> None:
    model = network()
    rule = GradientNorms(every_epochs=None, every_steps=3)
    scheduler = scheduler_of(make_plan(model, decay=rule, lr=0.01), "cosine", steps=9)
    train(scheduler, model, 4)
    other = scheduler_of(make_plan(model, decay=rule, lr=0.01), "cosine", steps=9)
    other.load_state_dict(scheduler.state_dict())
    assert other.rates() == scheduler.rates() != [0.01] * 4
    assert other.measure(model, loss, [X, X]) is None, "measured for these steps already"
    third = scheduler_of(make_plan(model, decay="none", lr=0.01), "cosine", steps=9)
    with pytest.raises(ConfigError, match="another plan"):
        third.load_state_dict(scheduler.state_dict())


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"every_steps": 0, "every_epochs": None}, "decay.every_steps"),
    ({"every_steps": 2}, "decay.every_steps"),
    ({"every_epochs": 0.0}, "decay.every_epochs"),
    ({"smoothing": 1.0}, "decay.smoothing"),
    ({"min_scale": -1.0}, "decay.min_scale"),
    ({"min_scale": 2.0, "max_scale": 1.0}, "decay.max_scale"),
]


@pytest.mark.parametrize(("options", "key"), MISTAKES, ids=str)
def test_mistakes_name_the_option(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as error:
        GradientNorms(**options)
    assert error.value.key == key


def test_few_batches_are_one_clear_error() -> None:
    model = network()
    with pytest.raises(lwexp.RunError, match="2 batches are needed for a measurement, and there are 1"):
        scheduler_of(make_plan(model, decay=GradientNorms())).measure(model, loss, [X])


def test_a_loop_that_forgets_to_measure_is_refused_at_its_first_step() -> None:
    model = network()
    scheduler = scheduler_of(make_plan(model, decay=GradientNorms()))
    scheduler.optimizer.step()
    with pytest.raises(ConfigError, match=r"is measured, and nothing was: call scheduler\.measure"):
        scheduler.step()


def test_weight_decay_that_needs_the_scales_is_refused() -> None:
    with pytest.raises(ConfigError, match="divides by the groups' scales, which decay="):
        make_plan(network(), decay=GradientNorms(), weight_decay=0.1, independent_weight_decay=True)


class Restless(nn.Module):
    """Replaces its buffer at each pass, and has a part that is frozen and one that is not in the plan's optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        return self.head(self.stem(x))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb", "adan", "rmsprop"])
def test_a_trial_step_leaves_no_trace(optimizer: Any) -> None:
    """Not in frozen weights at rate 0, other groups, counters of the optimizer, or buffers that are replaced."""
    model, other = Restless(), nn.Parameter(torch.ones(3))
    plan = make_plan(model, decay=GradientNorms(), freeze=["stem"], freeze_mode="lr_zero", lr=0.1)
    built = plan.optimizer(optimizer, weight_decay=0.1)
    built.add_param_group({"params": [other], "lr": 0.01})
    scheduler = plan.scheduler(built, steps_per_epoch=1)
    other.grad = torch.ones(3)
    before = copy.deepcopy((model.state_dict(), other.data, built.state_dict()))
    buffer = model.count
    scheduler.measure(model, loss, [X, X])
    after = model.state_dict(), other.data, built.state_dict()
    for group, saved in zip(after[2]["param_groups"], before[2]["param_groups"], strict=True):
        group["lr"] = saved["lr"]  # these were measured
    assert flat(after) == flat(before)
    assert model.count is buffer


def test_epochs_need_a_length() -> None:
    model = network()
    scheduler = scheduler_of(make_plan(model, decay=GradientNorms()), steps=10, steps_per_epoch=None)
    with pytest.raises(ConfigError, match=r"must be given to the scheduler: decay\.every_epochs=1"):
        train(scheduler, model, 2)


def test_a_measurement_reads_no_batch_too_many() -> None:
    read = []

    class Batches(list[Tensor]):
        def __iter__(self) -> Any:
            for batch in list.__iter__(self):
                read.append(batch)
                yield batch

    model = network()
    scheduler_of(make_plan(model, decay=GradientNorms())).measure(model, loss, Batches([X] * 5))
    assert len(read) == 2 + 1, "two for gradients, one for the trial step"
