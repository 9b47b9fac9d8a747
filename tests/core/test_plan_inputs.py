"""What people pass to the library: numbers of every type, a pattern in place of a list, and mistakes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from lwexp import ConfigError, Event, make_plan
from tests.helpers.networks import TinyNet


def test_a_pattern_may_stand_for_a_list_of_one(tiny: TinyNet) -> None:
    for freeze in ("stem", ("stem",), {"stem"}, iter(["stem"])):
        plan = make_plan(tiny, freeze=freeze)  # type: ignore[arg-type]
        assert plan.frozen_names == ("stem.bias", "stem.weight")
        assert plan.hash == make_plan(tiny, freeze=["stem"]).hash


@pytest.mark.parametrize("number", [np.float32, np.float64, Fraction, np.float16])
def test_rates_may_be_numbers_of_any_type(tiny: TinyNet, number: Any) -> None:
    plan = make_plan(
        tiny, lr=number(0.5), mult=number(0.25), lr_overrides={"blocks.3": number(0.125)}, no_weight_decay=True
    )
    same = make_plan(tiny, lr=0.5, mult=0.25, lr_overrides={"blocks.3": 0.125}, no_weight_decay=True)
    assert plan.hash == same.hash
    assert plan.to_json() == same.to_json()
    scheduler = plan.scheduler(plan.optimizer("sgd"), "cosine", steps=5, min_lr=number(0.125))
    scheduler.set_lr("stem", number(0.75))
    assert scheduler.group_lr("stem") == 0.75
    assert all(type(group["lr"]) is float for group in scheduler.optimizer.param_groups)
    assert [type(lr) for _, _, lr in scheduler.state_dict()["events"]] == [float]
    table = plan.lr_table("step", steps=4, step_size=2, gamma=number(0.5), lr_events=[Event(0, 0, number(0.25))])
    assert torch.equal(table, plan.lr_table("step", steps=4, step_size=2, gamma=0.5, lr_events=[Event(0, 0, 0.25)]))


@pytest.mark.parametrize("number", [np.int64, float, np.float32, np.uint8])
def test_steps_may_be_whole_numbers_of_any_type(tiny: TinyNet, number: Any) -> None:
    plan = make_plan(tiny, lr=0.5)
    options = {"steps": 10, "warmup_steps": 2, "unfreeze_every_steps": 3}
    events = [{"step": number(4), "group": 1, "lr": 0.1}]
    table = plan.lr_table("cosine", lr_events=events, **{key: number(value) for key, value in options.items()})
    assert torch.equal(table, plan.lr_table("cosine", lr_events=[Event(4, 1, 0.1)], **options))  # type: ignore[arg-type]
    scheduler = plan.scheduler(plan.optimizer("sgd"), "torch", name="StepLR", options={"step_size": 2},
                               interval="epoch", steps_per_epoch=number(3), steps=number(9))  # fmt: skip
    if number is np.int64:
        scheduler.set_lr(number(1), 0.25)
        assert scheduler.group_lr(1) == scheduler.group_lr(number(1)) == 0.25


def parameters(model: TinyNet) -> Any:
    return model.parameters()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"freeze": 3}, "freeze=3: must be a pattern or a list of them"),
        ({"freeze": [b"stem"]}, r"freeze=\[b'stem'\]: must be a pattern or a list of them"),
        ({"lr": "0.1"}, "lr=0.1: must be a number"),
        ({"lr": np.float32("nan")}, "lr=nan: must be finite"),
        ({"lr": np.bool_(True)}, "lr=True: must be a number"),
        ({"lr": torch.tensor(0.1)}, "lr=tensor.*: must be a number"),
        ({"lr": None}, "lr=null: must be a number"),
        ({"lr_overrides": {"head": "0.1"}}, "lr_overrides.head=0.1: must be a number"),
        ({"lr_overrides": ["head"]}, r"lr_overrides=\['head'\]: must map patterns to rates"),
        ({"grouping": {"name": "top_module"}}, "grouping={.*}: must be a name or a callable"),
        ({"grouping": None}, "grouping=null: must be a name or a callable"),
        ({"decay": ["linear"]}, r"decay=\['linear'\]: must be a name or a callable"),
    ],
)
def test_mistakes_are_one_clear_line(tiny: TinyNet, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        make_plan(tiny, **settings)


@pytest.mark.parametrize(
    "model", [parameters, lambda m: [*m.parameters()], lambda m: m.state_dict(), lambda m: TinyNet]
)
def test_the_model_must_be_a_module(tiny: TinyNet, model: Any) -> None:
    with pytest.raises(ConfigError, match=r"^model=\w+: must be the torch.nn.Module itself, as in make_plan\(model\)$"):
        make_plan(model(tiny))


@pytest.mark.parametrize(
    ("policy", "options", "said"),
    [
        ({"name": "cosine"}, {}, "policy={.*}: must be a name or a callable step -> factor; its options are keywords"),
        (0.5, {}, "policy=0.5: must be a name or a callable"),
        ("cosine", {"steps": 10.5}, "steps=10.5: must be a whole number"),
        ("cosine", {"steps": "10"}, "steps=10: must be a whole number"),
        ("cosine", {"steps": True}, "steps=True: must be a whole number"),
        ("cosine", {"steps": 0.0}, "steps=0: must be at least 1"),
        ("cosine", {"warmup_steps": 2.5}, "policy.warmup_steps=2.5: must be a whole number"),
        ("cosine", {"unfreeze_every_steps": np.float32(0.5)}, "unfreeze.every_steps=0.5: must be a whole number"),
        ("cosine", {"lr_events": [Event(1, 0, "a")]}, "lr_events.lr=a: must be a number"),  # type: ignore[arg-type]
        ("cosine", {"lr_events": [Event(float("inf"), 0, 1)]}, "lr_events.step=inf: must be"),  # type: ignore[arg-type]
        ("cosine", {"lr_events": {"step": 1, "group": 0, "lr": 1}}, "lr_events="),
        ("cosine", {"lr_events": [3]}, "lr_events=3: must be"),
    ],
)
def test_mistakes_of_a_schedule_are_one_clear_line(
    tiny: TinyNet, policy: Any, options: dict[str, Any], said: str
) -> None:
    plan = make_plan(tiny)
    with pytest.raises(ConfigError, match=f"^{said}"):
        plan.scheduler(plan.optimizer("sgd"), policy, **{"steps": 10, **options})


@pytest.mark.parametrize("optimizer", [{"name": "adam"}, None, 3])
def test_an_optimizer_must_be_a_name_or_a_class(tiny: TinyNet, optimizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"^optimizer=.*: must be a name or a class; its options are keywords"):
        make_plan(tiny).optimizer(optimizer)
