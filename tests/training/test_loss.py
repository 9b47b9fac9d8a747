from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from lwexp.errors import ConfigError
from lwexp.training.loss import make_loss

SCORES = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]])
LABELS = torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CrossEntropyLoss", functional.cross_entropy(SCORES, LABELS)),
        ("NLLLoss", functional.cross_entropy(SCORES, LABELS)),
        ("MultiMarginLoss", functional.multi_margin_loss(SCORES, LABELS)),
        ("BCEWithLogitsLoss", functional.binary_cross_entropy_with_logits(SCORES, torch.eye(3)[LABELS])),
        ("MSELoss", (SCORES - torch.eye(3)[LABELS]).square().mean()),
    ],
)
def test_loss_judges_scores_by_labels(name: str, expected: torch.Tensor) -> None:
    assert make_loss(name, 3)(SCORES, LABELS).item() == pytest.approx(expected.item())


def test_label_smoothing_and_weights_reach_torchs_class() -> None:
    loss = make_loss("CrossEntropyLoss", 3, label_smoothing=0.1, class_weights=[1.0, 2.0, 3.0])
    expected = functional.cross_entropy(SCORES, LABELS, torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)
    assert loss(SCORES, LABELS).item() == pytest.approx(expected.item())


def test_balanced_weights_make_every_class_count_the_same() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    weight = make_loss("CrossEntropyLoss", 3, class_weights="balanced", labels=labels).loss.weight
    assert (weight * torch.bincount(labels)).tolist() == pytest.approx([8 / 3] * 3)


def test_half_precision_scores_are_judged_in_float32() -> None:
    assert make_loss("CrossEntropyLoss", 3)(SCORES.half(), LABELS).dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "CrossEntropy"}, "loss.name=CrossEntropy: no such loss in torch.nn; did you mean CrossEntropyLoss"),
        ({"name": "TripletMarginLoss"}, "loss.name=TripletMarginLoss: does not compare class scores"),
        ({"name": "MSELoss", "label_smoothing": 0.1}, "loss.label_smoothing=0.1: MSELoss has none"),
        ({"name": "MSELoss", "class_weights": "balanced"}, "loss.class_weights=balanced: MSELoss takes no weights"),
        ({"name": "NLLLoss", "class_weights": [1.0]}, r"loss.class_weights=\[1.0\]: 1 weights for 3 classes"),
        (
            {"name": "HuberLoss", "options": {"dlta": 1}},
            "loss.options.dlta=1: HuberLoss has no such option; did you mean delta",
        ),
        ({"name": "HuberLoss", "options": {"delta": -1}}, "loss.options"),
    ],
)
def test_mistakes_name_the_key_and_the_nearest_choice(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        make_loss(classes=3, **settings)(SCORES, LABELS)
