"""pytorch-ignite needs no adapter: its own handlers take a plan's optimizer and scheduler."""

from __future__ import annotations

import pytest
from torch import nn

from lwexp import make_plan
from tests.helpers.wrapped_networks import seeded_tiny, tiny_batches

pytest.importorskip("ignite")

from ignite.engine import Events, create_supervised_trainer
from ignite.handlers.param_scheduler import LRScheduler

STEPS = 8


def test_a_trainer_with_its_scheduler_handler() -> None:
    model = seeded_tiny()
    plan = make_plan(model, grouping="depth_index", lr=0.01, mult=0.5)
    optimizer = plan.optimizer("adamw")
    scheduler = plan.scheduler(optimizer, "cosine", steps=STEPS, warmup_steps=2)
    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss())
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: scheduler.step())
    seen: list[list[float]] = []
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: seen.append(scheduler.rates()))
    trainer.run(tiny_batches(STEPS), max_epochs=1)
    assert seen == plan.lr_table("cosine", steps=STEPS, warmup_steps=2).tolist()


def test_ignites_wrapper_of_a_scheduler() -> None:
    model = seeded_tiny()
    plan = make_plan(model, grouping="depth_index", lr=0.01, mult=0.5)
    optimizer = plan.optimizer("adamw")
    handler = LRScheduler(plan.scheduler(optimizer, "linear", steps=STEPS))
    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss())
    trainer.add_event_handler(Events.ITERATION_STARTED, handler)
    seen: list[float] = []
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: seen.append(optimizer.param_groups[0]["lr"]))
    trainer.run(tiny_batches(STEPS), max_epochs=1)
    assert seen == plan.lr_table("linear", steps=STEPS)[:, 0].tolist()
