"""decay=auto_lr: an undone epoch leaves nothing but its cost, and a training that dies in one resumes exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from lwexp import Callback
from lwexp.errors import ConfigError, RunError
from lwexp.training.average import AverageOptions
from lwexp.training.callbacks import Pruned
from lwexp.training.state import Progress, StepResult
from lwexp.training.trainer import Trainer
from tests.helpers.tiny_training import BATCHES, Killed, Recorder, WatchedStep, flat, load, make_trainer

OPTIONS = {"quality": 0.99, "retries": 2}  # so high that epochs are undone


class Counts(Callback):
    """A user's callback with a state, which logs it."""

    def __init__(self) -> None:
        self.steps, self.undone = 0, 0

    def setup(self, learner: Any, tracker: Any) -> None:
        self._tracker = tracker

    def step_end(self, result: StepResult) -> None:
        self.steps += 1
        self._tracker.log({"mine/steps": float(self.steps)}, result.number)

    def epoch_undone(self, progress: Progress) -> None:
        self.undone += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


def on_trial(
    folder: Path, tracker: Recorder | None = None, rule: Mapping[str, Any] = OPTIONS, **options: Any
) -> Trainer:
    """A training whose epochs are on trial."""
    plan = {"decay": "auto_lr", "decay_options": dict(rule), "grouping": "depth_index", **options.pop("plan", {})}
    options.setdefault("callbacks", {"counts": Counts()})
    return make_trainer(folder, tracker=tracker, plan_options=plan, **options)


def names(values: Mapping[tuple[str, int], float], name: str) -> list[int]:
    return sorted(step for key, step in values if key == name)


def assert_same_files(one: Path, other: Path) -> None:
    for name in ("model", "best"):
        found, expected = (load_file(folder / f"{name}.safetensors") for folder in (one, other))
        assert flat(found) == flat(expected), name


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sgd": {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}},
    "fresh_optimizer": {"rule": {**OPTIONS, "fresh_optimizer": True}},
    "average": {"average": AverageOptions(0.9, warmup=False)},
    "accumulated": {"accumulate": 2, "steps": 8},
    "evaluations_within": {"eval_every_steps": 2},
    "plateau": {"policy": "plateau", "policy_options": {"patience": 0, "factor": 0.5}, "eval_every_steps": 2},
    "fp16": {"precision": "fp16"},
    "deferred": {"defer": True, "optimizer": "adamw"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_try_is_as_a_first_one_at_its_rates(kind: str, tmp_path: Path) -> None:
    """All rows and weights are those of a training that has these rates from its start."""
    tried, known = Recorder(), Recorder()
    options = {**KINDS[kind], "steps": 3 if kind == "accumulated" else BATCHES, "epochs": 1}
    trainer = on_trial(tmp_path / "tried", tried, **options)
    trainer.fit()
    plain = on_trial(tmp_path / "plain", known, **{**options, "rule": {**options.get("rule", {}), "retries": 0}})
    last = {i: tried.values[f"scale/{label}", 0] for i, label in enumerate(plain.learner.plan.labels)}
    assert len({*last.values()}) > 1
    plain.learner.scheduler.take_scales(last)
    plain.fit()
    undone = {name for name, _ in tried.values if name.startswith("undone/")}
    assert {"undone/train/loss", "undone/lr/00_head", "undone/mine/steps", "undone/scale/00_head"} < undone
    assert {key: value for key, value in tried.values.items() if key[0] not in undone} == {
        key: value for key, value in known.values.items() if key[0] != "undone/steps"
    }
    assert_same_files(tmp_path / "tried", tmp_path / "plain")


def test_undone_steps_have_an_axis_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker, counts = Recorder(), Counts()
    trainer = on_trial(tmp_path, tracker, eval_every_steps=2, callbacks={"counts": counts})
    with caplog.at_level("INFO"):
        trainer.fit()
    values = tracker.values
    assert names(values, "train/loss") == [*range(13)]
    assert names(values, "val/loss") == [1, 3, 4, 5, 7, 9, 11, 12]
    undone = int(values["undone/steps", 12])
    assert names(values, "undone/train/loss") == names(values, "undone/lr/00_head") == [*range(undone)]
    assert undone > 5
    assert {"undone/val/loss", "undone/best/step"} <= {name for name, _ in values}
    assert names(values, "undone/steps") == [4, 9, 12]
    epochs = [record for record in caplog.messages if " is undone after " in record]
    assert counts.undone == len(epochs)
    assert counts.steps == 13
    made = 13 + undone
    assert f"undone and run again: {undone} of {made} steps ({100 * undone / made:.0f} %)" in caplog.text
    assert not list(tmp_path.glob(".best*"))


def test_without_retries_no_epoch_is_undone_and_the_next_has_other_rates(tmp_path: Path) -> None:
    tracker = Recorder()
    on_trial(tmp_path, tracker, {**OPTIONS, "retries": 0}).fit()
    values = tracker.values
    assert not [name for name, _ in values if name.startswith("undone/") and name != "undone/steps"]
    assert values["undone/steps", 12] == 0
    first, second = (
        {name: v for (name, at), v in values.items() if at == step and "scale/" in name} for step in (0, 5)
    )
    assert {*first.values()} == {1.0}
    assert second.keys() == first.keys()
    assert second != first


@pytest.mark.parametrize("kind", KINDS)
def test_killed_anywhere_it_resumes_exactly(kind: str, tmp_path: Path) -> None:
    """Before steps in undone epochs, in those that run again and in others; with checkpoints at several intervals."""
    options = {"steps": 8 if kind == "accumulated" else 10, "epochs": 3, **KINDS[kind]}
    whole = Recorder()
    trainer = on_trial(tmp_path / "whole", whole, every_steps=None, **options)
    made = count_steps(trainer)
    trainer.fit()
    assert made() >= options["steps"] + BATCHES // options.get("accumulate", 1)
    for kill in range(1, made(), 2 if kind == "evaluations_within" else 5):
        for every in (1, 2) if kill % 4 == 1 else (3,):
            folder, part = tmp_path / f"{kill}-{every}", Recorder()
            trainer = on_trial(folder, part, every_steps=every, **options)
            count_steps(trainer, kill)
            with pytest.raises(Killed):
                trainer.fit()
            rest = Recorder(part.values)
            resumed = on_trial(folder, rest, every_steps=every, **options)
            assert resumed.checkpointer.files is not None
            (load(resumed) if resumed.checkpointer.files.paths() else resumed).fit()
            assert rest.values == whole.values, (kill, every)
            assert_same_files(folder, tmp_path / "whole")


def count_steps(trainer: Trainer, kill: int | None = None) -> Any:
    """How many optimizer steps `trainer` has made, undone ones too; the process ends before number `kill`."""
    made = 0

    def count(number: int) -> None:
        nonlocal made
        if made == kill:
            raise Killed
        made += 1

    trainer.step = WatchedStep(trainer.step, before=count)
    return lambda: made


class Dying(Recorder):
    """Ends the process at row number `at`."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._left = at

    def log(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None, *, deliver: bool = True) -> None:
        self._left -= 1
        if self._left < 0:
            raise Killed
        super().log(metrics, step, time_ms)


def test_killed_while_rows_are_delivered_it_resumes_exactly(tmp_path: Path) -> None:
    whole = Recorder()
    options: dict[str, Any] = {"steps": 10, "epochs": 2, "eval_every_steps": 2}
    on_trial(tmp_path / "whole", whole, every_steps=None, **options).fit()
    for at in (0, 1, 4, 9, 10, 15, 20, 25, 30, 35):
        folder, part = tmp_path / str(at), Dying(at)
        with pytest.raises(Killed):
            on_trial(folder, part, every_steps=2, **options).fit()
        rest = Recorder(part.values)
        load(on_trial(folder, rest, every_steps=2, **options)).fit()
        assert rest.values == whole.values, at
        assert_same_files(folder, tmp_path / "whole")


class Raises(Callback):
    """Raises in the evaluation at step `step`."""

    def __init__(self, step: int, error: Exception) -> None:
        self._step, self._error = step, error

    def evaluation_end(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        if progress.step == self._step:
            raise self._error


def test_a_run_that_ends_within_an_epoch_has_its_rows(tmp_path: Path) -> None:
    """Those of a pruned run count, those before an error do not: it may be resumed and the epoch undone."""
    rows = {}
    for name, error in {"pruned": Pruned("bad"), "failed": RunError("bad")}.items():
        tracker, folder = Recorder(), tmp_path / name
        callbacks = {"raises": Raises(8, error), "counts": Counts()}
        with pytest.raises(type(error)):
            on_trial(folder, tracker, {"quality": 0.0}, eval_every_steps=2, callbacks=callbacks).fit()
        rows[name] = tracker.values
    assert names(rows["pruned"], "train/loss") == [*range(8)]
    assert names(rows["failed"], "train/loss") == [*range(5)]
    assert names(rows["failed"], "undone/train/loss") == [*range(3)]
    assert names(rows["failed"], "undone/val/loss") == [0, 2]


def test_early_stopping_within_an_epoch_keeps_it(tmp_path: Path) -> None:
    tracker = Recorder()
    trainer = on_trial(tmp_path, tracker, patience=1, min_delta=10.0, eval_every_steps=2)
    trainer.fit()
    assert trainer.progress.step == 4
    assert names(tracker.values, "train/loss") == [*range(4)]
    assert not [name for name, _ in tracker.values if name.startswith("undone/")]


def test_frozen_groups_and_those_that_rest_are_not_compared(tmp_path: Path) -> None:
    """The stem opens in the second epoch."""
    tracker = Recorder()
    trainer = on_trial(tmp_path, tracker, steps=10, epochs=2, unfreeze=2, plan={"freeze": ["blocks.0.*"]})
    trainer.fit()
    scales = {name: v for (name, step), v in tracker.values.items() if name.startswith("scale/") and step == 5}
    assert all(math.isfinite(scale) and scale > 0 for scale in scales.values())
    assert not [name for name in scales if "blocks.0" in name]


@pytest.mark.parametrize(("rule", "line"), [
    ({"every_epochs": 1}, "decay.every_epochs=1.0: auto_lr measures after each epoch; must be null"),
    ({"every_steps": 5}, "decay.every_steps=5: auto_lr measures after each epoch; must be null"),
    ({"ramp_steps": 5}, "decay.ramp_steps=5: auto_lr compares whole epochs; must be 0"),
    ({"retries": -1}, "decay.retries=-1: must be at least 0"),
    ({"quality": 1.5}, "decay.quality=1.5: must be from 0 to 1"),
    ({"top": 0.0}, "decay.top=0.0: must be above 0"),
    ({"stem_factor": -1.0}, "decay.stem_factor=-1.0: must be at least 0"),
])  # fmt: skip
def test_options_out_of_range_are_refused(rule: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        on_trial(tmp_path, rule=rule)
    assert str(caught.value).startswith(line)


def test_a_plan_with_one_group_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="decay=auto_lr: compares groups that train matrices"):
        on_trial(tmp_path, plan={"grouping": "depth_index", "freeze": ["stem.*", "blocks.*"]})


def test_the_first_epoch_of_a_longer_training_stays_as_it_was(tmp_path: Path) -> None:
    """A training that ends within an epoch judges that part; a longer one continues with the rest."""
    first, rest = Recorder(), Recorder()
    short = on_trial(tmp_path, first, steps=8, epochs=2, policy="constant")
    assert short.checkpointer.files is not None
    short.checkpointer.files.at_end = True
    short.fit()
    longer = on_trial(tmp_path, rest, steps=15, epochs=3, policy="constant")
    load(longer).fit()
    assert names(rest.values, "train/loss") == [*range(8, 15)]
    assert rest.values["undone/steps", 14] >= first.values["undone/steps", 7] > 0
