"""`index_from`: where the decay begins to count, for networks whose last module is frozen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lwexp import ConfigError, make_plan


class WithTeacher(nn.Module):
    """A student and, registered last, its frozen teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = (nn.Linear(4, 4) for _ in range(3))
        self.teacher = nn.Linear(4, 4).requires_grad_(False)


class Adapted(nn.Module):
    """Low-rank adapters in frozen layers, below a frozen head."""

    def __init__(self) -> None:
        super().__init__()
        for i in range(3):
            self.add_module(f"layer{i}", nn.ModuleDict({"base": nn.Linear(4, 4).requires_grad_(False)}))
            self.get_submodule(f"layer{i}")["lora_a"] = nn.Linear(4, 2, bias=False)  # type: ignore[operator, index]
        self.head = nn.Linear(4, 2).requires_grad_(False)


def trained(plan: object) -> dict[str, float]:
    return {g.name: g.lr for g in plan.groups if g.optimizer_names}  # type: ignore[attr-defined]


def test_decay_starts_at_the_first_group_that_trains() -> None:
    plan = make_plan(WithTeacher(), lr=1.0, mult=0.5, index_from="trained")
    assert trained(plan) == {"head": 1.0, "body": 0.5, "stem": 0.25}
    assert [g.index for g in plan.groups] == [0, 1, 2, 3]  # places in the plan stay
    assert "index_from=trained" in str(plan).splitlines()[1]


def test_all_groups_count_by_default_and_the_plan_says_what_that_means() -> None:
    plan = make_plan(WithTeacher(), lr=1.0, mult=0.5)
    assert trained(plan) == {"head": 0.5, "body": 0.25, "stem": 0.125}
    (note,) = [note for note in plan.notes if "index_from=trained" in note]
    assert note.startswith("group 0 (teacher) is frozen, so training starts at group 1 (head)")
    assert not any("index_from" in note for note in make_plan(WithTeacher(), decay="none").notes)
    assert not any("index_from" in note for note in make_plan(WithTeacher(), index_from="trained").notes)


def test_adapters_below_a_frozen_head_get_the_base_rate() -> None:
    plan = make_plan(Adapted(), lr=1.0, mult=0.5, index_from="trained")
    assert trained(plan) == {"layer2": 1.0, "layer1": 0.5, "layer0": 0.25}


def test_decays_by_share_of_the_depth_reach_their_ends() -> None:
    plan = make_plan(WithTeacher(), lr=1.0, decay="arithmetic", decay_options={"min_scale": 0.2}, index_from="trained")
    assert trained(plan) == pytest.approx({"head": 1.0, "body": 0.6, "stem": 0.2})


@pytest.mark.parametrize("mode", ["requires_grad", "lr_zero"])
def test_freezing_by_option_counts_as_frozen(mode: str) -> None:
    network = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    plan = make_plan(network, lr=1.0, mult=0.5, freeze=["3", "2.weight"], freeze_mode=mode, index_from="trained")
    rates = {name: g.lr for g in plan.groups for name in {*g.optimizer_names}.difference(g.frozen_names)}
    assert rates == {"2.bias": 1.0, "1.weight": 0.5, "1.bias": 0.5, "0.weight": 0.25, "0.bias": 0.25}


def test_groups_that_unfreeze_later_are_trained_ones() -> None:
    network = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    plan = make_plan(network, lr=1.0, mult=0.5, freeze=["2"], index_from="trained")
    table = plan.lr_table(steps=4, unfreeze_every_steps=2)
    assert torch.equal(table[:, 1:], torch.tensor([[1, 0], [1, 0], [1, 0.5], [1, 0.5]], dtype=torch.float64))


def test_another_way_to_count_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="index_from=traind: no such way to count; did you mean trained"):
        make_plan(WithTeacher(), index_from="traind")  # type: ignore[arg-type]
