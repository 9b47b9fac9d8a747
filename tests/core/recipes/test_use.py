"""A recipe in `make_plan` and in the methods of its plan: it gives what the caller does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lwexp
from lwexp import ConfigError, Plan, Recipe, UnknownNameError, make_plan
from tests.helpers.networks import TinyNet

OURS = Recipe(
    name="ours", source="a talk", lr=0.1, mult=0.5,
    settings={
        "grouping": {"name": "per_parameter"}, "decay": {"name": "linear"},
        "policy": {"name": "linear", "warmup_fraction": 0.2, "min_lr": 0.01},
        "optimizer": {"name": "sgd", "momentum": 0.8, "weight_decay": 0.1},
        "weight_decay_mult": 2.0, "unfreeze": {"every_epochs": 1},
    },
)  # fmt: skip


def test_settings_are_used_and_arguments_are_above_them(tiny: TinyNet) -> None:
    plan, own = make_plan(tiny, recipe=OURS), make_plan(tiny, recipe=OURS, grouping="top_module", lr=0.2, mult=0.9)
    assert (plan.grouping, plan.lr, plan.mult, plan.weight_decay) == ("per_parameter", 0.1, 0.5, 0.1)
    assert (own.grouping, own.lr, own.mult) == ("top_module", 0.2, 0.9)
    assert "recipe=ours, changed here: grouping=top_module, lr=0.2, mult=0.9" in own.notes
    assert plan.hash == make_plan(
        tiny, grouping="per_parameter", lr=0.1, mult=0.5, weight_decay=0.1, weight_decay_mult=2.0
    ).hash  # fmt: skip


def test_the_methods_of_its_plan_take_the_optimizer_and_the_policy(tiny: TinyNet) -> None:
    plan = make_plan(tiny, recipe=OURS)
    optimizer = plan.optimizer()
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.8
    assert plan.optimizer(momentum=0.5).defaults["momentum"] == 0.5
    assert isinstance(plan.optimizer("adamw"), torch.optim.AdamW)
    scheduler = plan.scheduler(optimizer, steps=20, steps_per_epoch=5)
    assert scheduler.schedule.policy.warmup.steps == 4
    assert scheduler.schedule.unfreeze_every_steps == 5
    assert plan.lr_table(steps=20, steps_per_epoch=5).equal(
        plan.lr_table("linear", steps=20, warmup_fraction=0.2, min_lr=0.01, unfreeze_every_steps=5)
    )
    assert plan.schedule("cosine", steps=20, unfreeze_every_steps=2).policy.warmup.steps == 0
    assert plan.schedule(warmup_steps=3, steps=20, steps_per_epoch=5).policy.warmup.steps == 3
    with pytest.raises(ConfigError, match=r"steps_per_epoch=.*recipe=ours unfreezes a group every 1 epochs"):
        plan.schedule(steps=20)


def test_without_a_recipe_nothing_changes(tiny: TinyNet) -> None:
    plan = make_plan(tiny)
    assert isinstance(plan.optimizer(), torch.optim.Adam)
    assert plan.schedule().policy.settings.policy == "constant"
    assert "recipe" not in plan.to_json()


def test_the_recipe_survives_json(tiny: TinyNet) -> None:
    plan = Plan.from_json(make_plan(tiny, recipe=OURS).to_json()).bind(tiny)
    assert isinstance(plan.optimizer(), torch.optim.SGD)
    assert plan.schedule(steps=20, steps_per_epoch=5).unfreeze_every_steps == 5


@pytest.mark.parametrize(
    ("scaling", "batch_size", "lr"),
    [("none", 64, 1.0), ("linear", 64, 0.25), ("linear", 512, 2.0), ("sqrt", 64, 0.5), ("linear", None, 1.0)],
)
def test_the_base_rate_follows_the_batch_size(scaling: str, batch_size: int | None, lr: float, tiny: TinyNet) -> None:
    recipe = Recipe(name="ours", lr=1.0, batch_size=256, scaling=scaling)  # type: ignore[arg-type]
    plan = make_plan(tiny, recipe=recipe, batch_size=batch_size)
    assert plan.lr == lr
    assert "batches of 256" in plan.notes[1]
    assert (f"{lr:g} for batches of {batch_size}" in plan.notes[1]) == (scaling != "none" and batch_size is not None)


@pytest.mark.parametrize(("width", "mult", "lr"), [(9, 0.5, 1.0), (10, 0.6, 1.0), (20, 0.7, 3.0)])
def test_sizes_of_the_network(width: int, mult: float, lr: float) -> None:
    sizes = ({"weights": 100, "mult": 0.6}, {"weights": 400, "mult": 0.7, "lr": 3.0})
    recipe = Recipe(name="ours", lr=1.0, mult=0.5, sizes=sizes)
    model = nn.Sequential(nn.Linear(width, width, bias=False))
    assert (recipe.rates(width**2, None).mult, recipe.rates(width**2, None).lr) == (mult, lr)
    assert make_plan(model, recipe=recipe, decay="linear").mult == mult


def test_errors_are_one_line() -> None:
    with pytest.raises(UnknownNameError, match=r"recipe=mea: no such recipe; did you mean mae\?"):
        lwexp.recipe("mea")
    with pytest.raises(ConfigError, match="recipe=3: must be a name, or a Recipe"):
        make_plan(nn.Linear(2, 2), recipe=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"model=int: must be the torch.nn.Module"):
        make_plan(3, recipe="mae")  # type: ignore[arg-type]
