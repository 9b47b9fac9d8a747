"""Policies per pattern, phases and groups that open at a step: each rate, and what does not move meanwhile."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lwexp import ConfigError, Plan, PlanScheduler, make_plan
from lwexp.core.policy import make_policy
from tests.helpers.networks import TinyNet

HEAD, BLOCKS, STEM = range(3)


def tiny(**options: Any) -> Plan:
    return make_plan(TinyNet(), lr=0.1, mult=0.5, **options)


def column(policy: str, steps: int, lr: float, **options: Any) -> list[float]:
    made = make_policy(policy, options, lr=0.1, steps=steps)
    return [lr * made(t) for t in range(steps)]


def run(scheduler: PlanScheduler, steps: int) -> list[list[float]]:
    rows = []
    for _ in range(steps):
        rows.append(scheduler.rates())
        scheduler.optimizer.step()
        scheduler.step()
    return rows


# Policies per pattern


def test_each_group_follows_the_first_pattern_that_covers_it_and_the_rest_the_global_policy() -> None:
    plan = tiny()
    with pytest.raises(ConfigError, match=r"^policies=h\*: an earlier pattern covers all it matches; put it first"):
        plan.schedule("constant", steps=20, policies={"head": "linear", "h*": "constant"})
    with pytest.raises(ConfigError, match=r"^policies=\*\.weight: covers a part of the group .*split_groups=\["):
        plan.schedule("constant", steps=20, policies={"*.weight": "linear"})
    table = plan.lr_table("linear", steps=20, policies={"head": {"name": "cosine", "warmup_steps": 4}, "stem": "rex"})
    assert table[:, HEAD].tolist() == column("cosine", 20, 0.1, warmup_steps=4)
    assert table[:, BLOCKS].tolist() == column("linear", 20, 0.05)
    assert table[:, STEM].tolist() == column("rex", 20, 0.025)


@given(steps=st.integers(2, 60), warmup=st.integers(0, 2), step=st.integers(0, 59))
def test_ratios_hold_inside_of_each(steps: int, warmup: int, step: int) -> None:
    plan = make_plan(TinyNet(), grouping="per_parameter", lr=0.1, mult=0.9)
    policies = {"head": {"name": "cosine", "min_lr": 0.01}, "*": {"name": "linear", "warmup_steps": warmup}}
    rates = plan.schedule(steps=steps, policies=policies).rates(min(step, steps - 1))
    for names in (("head",), ("blocks", "stem")):
        inside = [(g.lr, r) for g, r in zip(plan.groups, rates, strict=True) if g.name.startswith(names)]
        assert all(r == pytest.approx(inside[0][1] * lr / inside[0][0]) for lr, r in inside)


def test_policies_of_each_kind_are_taken_also_in_a_pickle_and_a_state() -> None:
    policies: dict[str, Any] = {
        "head": {"kind": "torch", "name": "StepLR", "options": {"step_size": 3}},
        "blocks": {"name": "plateau", "factor": 0.5, "patience": 0},
        "stem": half,
    }
    plan = tiny()
    scheduler = plan.scheduler(plan.optimizer("sgd"), "constant", steps=20, policies=policies)
    assert scheduler.schedule.is_metric_driven
    run(scheduler, 4)
    for value in (1.0, 2.0, 3.0):
        scheduler.step(value)
    assert scheduler.rates() == pytest.approx([0.01, 0.05 / 4, 0.025 / 5])
    copied = pickle.loads(pickle.dumps(scheduler))
    other = plan.scheduler(plan.optimizer("sgd"), "constant", steps=20, policies=policies)
    other.load_state_dict(scheduler.state_dict())
    expected = run(scheduler, 5)
    assert run(copied, 5) == run(other, 5) == expected
    with pytest.raises(ConfigError, match="metric-driven"):
        plan.lr_table("constant", steps=20, policies=policies)


def half(step: int) -> float:
    return 1 / (1 + step)


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ({"heed": "cosine"}, "policies=heed: the pattern matches no parameter; did you mean head"),
        ({"head": "cosin"}, "policies.head=cosin: no such policy; did you mean cosine"),
        ({"head": {"name": "cosine", "gamma": 1}}, "policies.head.gamma=1: unknown option"),
        ({"head": {"warmup_steps": 1}}, r"policies.head.name=\?\?\?: must be given"),
        ({"head": {"name": "linear", "warmup_steps": 50}}, "policies.head.warmup_steps=50: the warm-up is longer"),
        ({"head": 3}, "policies.head=3: must be the name of a policy, or a mapping"),
        ("head", "policies=head: must map patterns to policies"),
    ],
)
def test_mistakes_in_policies_name_their_pattern(policies: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        tiny().schedule(steps=20, policies=policies)


# Phases


def test_lp_ft_is_two_phases() -> None:
    """First the head alone, then all (arXiv:2202.10054), each with a policy over its own steps."""
    plan = tiny()
    phases = [{"epochs": 2, "train": "head"}, {"policy": {"name": "cosine", "warmup_fraction": 0.1}, "lr_factor": 0.1}]
    table = plan.lr_table("constant", steps=50, steps_per_epoch=10, phases=phases)
    assert table[:20, HEAD].tolist() == [0.1] * 20
    assert not table[:20, BLOCKS:].any()
    for group, lr in ((HEAD, 0.01), (BLOCKS, 0.005), (STEM, 0.0025)):
        expected = column("cosine", 30, lr, warmup_steps=3)
        assert table[20:, group].tolist() == pytest.approx(expected, rel=1e-15)
    assert table[20, HEAD] == pytest.approx(0.01 / 3)
    assert table[-1].tolist() == [0, 0, 0]


def test_fastais_fine_tune_is_two_phases() -> None:
    """`fine_tune(4, base_lr)`: a cycle of the head over one epoch, then half the rate and a shorter way up, div=5.

    fastai places step t of T at t / T and its peak at pct_start, torch the peak at pct_start * T - 1.
    """

    def cycle(steps: int, pct: float, div: float) -> dict[str, Any]:
        options = {"pct_start": (pct * steps + 1) / (steps + 1), "div_factor": div, "final_div_factor": 1e5 / div}
        return {"name": "onecycle", "convention": "transformers", **options}

    def fastai(t: int, steps: int, top: float, pct: float, div: float) -> float:
        p = t / steps
        start, end, p = (top / div, top, p / pct) if p < pct else (top, top / 1e5, (p - pct) / (1 - pct))
        return start + (1 + math.cos(math.pi * (1 - p))) * (end - start) / 2

    plan = tiny()
    phases = [
        {"epochs": 1, "train": ["head"], "policy": cycle(10, 0.99, 25)},
        {"epochs": 4, "policy": cycle(40, 0.3, 5), "lr_factor": 0.5},
    ]
    rates = plan.lr_table(steps=50, steps_per_epoch=10, phases=phases).tolist()
    for t in range(10):
        assert rates[t] == [pytest.approx(fastai(t, 10, 0.1, 0.99, 25), rel=1e-12), 0, 0]
    for t in range(40):
        head = fastai(t, 40, 0.05, 0.3, 5)
        assert rates[10 + t] == pytest.approx([head, head / 2, head / 4], rel=1e-12)
    assert rates[22][HEAD] == 0.05


def test_phases_have_policies_of_their_own_and_lengths_of_three_kinds() -> None:
    plan = tiny()
    phases: list[dict[str, Any]] = [
        {"steps": 5, "policies": {"head": "linear"}},
        {"epochs": 1.5, "train": ["stem", "blocks"], "policy": "cosine"},
        {"fraction": 0.25},
        {},
    ]
    table = plan.lr_table("constant", steps=40, steps_per_epoch=6, phases=phases, policies={"stem": "rex"})
    assert table[:5, HEAD].tolist() == column("linear", 5, 0.1)
    assert table[:5, STEM].tolist() == [0.025] * 5  # the phase's own patterns replace the others
    assert table[5:14, BLOCKS].tolist() == column("cosine", 9, 0.05)
    assert not table[5:14, HEAD].any()
    assert table[14:24, STEM].tolist() == column("rex", 10, 0.025)
    assert table[24:, STEM].tolist() == column("rex", 16, 0.025)
    thirds = plan.schedule(steps=10, phases=[{"fraction": 1 / 3}] * 3)
    assert [phase.start for phase in thirds.phases] == [0, 3, 7]
    assert plan.schedule(phases=[{"steps": 3}, {"steps": 4, "policy": "linear"}]).steps == 7


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ([{"steps": 5}, {"steps": 5}], "phases=2: the phases take 10 optimizer steps, the training has 20"),
        ([{"steps": 20}, {}], "phases.1={}: would start at step 20, the training has the steps 0 to 19"),
        ([{}, {"steps": 5}], r"phases.0.steps=\?\?\?: must be given, or epochs or fraction"),
        ([{"steps": 5, "epochs": 1}, {}], "phases.0.epochs=1: is given beside steps=5"),
        ([{"steps": 0}, {}], "phases.0.steps=0: a phase needs at least one optimizer step"),
        ([{"fraction": 1.5}, {}], "phases.0.fraction=1.5: must be from 0 to 1"),
        ([{"steps": 5, "train": ["heed"]}, {}], "phases.0.train=heed: the pattern matches no parameter; did you mean"),
        ([{"steps": 5, "train": ["head.bias"]}, {}], "phases.0.train=head.bias: covers a part of the group head only"),
        ([{"steps": 5, "train": []}, {}], r"phases.0.train=\[\]: must be a pattern or a list"),
        ([{"steps": 5, "train": ["stem"]}, {}], r"phases.0.train=\['stem'\]: everything it matches is frozen"),
        ([{"step": 5}, {}], "phases.0.step=5: unknown option; did you mean steps"),
        ([{"steps": 5, "policy": {"name": "linear", "min_lr": 1}}, {}], "phases.0.policy.min_lr=1.0: the floor"),
        ([{"steps": 5, "lr_factor": 0}, {}], "phases.0.lr_factor=0.0: must be above 0"),
        ({"steps": 5}, "phases=.*: must be a list of mappings"),
        ([5], "phases.0=5: must be a mapping"),
    ],
)  # fmt: skip
def test_mistakes_in_phases_name_their_place(phases: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        tiny(freeze=["stem"]).schedule(steps=20, phases=phases)


@pytest.mark.parametrize(
    "options",
    [{"phases": [{"steps": 4, "train": ["head"]}, {}]}, {"unfreeze_every_steps": 4}, {"unfreeze_at": {"blocks": 4}}],
)
@pytest.mark.parametrize(
    ("optimizer", "settings"), [("adamw", {}), ("sgd", {"momentum": 0.9, "nesterov": True}), ("adam", {}), ("lion", {})]
)
def test_what_rests_does_not_move_by_a_bit(optimizer: str, settings: dict[str, Any], options: dict[str, Any]) -> None:
    """Neither by weight decay nor by momentum, although its gradients are there."""
    torch.manual_seed(0)
    model = TinyNet()
    plan = make_plan(model, lr=0.1, mult=0.5)
    scheduler = plan.scheduler(plan.optimizer(optimizer, weight_decay=0.1, **settings), steps=12, **options)
    for step in range(6):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        rates = scheduler.rates()
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        scheduler.optimizer.step()
        scheduler.step()
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        expected = {name for g, lr in zip(plan.groups, rates, strict=True) if lr for name in g.parameter_names}
        assert moved == expected
        assert (rates[BLOCKS] > 0) == (step >= 4)


def test_a_group_may_rest_again() -> None:
    torch.manual_seed(0)
    model = TinyNet()
    plan = make_plan(model, lr=0.1)
    phases = [{"steps": 2}, {"steps": 3, "train": ["head"]}, {}]
    scheduler = plan.scheduler(plan.optimizer("sgd", momentum=0.9, weight_decay=0.1), steps=8, phases=phases)
    stems = []
    for _ in range(6):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        scheduler.optimizer.step()
        scheduler.step()
        stems.append(model.stem.weight.detach().clone())
    assert [torch.equal(a, b) for a, b in pairwise(stems)] == [False, True, True, True, False]


def test_a_metric_counts_for_the_phase_that_made_it() -> None:
    plan = tiny()
    plateau = {"name": "plateau", "factor": 0.5, "patience": 0}
    phases = [{"steps": 4, "policy": plateau}, {"policy": {**plateau, "factor": 0.1}}]
    scheduler = plan.scheduler(plan.optimizer("sgd"), steps=12, phases=phases)
    for value in (1.0, 2.0):
        run(scheduler, 2)
        scheduler.observe({"val/loss": value})  # the second one after the last step of the first phase
    assert scheduler.rates()[HEAD] == 0.1
    assert [p.shape(0) for p in scheduler.schedule.policies] == [0.5, 1.0]  # type: ignore[attr-defined]
    for value in (3.0, 4.0):
        run(scheduler, 2)
        scheduler.observe({"val/loss": value})
    assert scheduler.rates()[HEAD] == pytest.approx(0.01)


# Groups that open at a step


def test_groups_open_at_their_step() -> None:
    plan = make_plan(TinyNet(), grouping="per_parameter", lr=0.1, mult=0.9)
    table = plan.lr_table("linear", steps=20, unfreeze_at={"blocks.3": 5, "blocks": 8, "stem": 19})
    plain = plan.lr_table("linear", steps=20)
    for i, group in enumerate(plan.groups):
        opens = {"head": 0, "stem": 19}.get(group.name.split(".")[0], 5 if group.name.startswith("blocks.3") else 8)
        assert not table[:opens, i].any()
        assert torch.equal(table[opens:, i], plain[opens:, i])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unfreeze_at": {"stem": 20}}, "unfreeze.at.stem=20: the training has the steps 0 to 19"),
        ({"unfreeze_at": {"stem": 2.5}}, "unfreeze.at.stem=2.5: must be a whole number"),
        ({"unfreeze_at": {"steam": 2}}, "unfreeze.at=steam: the pattern matches no parameter; did you mean stem"),
        ({"unfreeze_at": {"blocks.1": 2}}, r"unfreeze.at=blocks.1: covers a part of the group blocks only; .*split"),
        ({"unfreeze_at": {"stem": 2}, "unfreeze_every_steps": 3}, "unfreeze.at=.*: is given beside every_steps"),
        ({"unfreeze_at": "stem"}, "unfreeze.at=stem: must map patterns to optimizer steps"),
    ],
)
def test_mistakes_in_what_opens(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        tiny().schedule(steps=20, **options)


# What follows


CASES: dict[str, dict[str, Any]] = {
    "policies": {"policies": {"head": "cosine"}},
    "another policy": {"policies": {"head": {"name": "cosine", "warmup_steps": 2}}},
    "phases": {"phases": [{"steps": 5, "train": ["head"]}, {}]},
    "longer": {"phases": [{"steps": 6, "train": ["head"]}, {}]},
    "others train": {"phases": [{"steps": 5, "train": ["head", "stem"]}, {}]},
    "another rate": {"phases": [{"steps": 5, "train": ["head"]}, {"lr_factor": 0.5}]},
    "opens": {"unfreeze_at": {"stem": 5}},
    "opens later": {"unfreeze_at": {"stem": 6}},
    "every": {"unfreeze_every_steps": 5},
    "plain": {},
}


@pytest.mark.parametrize("case", CASES)
def test_a_state_continues_bit_for_bit_and_is_refused_by_other_settings(case: str) -> None:
    plan = tiny()
    first = plan.scheduler(plan.optimizer("sgd"), "linear", steps=20, **CASES[case])
    rows = run(first, 20)
    assert rows == plan.lr_table("linear", steps=20, **CASES[case]).tolist()
    half = plan.scheduler(plan.optimizer("sgd"), "linear", steps=20, **CASES[case])
    run(half, 4)
    half.set_lr("stem", 0.5)
    for other, options in CASES.items():
        again = plan.scheduler(plan.optimizer("sgd"), "linear", steps=20, **options)
        if other == case:
            again.load_state_dict(half.state_dict())
            assert run(again, 16) == [[*row[:2], 0.5] for row in rows[4:]]
        else:
            with pytest.raises(ConfigError, match=r"^policy=linear: .* saved with others: (phases|policies|unfreeze)"):
                again.load_state_dict(half.state_dict())


@pytest.mark.parametrize(
    ("options", "uniform"),
    [
        ({}, True),
        ({"phases": [{"steps": 5, "lr_factor": 0.5}, {"policy": "cosine"}]}, True),
        ({"policies": {"*": "cosine"}}, True),
        ({"policies": {"head": "cosine"}}, False),
        ({"phases": [{"steps": 5, "train": ["head"]}, {}]}, False),
        ({"unfreeze_at": {"stem": 5}}, False),
        ({"unfreeze_at": {"stem": 0}}, True),
    ],
)
def test_uniform_means_one_policy_for_all_at_every_step(options: dict[str, Any], uniform: bool) -> None:
    plan = make_plan(TinyNet(), decay="none")
    assert plan.schedule("linear", steps=20, **options).uniform is uniform
