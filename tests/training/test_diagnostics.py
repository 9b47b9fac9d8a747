"""Diagnosed steps in the loop: the numbers are those of the true update, nothing is disturbed, a resume is exact."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lwexp import Callback
from lwexp.training.trainer import Trainer
from tests.helpers.tiny_training import Killed, Recorder, close, die_before, flat, load, make_trainer


class Watch(Callback):
    """The true gradients, weights and updates, taken from the parameters themselves."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, tuple[float, float, float, float]]] = {}
        self.gradients: dict[str, float] = {}

    def setup(self, learner: Any, tracker: Any) -> None:
        self.learner = learner

    def fit_start(self, progress: Any) -> None:
        self.start = self.weights()

    def weights(self) -> dict[str, Tensor]:
        groups = self.learner.plan.groups
        parameters = dict(self.learner.model.named_parameters())
        return {
            label: torch.cat([parameters[n].detach().double().reshape(-1) for n in g.parameter_names])
            for label, g in zip(self.learner.plan.labels, groups, strict=True)
        }

    def update_start(self, progress: Any) -> None:
        self.before = self.weights()
        parameters = dict(self.learner.model.named_parameters())
        for label, g in zip(self.learner.plan.labels, self.learner.plan.groups, strict=True):
            found = [parameters[n].grad for n in g.parameter_names]
            self.gradients[label] = math.hypot(*(float(each.double().norm()) for each in found if each is not None))

    def update_end(self, progress: Any) -> None:
        now = self.weights()
        self.seen[progress.step] = {
            label: (
                self.gradients[label], float(before.norm()), float((now[label] - before).norm()),
                float((now[label] - self.start[label]).norm()),
            )
            for label, before in self.before.items()
        }  # fmt: skip


def diagnosed(folder: Path, every: int = 1, **options: Any) -> Trainer:
    return make_trainer(folder, diagnose_every=every, **options)


def row(trainer: Trainer, label: str, step: int) -> dict[str, float]:
    recorder: Any = trainer.tracker
    names = ("gradient_norm", "weight_norm", "update_ratio", "distance", "lr")
    return {name: recorder.values[f"diagnostics/{name}/{label}", step] for name in names}


def steps_of(trainer: Trainer) -> list[int]:
    recorder: Any = trainer.tracker
    return sorted({step for name, step in recorder.values if name.startswith("diagnostics/")})


OPTIONS: list[dict[str, Any]] = [
    {}, {"accumulate": 2}, {"clip_grad_norm": 0.1}, {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}},
    {"precision": "bf16"}, {"precision": "fp16"}, {"precision": "fp16", "clip_grad_norm": 0.1}, {"defer": True},
    {"optimizer": "adamw", "optimizer_options": {"fused": False}}, {"plan_options": {"freeze": ["blocks.1", "stem"]}},
    {"plan_options": {"freeze": ["blocks.1"], "freeze_mode": "lr_zero"}}, {"unfreeze": 3},
    {"plan_options": {"grouping": "top_module", "freeze": ["blocks.0"]}},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_numbers_are_those_of_the_true_update(tmp_path: Path, options: dict[str, Any]) -> None:
    """Gradients as the optimizer uses them, unscaled and clipped; weights before it; update and distance after it."""
    watch = Watch()
    trainer = diagnosed(tmp_path, callbacks={"watch": watch}, **options)
    trainer.fit()
    assert steps_of(trainer) == list(range(trainer.progress.step))
    assert len(watch.seen) > 8, "the scaler skips a few steps"
    for step, groups in watch.seen.items():
        for label, (gradient, weight, update, way) in groups.items():
            found, start = row(trainer, label, step), float(watch.start[label].norm())
            assert found["gradient_norm"] == pytest.approx(gradient, rel=1e-5, abs=1e-12)
            assert found["weight_norm"] == pytest.approx(weight, rel=1e-5)
            if weight:
                assert found["update_ratio"] == pytest.approx(update / weight, rel=1e-5)
            else:
                assert math.isnan(found["update_ratio"])
            if start:
                assert found["distance"] == pytest.approx(way / start, rel=1e-5)
            else:
                assert math.isnan(found["distance"]), "biases of norms start at 0"
    close(trainer)


def test_plain_sgd_moves_each_group_by_its_rate_times_its_gradient(tmp_path: Path) -> None:
    """The closed form: ‖Δw‖ / ‖w‖ = lr ‖g‖ / ‖w‖, and after the first step the distance is the same."""
    trainer = diagnosed(tmp_path, optimizer="sgd", plan_options={"grouping": "top_module"}, clip_grad_norm=0.5)
    trainer.fit()
    for label in trainer.learner.plan.labels:
        for step in steps_of(trainer):
            found = row(trainer, label, step)
            recorder: Any = trainer.tracker
            assert found["lr"] == recorder.values[f"lr/{label}", step]
            expected = found["lr"] * found["gradient_norm"] / found["weight_norm"]
            assert found["update_ratio"] == pytest.approx(expected, rel=2e-4, abs=1e-9)
        assert row(trainer, label, 0)["distance"] == row(trainer, label, 0)["update_ratio"] > 0
    total = math.hypot(*(row(trainer, label, 0)["gradient_norm"] for label in trainer.learner.plan.labels))
    assert total == pytest.approx(0.5, rel=1e-4), "the norm after clipping"
    close(trainer)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_diagnosed_training_is_the_undiagnosed_one(tmp_path: Path, options: dict[str, Any]) -> None:
    plain = make_trainer(tmp_path / "plain", **options)
    plain.fit()
    watched = diagnosed(tmp_path / "watched", **options)
    watched.fit()
    for one in ("model", "optimizer", "scaler"):
        assert flat(watched.checkpointer.state()[one]) == flat(plain.checkpointer.state()[one])
    recorder: Any = watched.tracker
    others: Any = plain.tracker
    assert {k: v for k, v in recorder.values.items() if not k[0].startswith("diagnostics/")} == others.values
    close(plain)
    close(watched)


def test_every_few_steps_and_the_last_one(tmp_path: Path) -> None:
    trainer = diagnosed(tmp_path, every=5, steps=13)
    trainer.fit()
    assert steps_of(trainer) == [0, 5, 10, 12]
    close(trainer)


class Poisoned(torch.nn.CrossEntropyLoss):
    """Not finite at the third step."""

    calls = 0

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        self.calls += torch.is_grad_enabled()
        return super().forward(scores, labels) * (math.nan if self.calls == 3 else 1)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_skipped_step_uses_no_gradient_and_moves_nothing(tmp_path: Path, precision: str) -> None:
    trainer = diagnosed(tmp_path, nonfinite="skip", precision=precision, loss=Poisoned())
    trainer.fit()
    for label in trainer.learner.plan.labels:
        before, skipped, after = (row(trainer, label, step) for step in (1, 2, 3))
        assert skipped["gradient_norm"] == 0
        assert not skipped["update_ratio"] > 0
        assert flat(skipped["distance"]) == flat(before["distance"])
        assert skipped["weight_norm"] == after["weight_norm"]
    close(trainer)


@pytest.mark.parametrize("step", [0, 1, 4, 7, 12])
@pytest.mark.parametrize("options", [{}, {"every": 3}, {"defer": True}], ids=str)
def test_a_killed_training_resumes_exactly(tmp_path: Path, step: int, options: dict[str, Any]) -> None:
    """Distances count from the weights that the training started with, and no row comes twice or differs."""
    whole = diagnosed(tmp_path / "whole", **options)
    whole.fit()
    killed = diagnosed(tmp_path / "killed", **options)
    die_before(killed, step)
    with pytest.raises(Killed):
        killed.fit()
    recorder: Any = killed.tracker
    again = diagnosed(tmp_path / "killed", tracker=Recorder(recorder.values), **options)
    (load(again) if step else again).fit()
    complete: Any = whole.tracker
    kept: Any = again.tracker
    assert flat([*sorted(kept.values.items())]) == flat([*sorted(complete.values.items())])
    for trainer in (whole, killed, again):
        close(trainer)


def test_without_the_starting_weights_only_the_distance_is_unknown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that was started without diagnostics and is resumed with them."""
    first = make_trainer(tmp_path)
    die_before(first, 6)
    with pytest.raises(Killed):
        first.fit()
    again = load(diagnosed(tmp_path))
    again.fit()
    assert "start.safetensors is missing" in caplog.text
    label = again.learner.plan.labels[0]
    assert steps_of(again) == list(range(6, 13))
    assert math.isnan(row(again, label, 8)["distance"])
    assert row(again, label, 8)["update_ratio"] > 0
    close(first)
    close(again)
