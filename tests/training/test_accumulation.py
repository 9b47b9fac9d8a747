"""Batches that are added up to one optimizer step train as one whole batch does."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lwexp.training.loss import make_loss
from tests.helpers.commands import RunHere
from tests.helpers.tiny_training import SIZE, Noisy, Recorder, make_trainer

WEIGHTS = [0.0, 1.0, 30.0]


def trained(folder: Path, loss: nn.Module, batch_size: int, accumulate: int, **options: Any) -> Recorder:
    """Seven steps of 12 samples each, without anything that depends on the size of a batch."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(SIZE, 8), nn.Tanh(), nn.Linear(8, 3))
    train, val = (Noisy(count, augment=False) for count in (12 * 7, 10))
    trainer = make_trainer(
        folder, model=model, loss=loss, train=train, val=val, batch_size=batch_size, accumulate=accumulate,
        steps=7, epochs=1, optimizer="sgd", plan_options={"lr": 0.3}, checkpoints=False, **options,
    )  # fmt: skip
    trainer.fit()
    assert isinstance(trainer.tracker, Recorder)
    return trainer.tracker


@pytest.mark.parametrize("defer", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        lambda: make_loss("CrossEntropyLoss", 3, class_weights=WEIGHTS),
        lambda: make_loss("CrossEntropyLoss", 3, class_weights=WEIGHTS, label_smoothing=0.2),
        lambda: make_loss("CrossEntropyLoss", 3, label_smoothing=0.2, options={"ignore_index": 1}),
        lambda: make_loss("NLLLoss", 3, class_weights=WEIGHTS, options={"ignore_index": 1}),
        lambda: nn.CrossEntropyLoss(torch.tensor(WEIGHTS), label_smoothing=0.2),
        lambda: make_loss("MultiMarginLoss", 3, class_weights=[0.5, 1.0, 30.0]),
    ],
    ids=["weights", "smoothing", "ignored", "log-probabilities", "torch's own", "margin"],
)
def test_the_mean_is_that_of_the_whole_batch(tmp_path: Path, loss: Callable[[], nn.Module], defer: bool) -> None:
    whole = trained(tmp_path / "whole", loss(), 12, 1, defer=defer)
    parts = trained(tmp_path / "parts", loss(), 2, 6, defer=defer)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-6, atol=1e-6)
    assert parts.values == pytest.approx(whole.values, rel=1e-5)


def test_the_loss_of_an_evaluation_divides_by_the_weights_of_the_whole_split(tmp_path: Path) -> None:
    tracker = trained(tmp_path, make_loss("CrossEntropyLoss", 3, class_weights=WEIGHTS, label_smoothing=0.2), 12, 1)
    data = Noisy(10, augment=False)
    state = load_file(tmp_path / "model.safetensors")
    hidden = torch.tanh(data._values @ state["0.weight"].T + state["0.bias"])
    loss = nn.CrossEntropyLoss(torch.tensor(WEIGHTS), label_smoothing=0.2)
    expected = loss((hidden @ state["2.weight"].T + state["2.bias"]).float(), torch.tensor(data._labels)).item()
    assert tracker.values["val/loss", 6] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("defer", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_a_step_whose_classes_have_no_weight_is_skipped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, label_smoothing: float, defer: bool
) -> None:
    loss = make_loss("CrossEntropyLoss", 3, class_weights=[0.0, 0.0, 1.0], label_smoothing=label_smoothing)
    tracker = trained(tmp_path, loss, 2, 1, defer=defer)
    skipped = [step for step in range(7) if ("train/skipped", step) in tracker.values]
    assert skipped, "some of seven batches of two lack the third class"
    assert [step for step in range(7) if ("train/loss", step) not in tracker.values] == skipped
    assert all(math.isfinite(value) for value in tracker.values.values())
    assert caplog.text.count("counts for the loss: its classes have the weight 0; such steps are skipped") == 1


def test_the_command_trains_64_images_as_16_times_4(lwexp_here: RunHere, tmp_path: Path) -> None:
    loss = "loss.class_weights=[0,1,2,3,4,5,6,7,8,90]", "loss.label_smoothing=0.1"
    options = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "data.augment=false", "max_steps=5",
               "optimizer=sgd", "lr=0.1", "tracking=none", "progress=false", *loss]  # fmt: skip
    for name, batch_size, accumulate in (("whole", 64, 1), ("parts", 4, 16)):
        sizes = f"batch_size={batch_size}", f"accumulate={accumulate}"
        outcome = lwexp_here("run", *options, *sizes, f"hydra.run.dir={name}")
        assert outcome.code == 0, outcome.err
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-5)
    losses = [json.loads((tmp_path / name / "result.json").read_text())["test/loss"] for name in ("whole", "parts")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_weights_that_no_training_image_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"loss\.class_weights=.*all training samples have the weight 0"):
        make_loss("CrossEntropyLoss", 3, class_weights=[0, 0, 1], labels=torch.tensor([0, 1, 1]))
