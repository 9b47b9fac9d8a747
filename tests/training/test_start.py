"""What acts on weights: the pull to the start (L2-SP) and the average with it (WiSE-FT), against the authors' code.

tests/golden/tuning.json has what their functions gave: `NetworkBase._decay` of holyseven/TransferLearningClassification
(modes 1 and 101) and `_merge` of mlfoundations/wise-ft.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lwexp import make_plan
from lwexp.data import eval_loader, train_loader
from lwexp.training.callbacks import Callback
from lwexp.training.loss import make_loss
from lwexp.training.start import PullToStart, StartPenalty, mixed
from lwexp.training.state import Learner, Progress
from lwexp.training.trainer import Trainer, TrainerOptions
from tests.helpers.commands import GOLDEN
from tests.helpers.tiny_training import Noisy, Recorder, TinyNorms

AUTHORS = json.loads((GOLDEN / "tuning.json").read_text())


def tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


class Weights(nn.Module):
    """The variables of the authors' graph, under their names."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in values.items():
            self.register_parameter(name.replace("/", "_").removesuffix(":0"), nn.Parameter(value.clone()))


def learner_of(model: nn.Module, **options: Any) -> Learner:
    plan = make_plan(model, grouping="per_parameter", decay="none", lr=0.1)
    optimizer = plan.optimizer("sgd", fused=False, **options)
    loss = make_loss("CrossEntropyLoss", 3)
    return Learner(model, plan, optimizer, plan.scheduler(optimizer), loss, torch.device("cpu"))


@pytest.mark.parametrize(("key", "everything"), [("l2_sp_weights", False), ("l2_sp_all", True)])
def test_penalty_and_its_gradient_are_the_authors(key: str, everything: bool) -> None:
    given, theirs = AUTHORS["l2_sp_input"], AUTHORS[key]
    model = Weights(tensors(given["w"]))
    start = {name.replace("/", "_"): value for name, value in tensors(given["start"]).items()}
    pull = PullToStart(
        StartPenalty(given["alpha"], given["beta"], everything), ["logits_weights", "logits_biases"], start
    )
    pull.setup(learner_of(model), Recorder())
    assert pull.value() == pytest.approx(theirs["loss"], rel=1e-6)
    pull.gradients_ready(Progress(1, 1))
    for name, expected in theirs["gradients"].items():
        found = model.get_parameter(name.replace("/", "_").removesuffix(":0")).grad
        if expected is None:
            assert found is None
        else:
            torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("alpha", ["0.0", "0.3", "0.5", "1.0"])
def test_average_is_the_authors_to_the_bit(alpha: str) -> None:
    given = AUTHORS["wise_ft"]
    found = mixed(tensors(given["start"]), tensors(given["trained"]), float(alpha), ())
    for name, expected in tensors(given["mixed"][alpha]).items():
        assert torch.equal(found[name], expected)


def test_new_weights_and_counters_stay_as_trained() -> None:
    trained = {"head": torch.ones(2), "body": torch.ones(2), "count": torch.tensor(7)}
    start = {"head": torch.zeros(2), "body": torch.zeros(2), "count": torch.tensor(3)}
    found = mixed(start, trained, 0.25, {"head"})
    assert found["head"].tolist() == [1, 1]
    assert found["body"].tolist() == [0.25, 0.25]
    assert found["count"] == 7


class Gradients(Callback):
    """The gradients as the optimizer gets them, before they are clipped."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def setup(self, learner: Learner, tracker: Any) -> None:
        self._model = learner.model

    def gradients_ready(self, progress: Progress) -> None:
        named = self._model.named_parameters()
        self.seen.append({name: p.grad.clone() for name, p in named if p.grad is not None})


class WithPenalty(nn.Module):
    """The loss as one writes it by hand: a term for each weight that is pulled."""

    def __init__(self, model: nn.Module, start: Mapping[str, Tensor], alpha: float, beta: float) -> None:
        super().__init__()
        self.loss, self._given = make_loss("CrossEntropyLoss", 3), (start, alpha, beta)
        object.__setattr__(self, "model", model)

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        (start, alpha, beta), total = self._given, self.loss(scores, labels)
        for name, p in self.model.named_parameters():
            if p.ndim > 1:
                new = name.startswith("head")
                total = total + (beta if new else alpha) / 2 * (p if new else p - start[name]).square().sum()
        return total


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"clip_grad_norm": 0.05}], ids=str)
def test_training_is_that_on_the_loss_with_the_penalty_as_a_term(options: dict[str, Any], tmp_path: Path) -> None:
    ends = []
    for by_hand in (False, True):
        torch.manual_seed(0)
        model = TinyNorms().double()
        start = {name: p.detach().clone() + 0.1 for name, p in model.state_dict().items()}
        learner = learner_of(model, momentum=0.9)
        if by_hand:
            learner.loss = WithPenalty(model, start, 0.3, 0.2)
        own = [] if by_hand else [PullToStart(StartPenalty(0.3, 0.2), ["head.weight", "head.bias"], start)]
        tracker, noisy = Recorder(), Noisy(40)
        model.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
        loaders = [make(noisy, batch_size=8, workers=0, device="cpu", **more)
                   for make, more in ((train_loader, {"seed": 0}), (eval_loader, {}))]  # fmt: skip
        trainer = Trainer(
            learner, *loaders, Progress(5, 1), folder=tmp_path, tracker=tracker, changing=own,
            options=TrainerOptions(progress_bar=False, **options),
        )  # fmt: skip
        trainer.fit()
        ends.append({name: value.clone() for name, value in model.state_dict().items()})
        assert ("train/l2_sp" in {name for name, _ in tracker.values}) is not by_hand
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-6, atol=1e-6)
