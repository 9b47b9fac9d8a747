"""fastai: splitter, rates and schedule of a plan in its Learner."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from lwexp import make_plan
from tests.helpers.wrapped_networks import seeded_tiny, tiny_batches

pytest.importorskip("fastai")

with warnings.catch_warnings():  # of torch 2.14 and pandas 3, while fastai is imported
    warnings.simplefilter("ignore")
    from fastai.callback.schedule import combined_cos
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    from lwexp.integrations.fastai import PlanSchedule, rates, splitter

STEPS = 4


def learner(freeze: tuple[str, ...] = (), **options: Any) -> tuple[Learner, Any]:
    model = seeded_tiny()
    plan = make_plan(model, grouping="depth_index", lr=0.01, mult=0.5, freeze=freeze)
    plan.apply_freeze(model)
    data = DataLoaders(tiny_batches(STEPS), tiny_batches(1), device="cpu")
    return Learner(data, model, loss_func=nn.CrossEntropyLoss(), splitter=splitter(plan), **options), plan


class Rates:
    """The rates of each step, as fastai's optimizer used them."""

    def __init__(self, learn: Learner) -> None:
        self.rows: list[list[float]] = []
        step = learn.opt.step

        def observed() -> None:
            self.rows.append([hyper["lr"] for hyper in learn.opt.hypers])
            step()

        learn.opt.step = observed


@pytest.mark.parametrize("freeze", [(), ("stem", "blocks.0")])
def test_the_groups_go_from_the_stem_to_the_head(freeze: tuple[str, ...]) -> None:
    learn, plan = learner(freeze)
    learn.create_opt()
    trained = [group for group in reversed(plan.groups) if group.optimizer_names]
    assert len(learn.opt.param_lists) == len(trained) == (4 if freeze else 6)
    names = {id(p): name for name, p in learn.model.named_parameters()}
    assert [{names[id(p)] for p in group} for group in learn.opt.param_lists] == [{*g.optimizer_names} for g in trained]


def test_one_cycle_keeps_the_ratios() -> None:
    learn, plan = learner()
    learn.create_opt()
    seen = Rates(learn)
    before = {name: p.clone() for name, p in learn.model.named_parameters()}
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, lr_max=rates(plan))
    assert len(seen.rows) == STEPS
    shape = combined_cos(0.25, 1 / 25.0, 1, 1e-5)
    for step, row in enumerate(seen.rows):
        assert row == pytest.approx([rate * shape(step / STEPS) for rate in rates(plan)])
    assert all(not torch.equal(p, before[name]) for name, p in learn.model.named_parameters())


def test_the_policy_of_a_plan_in_fit() -> None:
    learn, plan = learner(("stem",))
    learn.create_opt()
    seen = Rates(learn)
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, cbs=PlanSchedule(plan, "cosine", warmup_steps=2))
    table = plan.lr_table("cosine", steps=2 * STEPS, warmup_steps=2)
    positions = [i for i, group in enumerate(plan.groups) if group.optimizer_names][::-1]
    assert seen.rows == table[:, positions].tolist()
