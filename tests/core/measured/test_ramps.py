"""Scales that move evenly from the old to the new ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lwexp import ConfigError, PlanScheduler, make_plan
from tests.helpers.measured_decays import Given

GIVEN = [[2.0, 0.5], [5.0, 0.5], [1.0, 0.5]]


def scheduler_of(model: nn.Module, given: list[list[float]], **options: int) -> PlanScheduler:
    rule = Given(every_steps=4, ramp_steps=2, given=[[*each] for each in given], max_scale=4.0)
    for key, value in options.items():
        setattr(rule, key, value)
    plan = make_plan(model, decay=rule, lr=0.1)
    return plan.scheduler(plan.optimizer("sgd"))


def rates(scheduler: PlanScheduler, model: nn.Module, steps: int) -> list[list[float]]:
    found = []
    for _ in range(steps):
        scheduler.measure(model, lambda *_: torch.zeros(()), [])
        found.append([10 * rate for rate in scheduler.rates()])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


def test_a_scale_reaches_the_new_one_within_the_steps() -> None:
    model = network()
    found = rates(scheduler_of(model, GIVEN), model, 12)
    assert [head for head, _ in found] == pytest.approx([1.5, 2, 2, 2, 3, 4, 4, 4, 2.5, 1, 1, 1])
    assert [stem for _, stem in found] == pytest.approx([0.75, *[0.5] * 11])


def test_a_measurement_on_the_way_starts_where_the_scale_is() -> None:
    model = network()
    found = rates(scheduler_of(model, [[2.0, 1.0], [4.0, 1.0]], ramp_steps=5), model, 8)
    assert [head for head, _ in found] == pytest.approx([1.2, 1.4, 1.6, 1.8, 2.24, 2.68, 3.12, 3.56])


@pytest.mark.parametrize("saved", range(12))
def test_the_state_has_the_way(saved: int) -> None:
    model = network()
    whole = rates(scheduler_of(model, GIVEN), model, 12)
    first = scheduler_of(model, GIVEN)
    rates(first, model, saved)
    second = scheduler_of(model, GIVEN)
    rule: Any = second.measurement.rule  # type: ignore[union-attr]
    rule.given = rule.given[(saved + 3) // 4 :]
    second.load_state_dict(first.state_dict())
    assert rates(second, model, 12 - saved) == whole[saved:]


def test_the_plan_says_so() -> None:
    plan = make_plan(network(), decay="heavy_tail")
    assert "before the first step and every 100 steps, and reached within 50 steps" in str(plan)
    with pytest.raises(ConfigError, match=r"decay\.ramp_steps=-1: must be at least 0"):
        make_plan(network(), decay="heavy_tail", decay_options={"ramp_steps": -1})
