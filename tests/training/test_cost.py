"""What a training has cost: seconds in its steps, without evaluations, and memory; both survive a resume."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from lwexp import Callback
from lwexp.host.resources import peak_memory, reset_peak_memory
from lwexp.training.cost import CostMeter
from lwexp.training.state import Progress, StepResult
from tests.helpers.tiny_training import BATCHES, Killed, close, die_before, load, make_trainer

MB = 2**20


class Slow(Callback):
    """Takes its time in each step and, much more of it, in each evaluation."""

    def __init__(self, step: float, evaluation: float) -> None:
        self._step, self._evaluation = step, evaluation

    def step_start(self, progress: Progress) -> None:
        time.sleep(self._step)

    def evaluation_start(self, split: str) -> None:
        time.sleep(self._evaluation)


def test_seconds_are_those_of_the_steps_without_evaluations(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=6, eval_every_steps=1, callbacks={"slow": Slow(0.05, 0.5)}, every_steps=None)
    trainer.fit()
    seconds = trainer.progress.cost.train_seconds
    assert seconds >= 6 * 0.05
    assert seconds < 2, "six evaluations took three seconds"


def test_seconds_of_a_resumed_training_add_up(tmp_path: Path) -> None:
    made = [make_trainer(tmp_path, steps=6, callbacks={"slow": Slow(0.1, 0.0)}) for _ in range(2)]
    die_before(made[0], 4)
    with suppress(Killed):
        made[0].fit()
    close(made[0])
    load(made[1]).fit()
    assert 0.4 <= made[0].progress.cost.train_seconds < made[1].progress.cost.train_seconds
    assert made[1].progress.cost.train_seconds >= 0.6
    assert made[1].progress.cost.peak_memory_mb > 0


def test_steps_that_are_undone_have_cost_what_they_have(tmp_path: Path) -> None:
    """As after `go_back`: the state of before has less."""
    trainer = make_trainer(tmp_path, steps=BATCHES, epochs=1)
    before = trainer.checkpointer.state()
    trainer.fit()
    spent = trainer.progress.cost.train_seconds
    load(trainer, before)
    assert trainer.progress.step == 0
    assert trainer.progress.cost.train_seconds == spent > 0


def test_a_checkpoint_of_before_starts_to_count(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=2)
    state: Mapping[str, object] = {key: value for key, value in trainer.checkpointer.state().items() if key != "cost"}
    load(trainer, state).fit()
    assert trainer.progress.cost.train_seconds > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak cannot be reset on this system")
def test_memory_is_what_the_training_has_needed_not_what_came_before_or_after(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "plain", steps=2, epochs=1)
    before = torch.ones(100 * MB)  # float32, 400 MiB
    assert before.sum() > 0
    del before
    trainer.fit()
    plain = trainer.progress.cost.peak_memory_mb
    after = torch.ones(100 * MB)
    assert peak_memory() > (plain + 300) * 1e6
    del after

    class Large(Callback):
        def step_end(self, result: StepResult) -> None:
            self.held = torch.ones(50 * MB)

    trainer = make_trainer(tmp_path / "large", steps=2, epochs=1, callbacks={"large": Large()})
    trainer.fit()
    assert trainer.progress.cost.peak_memory_mb > plain + 150


def test_the_peak_of_a_system_without_proc_is_that_of_getrusage(tmp_path: Path) -> None:
    assert peak_memory(tmp_path / "none") >= peak_memory() > 10 * MB
    reset_peak_memory()


def test_the_clock_counts_from_the_start_of_an_epoch() -> None:
    now = iter([10.0, 11.0, 13.0, 100.0, 104.0])
    progress = Progress(3, 2)
    meter = CostMeter(progress, clock=lambda: next(now))
    meter.epoch_start(progress)
    for number in range(2):
        meter.step_end(StepResult(number, 0.5, []))
    meter.epoch_start(progress)
    meter.step_end(StepResult(2, 0.5, []))
    assert progress.cost.train_seconds == 3.0 + 4.0
