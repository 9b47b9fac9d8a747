"""Measured decays in the loop: a measurement disturbs nothing, resumes exactly, and sees the true step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lwexp.training.trainer import Trainer
from tests.helpers.measured_decays import GradientNorms, Updates
from tests.helpers.tiny_training import BATCHES, Killed, Recorder, close, die_before, flat, load, make_trainer


def measured(folder: Path, **options: Any) -> Trainer:
    rule = options.pop("rule", None) or GradientNorms()
    return make_trainer(folder, plan_options={"decay": rule, **options.pop("plan_options", {})}, **options)


def outcome(trainer: Trainer) -> Any:
    return flat({"model": trainer.learner.model.state_dict(), "optimizer": trainer.learner.optimizer.state_dict()})


OPTIONS = [
    {}, {"accumulate": 2}, {"clip_grad_norm": 0.1}, {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}},
    {"precision": "bf16"}, {"precision": "fp16"}, {"optimizer": "adamw", "optimizer_options": {"fused": False}},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_with_scales_of_one_a_training_is_that_without_measurements(tmp_path: Path, options: dict[str, Any]) -> None:
    """Weights, buffers, optimizer, dropout and the order of the data are the same bits."""
    plain = make_trainer(tmp_path / "plain", plan_options={"decay": "none"}, **options)
    plain.fit()
    watched = measured(tmp_path / "watched", rule=GradientNorms(value=1.0, every_epochs=None, every_steps=1), **options)
    watched.fit()
    assert outcome(watched) == outcome(plain)
    seen = watched.learner.scheduler.measurement.rule.seen  # type: ignore[union-attr]
    assert len(seen) == plain.progress.step
    assert len(set(seen)) == len(seen), "each step was measured on its own batches"
    close(plain)
    close(watched)


@pytest.mark.parametrize("step", [0, 1, BATCHES - 1, BATCHES, BATCHES + 1, 2 * BATCHES])
def test_a_killed_training_resumes_exactly(tmp_path: Path, step: int) -> None:
    whole = measured(tmp_path / "whole")
    whole.fit()
    assert len(set(whole.learner.scheduler.measurement.scales)) > 3, "the scales differ"
    killed = measured(tmp_path / "killed")
    die_before(killed, step)
    with pytest.raises(Killed):
        killed.fit()
    recorder: Any = killed.tracker
    again = load(measured(tmp_path / "killed", tracker=Recorder(recorder.values))) if step else measured(tmp_path / "k")
    again.fit()
    assert outcome(again) == outcome(whole)
    assert flat(again.learner.scheduler.state_dict()) == flat(whole.learner.scheduler.state_dict())
    kept: Any = again.tracker
    complete: Any = whole.tracker
    assert kept.values == complete.values
    for trainer in (whole, killed, again):
        close(trainer)


def test_scales_are_logged_where_they_hold_from_and_multiply_the_rates(tmp_path: Path) -> None:
    trainer = measured(tmp_path, policy="constant", plan_options={"lr_overrides": {"stem": 0.02}})
    recorder: Any = trainer.tracker
    trainer.fit()
    scales = {key: value for key, value in recorder.values.items() if key[0].startswith("scale/")}
    assert sorted({step for _, step in scales}) == [0, BATCHES, 2 * BATCHES]
    for (name, step), scale in scales.items():
        label = name.removeprefix("scale/")
        for held in range(step, min(step + BATCHES, 13)):
            assert recorder.values[f"lr/{label}", held] == pytest.approx(0.05 * scale, rel=1e-6)
    assert recorder.values["lr/09_stem.weight", 3] == 0.02, "a rate of its own stays"
    assert not any("stem" in name for name, _ in scales)
    close(trainer)


STEPS: list[dict[str, Any]] = [
    {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9, "weight_decay": 0.1}},
    {"optimizer": "adam"}, {"optimizer": "adamw", "clip_grad_norm": 0.05}, {"optimizer": "adam", "accumulate": 2},
    {"optimizer": "sgd", "precision": "bf16"}, {"optimizer": "adam", "optimizer_options": {"fused": False}},
]  # fmt: skip


@pytest.mark.parametrize("options", STEPS, ids=str)
def test_a_trial_step_is_the_step_that_follows(tmp_path: Path, options: dict[str, Any]) -> None:
    """At one rate for all groups the trial step and the true one are the same, at every step of the training."""
    rule, moved = Updates(), list[dict[str, Tensor]]()
    trainer = measured(tmp_path, rule=rule, policy="constant", model=None, **options)
    model = trainer.learner.model
    step = trainer.step

    def watched(*arguments: Any) -> Any:
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        results = step(*arguments)
        moved.append({name: p.detach() - before[name] for name, p in model.named_parameters()})
        return results

    watched.flush = step.flush  # type: ignore[attr-defined]
    trainer.step = watched  # type: ignore[assignment]
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # the trial draws its own
    trainer.fit()
    assert len(rule.found) == len(moved) > 5
    for trial, true in zip(rule.found, moved, strict=True):
        for name, update in true.items():
            torch.testing.assert_close(trial[name], update, rtol=1e-5, atol=1e-7)
    close(trainer)
