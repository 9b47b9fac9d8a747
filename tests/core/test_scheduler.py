from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lwexp import ConfigError, Event, Plan, PlanScheduler, make_plan
from tests.core.test_policy import OPTIONS
from tests.helpers.networks import TinyNet
from tests.helpers.strategies import models, mults

PURE = [name for name in OPTIONS if name != "plateau"]


def driven(plan: Plan, scheduler: PlanScheduler, steps: int) -> torch.Tensor:
    """Rates read back from the optimizer at every step of a training without gradients."""
    rows = []
    for _ in range(steps):
        rows.append(scheduler.rates())
        scheduler.optimizer.step()
        scheduler.step()
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("policy", PURE)
def test_optimizer_has_the_rates_of_the_table_at_every_step(tiny: TinyNet, policy: str) -> None:
    plan = make_plan(tiny, grouping="per_parameter", mult=0.9, freeze=["blocks.1"])
    settings: dict[str, Any] = {
        "steps": 30,
        "unfreeze_every_steps": 3,
        "lr_events": [Event(5, 0, 0.3)],
        **OPTIONS[policy],
    }
    scheduler = plan.scheduler(plan.optimizer("sgd"), policy, warmup_steps=4, **settings)
    assert torch.equal(driven(plan, scheduler, 30), plan.lr_table(policy, warmup_steps=4, **settings))


@pytest.mark.filterwarnings("ignore::lwexp.errors.NoLayerwiseRatesWarning")  # some have one group
@pytest.mark.parametrize("policy", PURE)
@given(model=models(), mult=mults, warmup=st.integers(0, 10), floor=st.just(0.0) | st.floats(1e-9, 0.9))
def test_ratios_between_groups_survive_every_policy(
    policy: str, model: nn.Module, mult: float, warmup: int, floor: float
) -> None:
    plan = make_plan(model, lr=0.1, mult=mult)
    table = plan.lr_table(policy, steps=25, warmup_steps=warmup, min_lr=0.1 * floor, **OPTIONS[policy])
    trained = [i for i, g in enumerate(plan.groups) if g.optimizer_names]
    planned = torch.tensor([plan.groups[i].lr for i in trained], dtype=torch.float64)
    factors = table[:, trained] / planned
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), rtol=1e-12, atol=0)


@pytest.mark.parametrize("policy", PURE)
def test_group_at_rate_zero_stays_there_under_every_policy_and_floor(tiny: TinyNet, policy: str) -> None:
    for floor in ("relative", "absolute"):
        plan = make_plan(tiny, lr=0.1, freeze=["stem"], freeze_mode="lr_zero", lr_overrides={"blocks.0": 0})
        table = plan.lr_table(policy, steps=20, min_lr=0.05, floor=floor, **OPTIONS[policy])
        for name in ("stem", "blocks.0"):
            assert not table[:, plan.find(name)].any()


def test_absolute_floor_is_the_same_for_all_and_lifts_no_group_above_its_rate(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr=0.1, mult=0.5)  # 0.1, 0.05, 0.025
    for policy, options in (("cosine", {}), ("warmup_exponential", {"k": 1.0})):
        table = plan.lr_table(policy, steps=50, min_lr=0.04, floor="absolute", **options)
        assert table[-1].tolist() == pytest.approx([0.04, 0.04, 0.025])
        assert table[0].tolist() == pytest.approx([0.1, 0.05, 0.025])
        assert (table.diff(dim=0) <= 1e-15).all()


def test_gradual_unfreezing_opens_one_group_after_the_other_from_the_head(tiny: TinyNet) -> None:
    plan = make_plan(tiny, grouping="depth_index", grouping_options={"source": "registration"}, freeze=["blocks.3"])
    table = plan.lr_table("constant", steps=12, unfreeze_every_steps=2)
    opened = [[plan.groups[i].name for i in range(len(plan.groups)) if row[i] > 0] for row in table]
    assert [len(names) for names in opened] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5]
    assert opened[0] == [plan.groups[0].name]
    assert "blocks.3" not in opened[-1]


def test_gradual_unfreezing_multiplies_any_policy(tiny: TinyNet) -> None:
    plan = make_plan(tiny)
    free = plan.lr_table("slanted_triangular", steps=20)
    masked = plan.lr_table("slanted_triangular", steps=20, unfreeze_every_steps=5)
    for i in range(3):
        assert not masked[: 5 * i, i].any()
        assert torch.equal(masked[5 * i :, i], free[5 * i :, i])


def test_event_sets_one_group_from_its_step_to_the_next_event(tiny: TinyNet) -> None:
    plan = make_plan(tiny)
    events = [{"step": 6, "group": "blocks", "lr": 0.0}, {"step": 3, "group": 1, "lr": 0.05}]
    free, table = plan.lr_table("cosine", steps=10), plan.lr_table("cosine", steps=10, lr_events=events)
    assert table[:, 1].tolist() == [*free[:3, 1].tolist(), 0.05, 0.05, 0.05, 0, 0, 0, 0]
    assert torch.equal(table[:, [0, 2]], free[:, [0, 2]])


def test_event_by_index_reaches_all_parts_of_a_split_group_and_by_name_one(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr_overrides={"blocks.3": 0.5})
    both = plan.lr_table(steps=2, lr_events=[Event(0, 1, 0.9)])[0]
    assert both[plan.find("blocks")].item() == both[plan.find("blocks.3")].item() == 0.9
    one = plan.lr_table(steps=2, lr_events=[Event(0, "blocks.3", 0.9)])[0]
    assert one[plan.find("blocks")].item() == plan.groups[1].lr


def test_rate_set_from_python_holds_under_any_policy(tiny: TinyNet) -> None:
    plan = make_plan(tiny)
    scheduler = plan.scheduler(plan.optimizer("sgd"), "cosine", steps=10)
    driven(plan, scheduler, 4)
    scheduler.set_lr("stem", 0.123)
    assert scheduler.group_lr("stem") == scheduler.group_lr(2) == 0.123
    later = driven(plan, scheduler, 6)
    assert later[:, 2].tolist() == [0.123] * 6
    assert torch.equal(later[:, :2], plan.lr_table("cosine", steps=10)[4:, :2])


def test_plan_index_is_not_the_position_in_the_optimizer(tiny: TinyNet) -> None:
    plan = make_plan(tiny, freeze=["head"])
    optimizer = plan.optimizer("sgd")
    plan.scheduler(optimizer, steps=5, lr_events=[Event(0, 1, 0.77)])
    assert [(g["name"], g["lr"]) for g in optimizer.param_groups] == [("blocks", 0.77), ("stem", plan.groups[2].lr)]


def test_groups_that_the_plan_does_not_know_keep_their_rate(tiny: TinyNet) -> None:
    plan = make_plan(tiny)
    extra = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [extra], "lr": 0.5}, *plan.param_groups()])
    driven(plan, plan.scheduler(optimizer, "cosine", steps=5), 3)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_optimizer_without_the_plans_groups_is_refused(tiny: TinyNet) -> None:
    plan = make_plan(tiny)
    with pytest.raises(ConfigError, match=r"optimizer=SGD: lacks the plan's groups blocks, head, stem"):
        plan.scheduler(torch.optim.SGD(tiny.parameters(), lr=0.1), steps=5)


@pytest.mark.parametrize("policy", OPTIONS)
def test_state_continues_exactly_in_a_new_scheduler(tiny: TinyNet, policy: str) -> None:
    plan = make_plan(tiny)

    def make() -> PlanScheduler:
        return plan.scheduler(plan.optimizer("sgd"), policy, steps=20, unfreeze_every_steps=4, **OPTIONS[policy])

    def go(scheduler: PlanScheduler, start: int, end: int) -> list[list[float]]:
        rows = []
        for step in range(start, end):
            rows.append(scheduler.rates())
            scheduler.optimizer.step()
            scheduler.step()
            if step % 2:
                scheduler.observe({"val/loss": 1.0})
        return rows

    whole, first, second = make(), make(), make()
    for scheduler in (whole, first):
        scheduler.set_lr(1, 0.05)
    expected = go(whole, 0, 20)
    got = go(first, 0, 9)
    second.load_state_dict(first.state_dict())
    assert got + go(second, 9, 20) == expected


def test_state_of_another_plan_is_refused(tiny: TinyNet) -> None:
    one, other = make_plan(tiny), make_plan(tiny, mult=0.5)
    state = one.scheduler(one.optimizer("sgd"), steps=5).state_dict()
    with pytest.raises(ConfigError, match="saved with another plan"):
        other.scheduler(other.optimizer("sgd"), steps=5).load_state_dict(state)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"step": 10, "group": 0, "lr": 0.1}, "lr_events.step=10: the training has the steps 0 to 9"),
        ({"step": -1, "group": 0, "lr": 0.1}, "lr_events.step=-1: must be at least 0"),
        ({"step": 1, "group": 7, "lr": 0.1}, "lr_events.group=7: the plan has the groups 0 to 2"),
        ({"step": 1, "group": "hed", "lr": 0.1}, "lr_events.group=hed: .*did you mean head"),
        ({"step": 1, "group": "stem", "lr": 0.1}, "lr_events.group=stem: the group is frozen"),
        ({"step": 1, "group": 0, "lr": -0.1}, "lr_events.lr=-0.1: a rate must be finite"),
        ({"step": 1, "group": 0}, r"lr_events.lr=\?\?\?: must be given"),
        ({"step": 1, "group": 0, "lr": 1.0, "to": 5}, "lr_events.to=5: unknown option"),
    ],
)  # fmt: skip
def test_events_that_cannot_be_are_refused(tiny: TinyNet, event: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        make_plan(tiny, freeze=["stem"]).lr_table(steps=10, lr_events=[event])


def test_table_of_a_metric_driven_policy_is_rejected(tiny: TinyNet) -> None:
    with pytest.raises(ConfigError, match="is metric-driven"):
        make_plan(tiny).lr_table("plateau", steps=10)


def test_plateau_watches_the_named_metric(tiny: TinyNet) -> None:
    plan = make_plan(tiny)
    scheduler = plan.scheduler(
        plan.optimizer("sgd"), "plateau", steps=50, patience=0, mode="max", metric="val/accuracy"
    )
    for value in (0.5, 0.6, 0.6):
        scheduler.observe({"val/loss": 0.0, "val/accuracy": value})
    assert scheduler.rates() == pytest.approx([g.lr * 0.1 for g in plan.groups])
    with pytest.raises(ConfigError, match=r"policy.metric=val/accuracy: no such metric"):
        scheduler.observe({"val/acc": 1.0})


def test_any_torch_scheduler_works_on_the_plans_groups(tiny: TinyNet) -> None:
    plan = make_plan(tiny)
    optimizer = torch.optim.SGD(plan.param_groups())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([g.lr / 2 for g in plan.groups])


@pytest.mark.parametrize("fused", [False, True])
def test_rate_in_a_tensor_is_written_into_that_tensor_and_read_back_from_it(tiny: TinyNet, fused: bool) -> None:
    """As a compiled optimizer step needs it: a new tensor would be recompiled, or never seen."""
    plan = make_plan(tiny, grouping="per_parameter", mult=0.9, freeze=["blocks.1"])
    optimizer = plan.optimizer("adam", fused=fused)
    tensors = [torch.tensor(group["lr"], dtype=torch.float64) for group in optimizer.param_groups]
    for group, tensor in zip(optimizer.param_groups, tensors, strict=True):
        group["lr"] = tensor
    scheduler = plan.scheduler(optimizer, "cosine", steps=20, warmup_steps=3)
    table = plan.lr_table("cosine", steps=20, warmup_steps=3)
    for step in range(10):
        assert scheduler.rates() == table[step].tolist()
        assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, tensors, strict=True))
        optimizer.step()
        (scheduler.advance if step % 2 else scheduler.step)()
    tensors[0].fill_(0.5)
    assert scheduler.rates()[0] == scheduler.group_lr(0) == 0.5
    scheduler.set_lr(0, 0.25)
    assert tensors[0].item() == 0.25
