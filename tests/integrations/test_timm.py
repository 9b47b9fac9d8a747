"""timm: its optimizers and schedulers on the groups of a plan, and a plan's policy in the loop of timm's script."""

from __future__ import annotations

import itertools

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

from lwexp import ConfigError, make_plan
from lwexp.core.plan import Plan
from lwexp.integrations.timm import TimmScheduler

STEPS = 12


def planned() -> Plan:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=3, img_size=32)
    return make_plan(model, grouping="depth_index", lr=0.1, mult=0.5)


@pytest.mark.parametrize("name", ["adamw", "lamb", "sgd"])
def test_timms_optimizers_take_the_groups(name: str) -> None:
    plan = planned()
    optimizer = create_optimizer_v2(plan.param_groups(), opt=name, lr=1.0, weight_decay=0.05)
    assert [g["lr"] for g in optimizer.param_groups] == [g.lr for g in plan.groups]
    scheduler = TimmScheduler(optimizer, plan, "cosine", steps=STEPS)
    optimizer.step()
    scheduler.step_update(1)
    assert [g["lr"] for g in optimizer.param_groups] == plan.lr_table("cosine", steps=STEPS)[1].tolist()


def test_timms_cosine_keeps_the_ratios() -> None:
    """No group has an `lr_scale`, which timm would apply once more; timm's floor and warm-up are absolute, however."""
    plan = planned()
    optimizer = plan.optimizer("adamw")
    assert all("lr_scale" not in group for group in optimizer.param_groups)
    scheduler = CosineLRScheduler(optimizer, t_initial=10)
    for epoch in range(9):
        scheduler.step(epoch)
        rates = [g["lr"] for g in optimizer.param_groups]
        assert [later / former for former, later in itertools.pairwise(rates)] == pytest.approx([0.5] * 4)
    scheduler = CosineLRScheduler(plan.optimizer("adamw"), t_initial=10, warmup_t=2, warmup_lr_init=1e-4)
    assert len({g["lr"] for g in scheduler.optimizer.param_groups}) == 1


def test_the_loop_of_timms_script() -> None:
    plan = planned()
    optimizer = plan.optimizer("adamw")
    scheduler = TimmScheduler(optimizer, plan, "cosine", steps=STEPS, warmup_steps=3)
    expected = plan.lr_table("cosine", steps=STEPS, warmup_steps=3).tolist()
    updates = 0
    for epoch in range(3):
        for _ in range(4):
            assert [g["lr"] for g in optimizer.param_groups] == expected[updates]
            optimizer.step()
            updates += 1
            scheduler.step_update(updates, metric=0.5)
        scheduler.step(epoch + 1, 0.5)
    state = scheduler.state_dict()
    again = TimmScheduler(plan.optimizer("adamw"), plan, "cosine", steps=STEPS, warmup_steps=3)
    again.step_update(7)
    assert [g["lr"] for g in again.optimizer.param_groups] == expected[7]
    again.load_state_dict(state)
    assert again.scheduler.last_epoch == STEPS


def test_a_plateau_observes_the_metric_of_each_epoch() -> None:
    plan = planned()
    scheduler = TimmScheduler(plan.optimizer("sgd"), plan, "plateau", patience=1, factor=0.5, warmup_steps=2)
    seen = []
    for epoch in range(6):
        for update in range(4):
            scheduler.optimizer.step()
            scheduler.step_update(epoch * 4 + update + 1)
        scheduler.step(epoch + 1, 1.0)
        seen.append(scheduler.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


def test_a_measured_decay_that_nothing_measures_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    plan = make_plan(model, decay="auto_rgn", lr=0.1)
    optimizer = plan.optimizer("sgd")
    scheduler = TimmScheduler(optimizer, plan, "constant", steps=10)
    optimizer.step()
    with pytest.raises(ConfigError, match="is measured, and nothing was"):
        scheduler.step_update(1)
