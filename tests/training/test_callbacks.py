"""Callbacks hear every event in order, with what it promises; their state is resumed, their errors name them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lwexp import Callback
from lwexp.errors import RunError
from lwexp.tracking import Tracker
from lwexp.training.callbacks import EVENTS, Pruned
from lwexp.training.state import Learner, Progress, StepResult
from tests.helpers.tiny_training import BATCHES, Killed, Recorder, die_before, flat, load, make_trainer


def listening() -> tuple[Callback, list[str]]:
    """A callback that overrides every event, and what it has heard."""
    heard: list[str] = []

    def note(event: str) -> Any:
        return lambda self, *arguments: heard.append(event)

    return type("Listening", (Callback,), {event: note(event) for event in EVENTS})(), heard


STEP = ["step_start", "gradients_ready", "update_start", "update_end", "step_end"]


def test_events_come_in_order(tmp_path: Path) -> None:
    callback, heard = listening()
    trainer = make_trainer(tmp_path, steps=7, epochs=2, callbacks={"mine": callback})
    trainer.fit()
    evaluation = ["evaluation_start", "evaluation_end", "epoch_end"]
    first, second = [*STEP * BATCHES, *evaluation], [*STEP * 2, *evaluation]
    assert heard == ["setup", "fit_start", "epoch_start", *first, "epoch_start", *second, "fit_end", "close"]


def test_numbers_of_a_deferred_step_come_one_step_late(tmp_path: Path) -> None:
    callback, heard = listening()
    make_trainer(tmp_path, steps=3, epochs=1, defer=True, every_steps=None, callbacks={"mine": callback}).fit()
    steps = [event for event in heard if event in STEP]
    assert steps == [*STEP[:4], *STEP, *STEP, "step_end"]


class Norms(Callback):
    """Sees whole gradients before they are clipped, and the weights before and after an update."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.moved: list[bool] = []

    def setup(self, learner: Learner, tracker: Tracker) -> None:
        self.weight = learner.model.head.weight  # type: ignore[union-attr]

    def gradients_ready(self, progress: Progress) -> None:
        self.norms.append(self.weight.grad.norm().item())  # type: ignore[union-attr,operator]
        self.before = self.weight.detach().clone()  # type: ignore[operator]

    def update_end(self, progress: Progress) -> None:
        self.moved.append(not torch.equal(self.before, self.weight))  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gradients_are_whole_and_unclipped_and_weights_have_moved_at_update_end(tmp_path: Path, precision: str) -> None:
    norms = {}
    for clip in (None, 1e-3):
        callback = Norms()
        make_trainer(
            tmp_path / str(clip), steps=5, epochs=1, policy="constant", precision=precision, clip_grad_norm=clip,
            callbacks={"norms": callback},
        ).fit()  # fmt: skip
        norms[clip] = callback.norms
        assert all(callback.moved)
        assert len(callback.moved) == 5 or (precision == "fp16" and len(callback.moved) > 1), "the scaler skips some"
    first = [next(norm for norm in each if math.isfinite(norm)) for each in norms.values()]
    assert first[0] == first[1] > 1e-3


def test_a_step_end_has_the_loss_and_rates_that_are_logged(tmp_path: Path) -> None:
    results: list[StepResult] = []

    class Keep(Callback):
        def step_end(self, result: StepResult) -> None:
            results.append(result)

    tracker = Recorder()
    make_trainer(tmp_path, tracker=tracker, callbacks={"keep": Keep()}).fit()
    assert [result.number for result in results] == list(range(13))
    assert all(tracker.values["train/loss", result.number] == result.loss for result in results)
    assert all(tracker.values["lr/00_head.bias", result.number] == result.rates[0] for result in results)


def test_listening_changes_nothing(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path / "plain", precision="fp16", clip_grad_norm=0.1)
    plain.fit()
    callback, _ = listening()
    heard = make_trainer(tmp_path / "heard", precision="fp16", clip_grad_norm=0.1, callbacks={"mine": callback})
    heard.fit()
    assert flat(plain.checkpointer.state()["model"]) == flat(heard.checkpointer.state()["model"])


class Counter(Callback):
    """Counts steps, also over a resume."""

    def __init__(self) -> None:
        self.count, self.start = 0, torch.zeros(2)

    def step_end(self, result: StepResult) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "start": self.start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count, self.start = state["count"], state["start"]


def test_state_of_a_callback_is_saved_and_resumed(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, every_steps=3, callbacks={"counter": Counter()})
    die_before(trainer, 8)
    with pytest.raises(Killed):
        trainer.fit()
    counter = Counter()
    load(make_trainer(tmp_path, callbacks={"counter": counter, "new": Counter()})).fit()
    assert counter.count == 13


@pytest.mark.parametrize("event", ["setup", "fit_start", "gradients_ready", "step_end", "evaluation_end", "close"])
def test_an_error_in_a_callback_names_it_and_the_event(tmp_path: Path, event: str) -> None:
    def fail(self: Callback, *arguments: Any) -> None:
        raise ValueError("no\nsuch layer")

    broken = type("Broken", (Callback,), {event: fail})()
    with pytest.raises(RunError) as caught:
        make_trainer(tmp_path, callbacks={"mine": broken}).fit()
    assert str(caught.value) == f"callbacks.mine: {event} failed: ValueError: no such layer"


def test_a_state_that_cannot_be_saved_names_the_callback(tmp_path: Path) -> None:
    class Odd(Callback):
        def state_dict(self) -> dict[str, Any]:
            raise KeyError("x")

    with pytest.raises(RunError, match=r"^callbacks.odd: state_dict failed: KeyError: 'x'$"):
        make_trainer(tmp_path, callbacks={"odd": Odd()}).fit()


def test_a_pruned_run_ends_after_its_evaluation_is_recorded(tmp_path: Path) -> None:
    class Prune(Callback):
        closed = False

        def evaluation_end(self, progress: Progress, metrics: Mapping[str, float]) -> None:
            raise Pruned(f"after {progress.step} steps")

        def close(self) -> None:
            self.closed = True

    tracker, prune = Recorder(), Prune()
    trainer = make_trainer(tmp_path, tracker=tracker, callbacks={"prune": prune})
    with pytest.raises(Pruned, match="after 5 steps"):
        trainer.fit()
    assert ("val/loss", 4) in tracker.values
    assert (tmp_path / "best.safetensors").is_file()
    assert prune.closed
