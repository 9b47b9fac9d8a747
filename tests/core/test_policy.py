from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lwexp.core.policy import make_policy
from lwexp.core.shapes import POLICIES
from lwexp.errors import ConfigError

# What each policy needs to be built; those that fall to the floor at the last step.
OPTIONS: dict[str, dict[str, object]] = {
    "constant": {},
    "warmup_exponential": {"k": 0.05},
    "linear": {},
    "cosine": {},
    "cosine_restarts": {"cycles": 3, "cycle_mult": 2},
    "rex": {},
    "polynomial": {},
    "step": {"step_size": 7},
    "multistep": {"milestones": [5, 20]},
    "onecycle": {},
    "inverse_sqrt": {},
    "wsd": {},
    "slanted_triangular": {},
    "plateau": {},
    "torch": {"name": "CosineAnnealingLR"},
}
TO_THE_FLOOR = ["linear", "cosine", "cosine_restarts", "rex", "polynomial", "wsd"]


def test_every_policy_is_tested() -> None:
    assert set(OPTIONS) == set(POLICIES)


@pytest.mark.parametrize("name", OPTIONS)
@given(steps=st.integers(1, 300), warmup=st.integers(0, 50), kind=st.sampled_from(["linear", "hold"]))
def test_factor_stays_between_zero_and_one(name: str, steps: int, warmup: int, kind: str) -> None:
    warmup = min(warmup, steps)
    policy = make_policy(name, {**OPTIONS[name], "warmup_steps": warmup, "warmup": kind}, lr=0.1, steps=steps)
    factors = [policy(t) for t in range(steps + 5)]
    assert all(0 <= f <= 1 + 1e-12 for f in factors)
    expected = [(t + 1) / warmup if kind == "linear" else 1.0 for t in range(warmup)]
    assert factors[:warmup] == expected


@pytest.mark.parametrize("name", [n for n in OPTIONS if n not in ("onecycle", "plateau")])
@given(steps=st.integers(2, 200), floor=st.floats(0, 1))
def test_factor_never_falls_below_a_relative_floor(name: str, steps: int, floor: float) -> None:
    policy = make_policy(name, {**OPTIONS[name], "min_lr": 0.1 * floor}, lr=0.1, steps=steps)
    assert all(policy(t) >= floor - 1e-12 for t in range(steps))


@pytest.mark.parametrize("name", TO_THE_FLOOR)
@given(steps=st.integers(2, 200))
def test_last_step_has_the_end_value(name: str, steps: int) -> None:
    policy = make_policy(name, {"min_lr": 0.02}, lr=0.1, steps=steps)
    assert policy(0) == 1
    assert policy(steps - 1) == pytest.approx(0.2)
    assert policy(steps + 10) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("name", "options", "steps", "expected"),
    [
        ("linear", {}, 5, [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", {}, 5, [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0]),
        ("polynomial", {"power": 2.0}, 5, [1, 0.5625, 0.25, 0.0625, 0]),
        ("polynomial", {"power": 2.0, "min_lr": 0.05}, 3, [1, 0.625, 0.5]),
        ("step", {"step_size": 2, "gamma": 0.5}, 5, [1, 1, 0.5, 0.5, 0.25]),
        ("multistep", {"milestones": [1, 3], "gamma": 0.5}, 5, [1, 0.5, 0.5, 0.25, 0.25]),
        ("multistep", {"milestones": [0.2, 0.6], "gamma": 0.5}, 5, [1, 0.5, 0.5, 0.25, 0.25]),
        ("inverse_sqrt", {"timescale": 4}, 6, [(1 + t / 4) ** -0.5 for t in range(6)]),
        ("wsd", {"decay_fraction": 0.5}, 5, [1, 1, 1, 0.5, 0]),
        ("wsd", {"decay_fraction": 0.5, "decay_shape": "sqrt"}, 5, [1, 1, 1, 1 - math.sqrt(0.5), 0]),
        ("slanted_triangular", {"cut_fraction": 0.4, "ratio": 5.0}, 5, [0.2, 0.6, 1, 0.6, 0.2]),
        ("linear", {"warmup_steps": 2}, 5, [0.5, 1, 1, 0.5, 0]),
        ("linear", {"warmup_steps": 2, "warmup": "hold"}, 5, [1, 1, 1, 0.5, 0]),
        ("warmup_exponential", {"k": math.log(2), "warmup_steps": 2, "min_lr": 0.025}, 6, [1, 1, 1, 0.5, 0.25, 0.25]),
        ("constant", {"warmup_steps": 4}, 6, [0.25, 0.5, 0.75, 1, 1, 1]),
    ],
)  # fmt: skip
def test_factors_of_round_numbers(name: str, options: dict[str, object], steps: int, expected: list[float]) -> None:
    policy = make_policy(name, options, lr=0.1, steps=steps)
    assert [policy(t) for t in range(steps)] == pytest.approx(expected, abs=1e-12)


def _torch_factors(make: type, options: dict[str, object], steps: int, lr: float) -> list[float]:
    """The slow oracle: torch's own scheduler on one parameter."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer, **options)
    factors = []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"] / lr)
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize("steps", [12, 100])
@pytest.mark.parametrize(
    ("name", "options", "scheduler", "theirs"),
    [
        ("step", {"step_size": 7, "gamma": 0.3}, "StepLR", {"step_size": 7, "gamma": 0.3}),
        ("multistep", {"milestones": [3, 9]}, "MultiStepLR", {"milestones": [3, 9]}),
        ("onecycle", {"pct_start": 0.25}, "OneCycleLR", {"pct_start": 0.25, "cycle_momentum": False, "max_lr": 0.1}),
        ("cosine", {}, "CosineAnnealingLR", {}),
        ("linear", {}, "LinearLR", {"start_factor": 1.0, "end_factor": 1e-12}),
    ],
)
def test_closed_forms_equal_torchs_schedulers(
    name: str, options: dict[str, object], scheduler: str, theirs: dict[str, object], steps: int
) -> None:
    length = {
        "OneCycleLR": {"total_steps": steps + 1},
        "CosineAnnealingLR": {"T_max": steps - 1},
        "LinearLR": {"total_iters": steps - 1},
    }
    make = getattr(torch.optim.lr_scheduler, scheduler)
    given = {**theirs, **length.get(scheduler, {})}
    if scheduler == "OneCycleLR":
        # torch rejects the step after the last: take the same shape from a scheduler of exactly these steps
        given["total_steps"] = steps
        expected = _torch_factors(make, given, steps - 1, 0.1)
        policy = make_policy(name, options, lr=0.1, steps=steps)
        assert [policy(t) for t in range(steps - 1)] == pytest.approx(expected)
        return
    policy = make_policy(name, options, lr=0.1, steps=steps)
    assert [policy(t) for t in range(steps)] == pytest.approx(_torch_factors(make, given, steps, 0.1), abs=1e-9)


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        ("CosineAnnealingWarmRestarts", {"T_0": 5}),
        ("ExponentialLR", {"gamma": 0.9}),
        ("OneCycleLR", {}),
        ("CosineAnnealingLR", {"eta_min": 0.01}),
        ("CyclicLR", {"step_size_up": 4}),
        ("LinearLR", {}),
        ("PolynomialLR", {"total_iters": 8}),
    ],
)
def test_torch_policy_follows_torchs_class_at_any_step(scheduler: str, options: dict[str, object]) -> None:
    policy = make_policy("torch", {"name": scheduler, "options": options}, lr=0.1, steps=20)
    filled: dict[str, object] = {
        "OneCycleLR": {"max_lr": 0.1, "total_steps": 20, "cycle_momentum": False},
        "CosineAnnealingLR": {"T_max": 19},
        "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "cycle_momentum": False},
    }.get(scheduler, {})  # type: ignore[assignment]
    expected = _torch_factors(getattr(torch.optim.lr_scheduler, scheduler), {**options, **filled}, 19, 0.1)
    assert [policy(t) for t in (18, 3, 0, 11)] == pytest.approx([expected[t] for t in (18, 3, 0, 11)])


def test_torch_policy_by_epoch_moves_once_an_epoch() -> None:
    options = {"name": "StepLR", "options": {"step_size": 1, "gamma": 0.5}, "interval": "epoch"}
    policy = make_policy("torch", options, lr=0.1, steps=9, steps_per_epoch=3)
    assert [policy(t) for t in range(9)] == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25])


def test_plateau_cuts_after_patience_without_improvement() -> None:
    policy = make_policy("plateau", {"patience": 1, "factor": 0.5}, lr=1e-9, steps=100)
    factors = []
    for loss in (1.0, 0.9, 0.95, 0.95, 0.95, 0.95):
        policy.shape.observe(loss)
        factors.append(policy(0))
    assert factors == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25])


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("cosin", {}, "policy=cosin: no such policy; did you mean cosine"),
        ("cosine", {"warmup_steps": 101}, "policy.warmup_steps=101: the warm-up is longer than the training of 100"),
        ("cosine", {"warmup_steps": 1.5}, "policy.warmup_steps=1.5: must be a whole number"),
        ("cosine", {"warmup_steps": -1}, "policy.warmup_steps=-1: must be at least 0"),
        ("cosine", {"warmup": "lin"}, "policy.warmup=lin: .*did you mean linear"),
        ("cosine", {"min_lr": 0.2}, "policy.min_lr=0.2: the floor is above the base rate lr=0.1"),
        ("cosine", {"minlr": 0.2}, "policy.minlr=0.2: unknown option"),
        ("cosine", {"steps": 20}, "policy.steps=20: unknown option"),
        ("polynomial", {"power": 0}, "policy.power=0.0: must be above 0"),
        ("step", {}, r"policy.step_size=\?\?\?: must be given"),
        ("multistep", {"milestones": [5, 3]}, r"policy.milestones=\[5, 3\]: needs rising steps"),
        ("multistep", {"milestones": [1.5]}, r"policy.milestones.0=1.5: must be a whole number"),
        ("multistep", {"milestones": [0.5, 3]}, r"policy.milestones=\[0.5, 3\]: has steps and fractions"),
        ("plateau", {"factor": 1.0}, "policy.factor=1.0: must be above 0 and below 1"),
        ("torch", {"name": "StepL"}, "policy.name=StepL: no such class.*did you mean StepLR"),
        ("torch", {"name": "StepLR", "options": {"gama": 1}}, "policy.options.gama=1: .*did you mean gamma"),
        ("torch", {"name": "StepLR"}, "policy.options={}: StepLR refuses: .*step_size"),
        ("torch", {"name": "OneCycleLR", "options": {"cycle_momentum": True}}, "policy.options.cycle_momentum=True: "),
        ("torch", {"name": "LambdaLR"}, "policy.options={}: LambdaLR refuses: "),
    ],
)  # fmt: skip
def test_mistakes_name_the_key_and_the_nearest_choice(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        make_policy(name, options, lr=0.1, steps=100)


def test_policy_that_falls_over_the_training_needs_its_length() -> None:
    with pytest.raises(ConfigError, match=r"^steps=null: the policy cosine needs"):
        make_policy("cosine", {}, lr=0.1, steps=None)
    assert make_policy("constant", {}, lr=0.1, steps=None)(10**9) == 1
