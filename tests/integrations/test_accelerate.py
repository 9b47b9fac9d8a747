"""Accelerate: what a prepared optimizer and scheduler do, with and without a gradient scaler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lwexp import ConfigError, make_plan
from tests.helpers.wrapped_networks import seeded_tiny, tiny_batches

accelerate = pytest.importorskip("accelerate")

from accelerate.state import AcceleratorState, GradientState, PartialState  # noqa: E402

from lwexp.integrations.accelerate import prepare  # noqa: E402

STEPS = 8
PLAN: dict[str, Any] = {"grouping": "depth_index", "lr": 0.01, "mult": 0.5}


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    yield
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


def accelerator(scale: float | None = None, **options: Any) -> Any:
    """With a gradient scaler of the CPU, which Accelerate makes on a GPU only."""
    made = accelerate.Accelerator(cpu=True, **options)
    if scale is not None:
        made.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    return made


def train(
    made: Any, model: nn.Module, optimizer: Any, scheduler: Any, batches: Any, overflows: Sequence[int] = ()
) -> list[tuple[bool, float]]:
    """Whether each step was skipped, and the head's rate in it; the steps `overflows` have an infinite gradient."""
    seen: list[tuple[bool, float]] = []
    for images, labels in batches:
        with made.accumulate(model):
            rate = optimizer.param_groups[0]["lr"]
            made.backward(nn.functional.cross_entropy(model(images), labels))
            if len(seen) in overflows:
                next(model.parameters()).grad.fill_(torch.inf)  # type: ignore[union-attr]
            if made.sync_gradients:
                made.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if made.sync_gradients:
                seen.append((optimizer.step_was_skipped, rate))
    return seen


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("by_hand", [False, True])
def test_overflowed_steps_do_not_advance_the_schedule(optimizer: str, by_hand: bool) -> None:
    """Row 16: with our function and with `accelerator.prepare` alone."""
    made = accelerator(scale=2.0**10)
    if by_hand:
        model = seeded_tiny()
        plan = make_plan(model, **PLAN)
        plain = plan.optimizer(optimizer)
        parts = made.prepare(model, plain, plan.scheduler(plain, "cosine", steps=STEPS), tiny_batches(STEPS))
    else:
        parts = prepare(
            made, seeded_tiny(), tiny_batches(STEPS), steps=STEPS, optimizer=optimizer, policy="cosine", **PLAN
        )
    seen = train(made, *parts, overflows=(0, 1, 4))
    assert [step for step, (skipped, _) in enumerate(seen) if skipped] == [0, 1, 4]
    expected = make_plan(seeded_tiny(), **PLAN).lr_table("cosine", steps=STEPS)[:, 0].tolist()
    taken = [rate for each, rate in seen if not each]
    assert taken == expected[: len(taken)]
    assert parts[2].scheduler.last_epoch == len(taken)


def test_a_fused_optimizer_that_is_asked_for_hides_its_skipped_steps() -> None:
    options: dict[str, Any] = {"optimizer": "adam", "optimizer_options": {"fused": True}}
    with pytest.raises(ConfigError, match=r"^optimizer\.fused=True: hides skipped steps from Accelerate"):
        prepare(accelerator(scale=2.0), seeded_tiny(), **options, **PLAN)
    prepare(accelerator(), seeded_tiny(), **options, **PLAN)


def test_accumulated_gradients_and_a_state_that_is_saved(tmp_path: Path) -> None:
    made = accelerator(gradient_accumulation_steps=2)
    parts = prepare(made, seeded_tiny(), tiny_batches(STEPS), steps=STEPS // 2, policy="cosine", **PLAN)
    seen = train(made, *parts)
    assert [rate for _, rate in seen] == make_plan(seeded_tiny(), **PLAN).lr_table("cosine", steps=4)[:, 0].tolist()
    made.save_state(str(tmp_path))
    rates = parts[2].scheduler.rates()
    parts[2].scheduler.last_epoch = 0
    made.load_state(str(tmp_path))
    assert parts[2].scheduler.last_epoch == 4
    assert parts[2].scheduler.rates() == rates


@pytest.mark.parametrize("processes", [1, 4])
def test_the_schedule_counts_optimizer_steps_on_any_number_of_processes(
    processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = accelerator()
    parts = prepare(made, seeded_tiny(), tiny_batches(STEPS), steps=STEPS, policy="linear", **PLAN)
    monkeypatch.setattr(AcceleratorState, "num_processes", processes, raising=False)
    train(made, *parts)
    assert parts[2].scheduler.last_epoch == STEPS


def test_a_plateau_observes_a_metric() -> None:
    """Row 10: `step(metric)` of Accelerate's scheduler, and `observe` of the plan's."""
    options = {"metric": "val", "patience": 0, "factor": 0.5}
    made = accelerator()
    parts = prepare(made, seeded_tiny(), tiny_batches(2), policy="plateau", policy_options=options, **PLAN)
    train(made, *parts)
    for _ in range(2):
        parts[2].step(1.0)
    assert parts[2].scheduler.rates()[0] == pytest.approx(0.005)
    parts[2].scheduler.observe({"val": 1.0})
    assert parts[2].scheduler.rates()[0] == pytest.approx(0.0025)
