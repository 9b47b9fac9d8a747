"""Evaluations within epochs, early stopping and averaged weights: what they change and what they leave alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lwexp.errors import ConfigError
from lwexp.training.average import AverageOptions, WeightAverage
from lwexp.training.callbacks import Callback
from lwexp.training.monitor import Monitor
from lwexp.training.state import Progress
from tests.helpers.tiny_training import Killed, Recorder, TinyNorms, die_before, load, make_trainer

LOSS = Monitor("val/loss", "min")


def steps_of(tracker: Recorder, name: str) -> list[int]:
    return sorted(step for key, step in tracker.values if key == name)


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


class DiesIn(Callback):
    """Ends the process in the evaluation that follows step `step`."""

    def __init__(self, step: int) -> None:
        self._step = step

    def evaluation_end(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        if progress.step == self._step:
            raise Killed


# 5 steps in an epoch


def same_training(folder: Path, **options: Any) -> tuple[Recorder, Recorder]:
    """Two trainings, plain and with `options`, whose last weights are the same: what they recorded."""
    plain, other = Recorder(), Recorder()
    make_trainer(folder / "plain", tracker=plain).fit()
    make_trainer(folder / "other", tracker=other, **options).fit()
    assert_same(load_file(folder / "other" / "model.safetensors"), load_file(folder / "plain" / "model.safetensors"))
    return plain, other


def test_evaluations_within_epochs_leave_every_step_as_it_was(tmp_path: Path) -> None:
    plain, often = same_training(tmp_path, eval_every_steps=2)
    assert steps_of(plain, "val/loss") == [4, 9, 12]
    assert steps_of(often, "val/loss") == [1, 3, 4, 5, 7, 9, 11, 12]  # step 10 ends the second epoch: once
    assert {key: value for key, value in plain.values.items() if "best/" not in key[0]}.items() <= often.values.items()
    loss, accuracy = ({step: often.values[f"val/{name}", step] for step in steps_of(often, "val/loss")}
                      for name in ("loss", "accuracy"))  # fmt: skip
    assert often.values["best/step", 12] == min(loss, key=lambda step: (-accuracy[step], loss[step]))


def test_evaluations_of_every_second_epoch_leave_every_step_as_it_was(tmp_path: Path) -> None:
    plain, seldom = same_training(tmp_path, eval_every_epochs=2)
    assert steps_of(seldom, "val/loss") == [9, 12], "the last epoch is the third, and is evaluated in any case"
    assert seldom.values["val/loss", 9] == plain.values["val/loss", 9]


@pytest.mark.parametrize("policy", ["cosine", "plateau"])
@pytest.mark.parametrize(("how", "kill"), [
    ("step", 1), ("step", 2), ("step", 3), ("step", 7), ("evaluation", 2), ("evaluation", 4), ("evaluation", 5),
    ("evaluation", 8), ("evaluation", 10),
])  # fmt: skip
def test_a_training_killed_between_or_in_evaluations_resumes_exactly(
    policy: str, how: str, kill: int, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"policy": policy, "eval_every_steps": 2}
    options |= {"policy_options": {"patience": 0, "factor": 0.5}} if policy == "plateau" else {}
    whole, part = Recorder(), Recorder()
    make_trainer(tmp_path / "whole", tracker=whole, **options).fit()
    dies = {"dies": DiesIn(kill)} if how == "evaluation" else {}
    trainer = make_trainer(tmp_path / "part", tracker=part, callbacks=dies, **options)
    if how == "step":
        die_before(trainer, kill)
    with pytest.raises(Killed):
        trainer.fit()
    rest = Recorder(part.values)
    load(make_trainer(tmp_path / "part", tracker=rest, **options)).fit()
    assert rest.values == whole.values
    for name in ("model", "best"):
        found, expected = (load_file(tmp_path / folder / f"{name}.safetensors") for folder in ("part", "whole"))
        assert_same(found, expected)


def losses(trainer: Any, values: list[float]) -> None:
    """Let the evaluations of `trainer` give these validation losses; the last one goes on."""
    evaluate, count = trainer.evaluate, iter(range(10**6))

    def given(*arguments: Any, **options: Any) -> dict[str, float]:
        metrics = evaluate(*arguments, **options)
        return {**metrics, "val/loss": values[min(next(count), len(values) - 1)]}

    trainer.evaluate = given


@pytest.mark.parametrize(("values", "min_delta", "stop"), [
    ([1.0, 0.9, 0.95, 0.94, 0.93], 0.0, 4),  # two in a row without an improvement
    ([1.0, 0.9, 0.95, 0.85, 0.86, 0.87], 0.0, 6),  # counted anew after one
    ([1.0, 0.95, 0.91, 0.9], 0.2, 3),  # each smaller than the least
    ([1.0, 0.95, 0.7, 0.6, 0.55, 0.52], 0.2, 5),  # from the last that counted
    ([1.0, math.nan, math.nan], 0.0, 3),
    ([1.0, 0.9, 0.8, 0.7], 0.0, 6),  # the last value stays
])  # fmt: skip
def test_a_training_stops_after_evaluations_without_improvement(
    values: list[float], min_delta: float, stop: int, tmp_path: Path
) -> None:
    tracker = Recorder()
    trainer = make_trainer(tmp_path, steps=60, epochs=12, tracker=tracker, patience=2, min_delta=min_delta)
    trainer.progress.monitor = LOSS
    losses(trainer, values)
    best = trainer.fit()
    progress = trainer.progress
    assert progress.epoch == stop
    assert progress.step == 5 * stop == len(steps_of(tracker, "train/loss"))
    assert steps_of(tracker, "val/loss") == [5 * epoch - 1 for epoch in range(1, stop + 1)]
    assert progress.stopped is not None
    assert progress.stopped.startswith("val/loss has not improved")
    assert best["val/loss"] == min(v for v in values[:stop] if not math.isnan(v))
    assert (tmp_path / "model.safetensors").is_file()


def test_a_training_that_may_stop_within_an_epoch_resumes_exactly(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 60, "epochs": 12, "patience": 3, "min_delta": 0.05, "eval_every_steps": 3}
    whole = Recorder()
    trainer = make_trainer(tmp_path / "whole", tracker=whole, **options)
    trainer.fit()
    stopped = trainer.progress
    assert stopped.stopped is not None
    assert stopped.step < 60
    for kill in (2, 4, stopped.step - 1, stopped.step):
        part, folder = Recorder(), tmp_path / str(kill)
        trainer = make_trainer(folder, tracker=part, callbacks={"dies": DiesIn(kill)}, **options)
        die_before(trainer, kill)
        with pytest.raises(Killed):
            trainer.fit()
        rest = Recorder(part.values)
        trainer = load(make_trainer(folder, tracker=rest, **options))
        trainer.fit()
        assert rest.values == whole.values
        assert (trainer.progress.stopped, trainer.progress.step) == (stopped.stopped, stopped.step)
        assert_same(load_file(folder / "best.safetensors"), load_file(tmp_path / "whole" / "best.safetensors"))


# The average of the weights

NO_WARMUP = AverageOptions(decay=0.8, warmup=False)


class Torchs(Callback):
    """torch's own average, beside ours."""

    def setup(self, learner: Any, tracker: Any) -> None:
        self.model = learner.model
        self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)

    def update_end(self, progress: Progress) -> None:
        self.averaged.update_parameters(self.model)


def test_the_average_is_torchs_and_leaves_the_training_as_it_is(tmp_path: Path) -> None:
    make_trainer(tmp_path / "plain").fit()
    theirs = Torchs()
    trainer = make_trainer(tmp_path / "ours", average=NO_WARMUP, callbacks={"theirs": theirs})
    trainer.fit()
    assert_same(load_file(tmp_path / "ours" / "model.safetensors"), load_file(tmp_path / "plain" / "model.safetensors"))
    assert trainer.learner.average is not None
    expected = {n: t for n, t in theirs.averaged.module.state_dict().items() if not n.endswith("num_batches_tracked")}
    found = trainer.learner.average.module.state_dict()
    assert_same({name: found[name] for name in expected}, expected)
    assert not torch.equal(found["head.weight"], trainer.learner.model.state_dict()["head.weight"])


def test_the_average_is_what_is_evaluated_and_kept(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, average=NO_WARMUP)
    best = trainer.fit()
    tested = trainer.test(trainer.val, "val")  # the weights in the file
    assert tested == {name: value for name, value in best.items() if name.startswith("val/")}
    assert best["val/loss"] != make_trainer(tmp_path / "plain").fit()["val/loss"]


@pytest.mark.parametrize("kill", [1, 4, 5, 8])
def test_an_average_resumes_exactly(kill: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"average": AverageOptions(decay=0.9, every_steps=2, start_step=3)}
    whole = Recorder()
    make_trainer(tmp_path / "whole", tracker=whole, **options).fit()
    part = Recorder()
    trainer = make_trainer(tmp_path / "part", tracker=part, **options)
    die_before(trainer, kill)
    with pytest.raises(Killed):
        trainer.fit()
    rest = Recorder(part.values)
    load(make_trainer(tmp_path / "part", tracker=rest, **options)).fit()
    assert rest.values == whole.values
    for name in ("model", "best"):
        ours, expected = (load_file(tmp_path / folder / f"{name}.safetensors") for folder in ("part", "whole"))
        assert_same(ours, expected)


def test_the_average_starts_late_skips_steps_and_forgets_the_first_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, AverageOptions(decay=0.9, every_steps=2, start_step=3))
    found = []
    for step in range(9):
        model.weight.data.fill_(float(step))
        average.update(model, step)
        found.append(average.module.weight.item() if average.has_begun else None)
    decays = [min(0.9, (1 + n) / (10 + n)) for n in (1, 2)]
    fifth = decays[0] * 3 + (1 - decays[0]) * 5
    seventh = decays[1] * fifth + (1 - decays[1]) * 7
    assert found == [
        None,
        None,
        None,
        3,
        3,
        pytest.approx(fifth),
        *[pytest.approx(fifth)],
        *[pytest.approx(seventh)] * 2,
    ]


class Counting(nn.Linear):
    """Assigns new tensors to its buffers, one of them of another shape."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("seen", torch.zeros(0), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        self.count = self.count + 1
        self.seen = torch.cat([self.seen, inputs.flatten()])
        return super().forward(inputs)


def test_buffers_that_are_assigned_are_copied_each_time() -> None:
    model = Counting()
    average = WeightAverage(model, NO_WARMUP)
    for step in range(3):
        model(torch.full((1, 1), float(step)))
        average.update(model, step)
        assert average.module.count == step + 1
        assert average.module.seen.tolist() == list(range(step + 1))
    assert average.module.seen is not model.seen
    assert "seen" not in average.module.state_dict()


def test_a_network_that_cannot_be_copied_is_one_line() -> None:
    with pytest.warns(FutureWarning):  # nn.utils.parametrizations has another, whose networks can be copied
        model = nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(ConfigError, match=r"^ema.decay=0.8: the network cannot be copied: Only Tensors created ex"):
        WeightAverage(model, NO_WARMUP)


def test_indices_and_masks_are_copied() -> None:
    model = TinyNorms()
    model.register_buffer("positions", torch.arange(1000))
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    average = WeightAverage(model, NO_WARMUP)
    for step in range(5):
        average.update(model, step)
    state = average.module.state_dict()
    assert torch.equal(state["positions"], torch.arange(1000))
    assert torch.equal(state["mask"], torch.full((3, 3), -torch.inf).triu(1))
