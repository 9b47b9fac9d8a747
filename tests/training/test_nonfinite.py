from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lwexp.errors import RunError
from lwexp.training.nonfinite import all_finite, gradient_norms
from lwexp.training.trainer import Trainer
from tests.helpers.tiny_training import (
    Killed,
    Recorder,
    TinyNorms,
    WatchedStep,
    die_before,
    flat,
    load,
    make_trainer,
)


def poison_loss(trainer: Trainer, *steps: int, value: float = math.nan) -> None:
    """At these optimizer steps the loss is no number, and neither are the norms' running statistics."""
    loss = trainer.learner.loss.forward

    def poisoned(scores: Tensor, targets: Tensor) -> Tensor:
        if trainer.progress.step in steps and trainer.learner.model.training:
            trainer.learner.model.blocks[0].norm.running_mean.data.fill_(value)  # type: ignore[union-attr,index]
            return loss(scores, targets) * value
        return loss(scores, targets)

    trainer.learner.loss.forward = poisoned  # type: ignore[method-assign]


def poison_gradient(trainer: Trainer, name: str, *steps: int, value: float = math.inf) -> None:
    """At these optimizer steps one value of the gradient of the parameter `name` is no number."""

    def poisoned(gradient: Tensor) -> Tensor:
        if trainer.progress.step not in steps:
            return gradient
        gradient = gradient.clone()
        gradient.view(-1)[-1] = value
        return gradient

    dict(trainer.learner.model.named_parameters())[name].register_hook(poisoned)


def values(trainer: Trainer) -> dict[tuple[str, int], float]:
    assert isinstance(trainer.tracker, Recorder)
    return trainer.tracker.values


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize(("precision", "defer"), [("fp32", False), ("fp32", True), ("bf16", False)])
def test_bad_gradient_stops_before_the_weights_and_names_step_group_rate_and_checkpoint(
    tmp_path: Path, value: float, clip: float | None, precision: str, defer: bool
) -> None:
    trainer = make_trainer(tmp_path, every_steps=3, clip_grad_norm=clip, precision=precision, defer=defer)
    poison_gradient(trainer, "blocks.0.linear.weight", 7, value=value)
    rates = trainer.learner.plan.lr_table("cosine", steps=13)
    with pytest.raises(RunError) as caught:
        trainer.fit()
    hints = "a smaller lr or nonfinite=skip" if clip else "a smaller lr, clip_grad_norm=1 or nonfinite=skip"
    assert re.fullmatch(
        rf"the gradient of group 07_blocks\.0\.linear\.weight \(rate {rates[7][7].item():g}\) is not finite at "
        r"optimizer step 7, where the loss is [\d.]+; the last good checkpoint is .*step_00000006\.ckpt; "
        rf"{hints} may help",
        str(caught.value),
    )
    assert all(step < 7 for _, step in values(trainer)), "the bad step is not logged"
    good = make_trainer(tmp_path / "good", steps=13, clip_grad_norm=clip, precision=precision, every_steps=None)

    die_before(good, 7)
    with pytest.raises(Killed):
        good.fit()
    assert flat(dict(trainer.learner.model.named_parameters())) == flat(dict(good.learner.model.named_parameters()))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("defer", [False, True])
def test_bad_loss_stops_and_names_step_and_rate_of_the_head(
    tmp_path: Path, value: float, accumulate: int, defer: bool
) -> None:
    trainer = make_trainer(tmp_path, every_steps=None, accumulate=accumulate, steps=6, defer=defer)
    poison_loss(trainer, 2, value=value)
    before = trainer.learner.plan.lr_table("cosine", steps=6)[2][0].item()
    text = (
        rf"the loss is {value} at optimizer step 2, where the head \(00_head.bias\) has the rate {before:g}; a smaller"
    )
    with pytest.raises(RunError, match=f"^{text}"):
        trainer.fit()
    assert not (tmp_path / "model.safetensors").exists()


def test_skipped_steps_leave_everything_but_step_and_rates_as_it_was(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, every_steps=None, nonfinite="skip")
    poison_loss(trainer, 0, 7)
    poison_gradient(trainer, "stem.weight", 4)
    states: list[Any] = []

    def note(number: int) -> None:
        states.append(flat([trainer.learner.model.state_dict(), trainer.learner.optimizer.state_dict()]))

    trainer.step = WatchedStep(trainer.step, before=note, after=note)
    trainer.fit()
    assert [i for i, (before, after) in enumerate(zip(states[::2], states[1::2], strict=True)) if before == after] == [
        0, 4, 7,
    ]  # fmt: skip
    logged = values(trainer)
    assert {key: value for key, value in logged.items() if key[0] == "train/skipped"} == {
        ("train/skipped", step): 1.0 for step in (0, 4, 7)
    }
    assert {step for name, step in logged if name == "train/loss"} == set(range(13)) - {0, 7}
    rates = trainer.learner.plan.lr_table("cosine", steps=13)[:, 0].tolist()
    assert [logged["lr/00_head.bias", step] for step in range(13)] == rates
    assert all(math.isfinite(value) for value in logged.values())


def test_twenty_skipped_in_a_row_stop(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=40, epochs=10, nonfinite="skip", every_steps=5)
    poison_gradient(trainer, "head.bias", *range(3, 22), *range(23, 99))  # 19, a good one, and then all
    text = (
        r"^20 consecutive optimizer steps were skipped; the gradient of group 00_head.bias \(rate .*\) is not finite "
        r"at optimizer step 42, .*; a smaller lr or clip_grad_norm=1 may help"
    )
    trainer.progress.steps = 50
    with pytest.raises(RunError, match=text):
        trainer.fit()


def test_skipped_steps_in_a_row_count_across_a_resume(tmp_path: Path) -> None:
    def build() -> Trainer:
        trainer = make_trainer(tmp_path, steps=40, epochs=10, nonfinite="skip", every_steps=5)
        poison_gradient(trainer, "head.bias", *range(3, 99))
        return trainer

    with pytest.raises(RunError, match="at optimizer step 22,"):
        build().fit()
    resumed = build()
    assert resumed.checkpointer.files is not None
    load(resumed)
    assert (resumed.progress.step, resumed.progress.skipped) == (20, 17)
    with pytest.raises(RunError, match="at optimizer step 22,"):
        resumed.fit()


@pytest.mark.parametrize("clip", [None, 1.0])
def test_infinities_that_a_scaler_handles_are_left_to_it(tmp_path: Path, clip: float | None) -> None:
    trainer = make_trainer(tmp_path, every_steps=None, precision="fp16", clip_grad_norm=clip)
    poison_gradient(trainer, "stem.weight", 0, 4)
    trainer.fit()
    assert trainer.learner.scaler.get_scale() == 2.0**14
    assert not any(name == "train/skipped" for name, _ in values(trainer))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_infinities_that_no_scale_removes_stop(tmp_path: Path, clip: float | None) -> None:
    trainer = make_trainer(tmp_path, every_steps=4, precision="fp16", clip_grad_norm=clip, steps=40, epochs=10)
    poison_gradient(trainer, "stem.weight", *range(99))
    with pytest.raises(
        RunError, match=r"the gradient of group 09_stem.weight .* at optimizer step 16, .*00000016.ckpt"
    ):
        trainer.fit()
    weights = dict(trainer.learner.model.named_parameters())
    torch.manual_seed(0)
    assert flat(weights) == flat(dict(TinyNorms().named_parameters())), "no step has been made"


def test_finite_gradient_whose_norm_overflows_is_no_bad_number(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, every_steps=None, optimizer="sgd", plan_options={"lr": 1e-30})
    poison_gradient(trainer, "stem.weight", 3, value=1e38)
    poison_gradient(trainer, "blocks.0.linear.weight", 3, value=3e38)
    trainer.fit()
    assert trainer.progress.step == 13


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("head.weight", r"the weights of group 01_head.weight \(rate .*\) are not finite after optimizer step 5; "),
        ("blocks.0.norm.running_var", "a running statistic of a norm is not finite after optimizer step 5; "),
    ],
)
def test_weights_that_are_no_numbers_are_not_saved_over_good_ones(tmp_path: Path, name: str, text: str) -> None:
    trainer = make_trainer(tmp_path, every_steps=2, keep=1)

    def spoil(number: int) -> None:
        if number == 5:
            trainer.learner.model.state_dict()[name].view(-1)[0] = math.nan

    trainer.step = WatchedStep(trainer.step, after=spoil)
    with pytest.raises(RunError, match=f"^{text}the last good checkpoint is .*step_00000004.ckpt"):
        trainer.fit()
    assert trainer.checkpointer.files is not None
    state = trainer.checkpointer.files.newest()
    assert state is not None
    assert state["step"] == 4
    assert all_finite(list(state["model"].values()))


def test_norms_are_those_of_torch_and_take_sparse_gradients() -> None:
    dense, sparse = torch.nn.Parameter(torch.ones(3)), torch.nn.Embedding(5, 2, sparse=True)
    unused = torch.nn.Parameter(torch.ones(1))
    (dense.sum() * 3 + sparse(torch.tensor([1, 1, 4])).sum()).backward()
    norms = gradient_norms([dense, unused, sparse.weight])
    assert norms.tolist() == pytest.approx([math.sqrt(27), 0, math.sqrt(2 * (4 + 1))])


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_numbers_that_are_defer_change_nothing(tmp_path: Path, optimizer: str, clip: float | None) -> None:
    """Neither weights nor what is tracked, nor where a checkpoint resumes."""
    options: dict[str, Any] = {"optimizer": optimizer, "clip_grad_norm": clip, "every_steps": 4, "accumulate": 2}
    now = make_trainer(tmp_path / "now", defer=False, **options)
    now.fit()
    late = make_trainer(tmp_path / "late", defer=True, **options)
    late.fit()
    assert flat(dict(now.learner.model.named_parameters())) == flat(dict(late.learner.model.named_parameters()))
    assert list(values(now).items()) == list(values(late).items())
    resumed = make_trainer(tmp_path / "late", defer=True, **options)
    assert resumed.checkpointer.files is not None
    state = resumed.checkpointer.files.newest()
    assert state is not None
    load(resumed, state)
    resumed.fit()
    assert flat(dict(resumed.learner.model.named_parameters())) == flat(dict(now.learner.model.named_parameters()))
    assert values(resumed).items() <= values(now).items()
