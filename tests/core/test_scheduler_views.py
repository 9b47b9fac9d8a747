"""What a scheduler shows of itself: one line, and the rates of the coming steps."""

from __future__ import annotations

import pytest

from lwexp import ConfigError, make_plan
from tests.helpers.networks import TinyNet


def test_preview_has_the_rates_that_follow(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr=0.1, mult=0.5)
    optimizer = plan.optimizer("sgd")
    scheduler = plan.scheduler(optimizer, "cosine", steps=8, warmup_steps=2)
    coming = scheduler.preview(100)
    assert list(coming) == list(range(8))
    assert list(scheduler.preview(3)) == [0, 1, 2]
    for step in range(8):
        assert list(coming[step].values()) == scheduler.rates()
        assert scheduler.preview(1)[step] == coming[step]
        optimizer.step()
        scheduler.step()
    assert scheduler.preview() == {}
    assert list(coming[0]) == ["head", "blocks", "stem"]


def test_preview_follows_rates_that_were_set(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr=0.1, mult=0.5, freeze=["stem"])
    scheduler = plan.scheduler(plan.optimizer("sgd"))
    scheduler.set_lr("blocks", 0.25)
    assert scheduler.preview(2) == {step: {"head": 0.1, "blocks": 0.25, "stem": 0.0} for step in (0, 1)}


def test_preview_of_what_metrics_decide_is_refused(tiny: TinyNet) -> None:
    plan = make_plan(tiny)
    scheduler = plan.scheduler(plan.optimizer("sgd"), "plateau")
    with pytest.raises(ConfigError, match="is metric-driven"):
        scheduler.preview()
    with pytest.raises(ConfigError, match=r"^steps=0: must be at least 1$"):
        scheduler.preview(0)


def test_repr_is_one_line(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr=0.1, mult=0.5, freeze=["stem"])
    optimizer = plan.optimizer("sgd")
    scheduler = plan.scheduler(optimizer, "cosine", steps=9)
    optimizer.step()
    scheduler.step()
    assert repr(scheduler) == f"<PlanScheduler cosine, step 1 of 9: 2 groups at 0.096194 to 0.048097, plan {plan.hash}>"
    uniform = make_plan(tiny, decay="none")
    assert repr(uniform.scheduler(uniform.optimizer("sgd"))) == (
        f"<PlanScheduler constant, step 0: 3 groups at 0.001, plan {uniform.hash}>"
    )
