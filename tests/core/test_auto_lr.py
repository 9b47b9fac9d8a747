"""decay=auto_lr: its numbers are those of the authors' code, and its layers those of the plan."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from lwexp import Plan, make_plan
from lwexp.core.measured.auto_lr import AutoLR, Layer, compared_layers
from lwexp.core.measured.variation import mended_targets, new_rates, sorting_quality, variation
from lwexp.errors import ConfigError
from tests.helpers.commands import GOLDEN
from tests.helpers.tiny_training import TinyNorms

AUTHORS: list[dict[str, Any]] = json.loads((GOLDEN / "auto_lr.json").read_text(encoding="utf-8"))["trials"]


def test_rates_are_those_of_the_authors_code() -> None:
    """`adjustLR` of train.py: after the first epoch, after later ones, and for another try of the same epoch."""
    targets: Any = None
    rule = AutoLR(quality=1.0)
    for found in AUTHORS:
        layers = layers_of(chain(len(found["variations"])), range(len(found["variations"])))
        targets = targets if found["trial"] else None
        scales = [*reversed(found["rates"])]  # at a base rate of 1; a plan begins at the head
        verdict = rule.verdict(layers, found["variations"], scales, found["epoch"], targets)
        targets = verdict.targets
        assert verdict.quality == pytest.approx(found["quality"], abs=1e-12)
        assert [*verdict.targets.values()] == pytest.approx(found["targets"], rel=1e-6)
        new = [verdict.scales[layer.positions[0]] for layer in layers]
        assert new == pytest.approx(found["new_rates"], rel=1e-6)


def test_the_first_epoch_of_the_authors_is_undone_and_its_next_try_is_in_order() -> None:
    first, second = AUTHORS[:2]
    assert first["epoch"] == second["epoch"] == 0
    assert sorting_quality(first["variations"]) < AutoLR().threshold(0) <= sorting_quality(second["variations"])


def test_the_change_of_a_layer_is_that_of_the_authors_code() -> None:
    """The root of the sum of squared norms ÷ the count of weights; theirs is times 1,000,000."""
    generator = torch.Generator().manual_seed(0)
    changes = [torch.randn(shape, generator=generator) for shape in ((8, 4, 3, 3), (8, 8, 1, 1))]
    norm = torch.cat([change.reshape(-1) for change in changes]).norm().item()
    assert variation(changes) == pytest.approx(norm / 352, rel=1e-6)
    assert variation(changes, root_mean_square=True) == pytest.approx(norm / 352**0.5, rel=1e-6)


def test_wanted_changes_are_above_zero_where_the_authors_are_not() -> None:
    """Theirs are 1 - 8/3 and so on, and torch refuses the rates."""
    own = [9.0, 8.0, 1.0, 2.0]
    targets = mended_targets(own)
    assert targets == [0.25, 0.5, 1.0, 2.0]
    assert all(rate > 0 for rate in new_rates([1.0] * 4, own, targets))


def test_the_stem_may_follow_the_layer_after_it_as_in_the_authors_code() -> None:
    layers = layers_of(chain(4), range(4))
    own = [5.0, 1.0, 2.0, 10.0]  # from the stem
    verdict = AutoLR(stem_factor=0.5).verdict(layers, own, [1.0] * 4, epoch=0)
    assert verdict.quality == 1.0
    assert [verdict.scales[3 - i] for i in range(4)] == [1.0, 2.0, 1.5, 0.4]
    assert AutoLR().verdict(layers, own, [1.0] * 4, epoch=0).quality < 1


def test_layers_that_did_not_move_are_not_compared() -> None:
    layers = layers_of(chain(4), range(4))
    verdict = AutoLR().verdict(layers, [0.0, 3.0, 0.0, 1.0], [1.0] * 4, epoch=0)
    assert verdict.scales.keys() == {0, 2}
    still = AutoLR().verdict(layers, [0.0, 0.0, 0.0, 1.0], [1.0] * 4, epoch=0)
    assert still.in_order
    assert not still.scales


def test_norms_follow_the_layer_before_them() -> None:
    plan = make_plan(TinyNorms(), grouping="per_parameter", decay="auto_lr")
    layers = layers_of(plan, range(len(plan.groups)))
    names = {layer.name: [plan.groups[p].name for p in layer.positions] for layer in layers}
    assert [*names] == ["stem.weight", "blocks.0.linear.weight", "blocks.1.linear.weight", "head.weight"]
    assert names["stem.weight"] == ["stem.weight", "stem.bias"]
    assert names["blocks.1.linear.weight"] == ["blocks.1.linear.weight", "blocks.1.norm.weight", "blocks.1.norm.bias"]


def test_a_new_head_keeps_the_planned_rate_and_is_not_compared() -> None:
    plan = chain(4, new=["3.*"])
    measured = [i for i, g in enumerate(plan.groups) if g.measured]
    assert measured == [1, 2, 3]
    assert [layer.positions for layer in layers_of(plan, measured)] == [(3,), (2,), (1,)]


def test_your_own_loop_is_told_that_it_cannot_undo_an_epoch() -> None:
    plan = make_plan(TinyNorms(), decay="auto_lr")
    scheduler = plan.scheduler(plan.optimizer("sgd"))
    with pytest.raises(ConfigError, match="undoes epochs, which only lwexp's own training does"):
        scheduler.measure(TinyNorms(), lambda model, batch: torch.zeros(()), [])


def layers_of(plan: Plan, compared: Iterable[int]) -> list[Layer]:
    return compared_layers(
        plan,
        {
            name: p
            for group in plan.param_groups(param_names=True)
            for name, p in zip(group["param_names"], group["params"], strict=True)
        },
        compared,
    )


def chain(count: int, **options: Any) -> Plan:
    """The plan of `count` layers, called 0, 1, … from the stem."""
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(count)))
    return make_plan(model, grouping="per_parameter", decay="auto_lr", lr=1.0, decay_options=options)
