"""What predictions say class by class: each number is that of torchmetrics and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import classification_report, confusion_matrix, precision_recall_fscore_support
from torchmetrics.functional import calibration_error as library_ece
from torchmetrics.functional.classification import multiclass_accuracy, multilabel_f1_score

from lwexp.data import TargetScale
from lwexp.distributed.batch_shard import BatchShard
from lwexp.distributed.world import World
from lwexp.training.details import ClassDetails, LabelDetails, NumberDetails, details_of
from lwexp.training.measures import label_metrics, number_metrics
from lwexp.training.predictions import ClassPredictions, OutputPredictions, PredictionKeeper

NAMES = tuple("abcdefgh")


def kept(scores: torch.Tensor, labels: torch.Tensor, task: str = "classification", sizes: tuple[int, ...] = (7,)):
    """The predictions, given in batches of `sizes` in turn."""
    keeper, first, turn = PredictionKeeper(task), 0, 0  # type: ignore[arg-type]
    while first < len(scores):
        size = sizes[turn % len(sizes)]
        keeper(scores[first : first + size], labels[first : first + size], first)
        first, turn = first + size, turn + 1
    return keeper.gather()


@pytest.fixture
def scored() -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of 8 classes, of which "g" is never predicted, and "h" occurs nowhere."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (300,), generator=generator)
    scores = torch.randn(300, 8, generator=generator) + 1.5 * torch.nn.functional.one_hot(labels, 8)
    scores[:, 6:] -= 20
    return scores, labels


@pytest.fixture
def details(scored: tuple[torch.Tensor, torch.Tensor]) -> ClassDetails:
    found = details_of("classification", NAMES, kept(*scored))
    assert isinstance(found, ClassDetails)
    return found


def test_every_class_has_the_numbers_of_scikit_learn(scored, details: ClassDetails) -> None:
    true, predicted = scored[1].numpy(), scored[0].argmax(1).numpy()
    expected = precision_recall_fscore_support(true, predicted, labels=range(7), zero_division=0)
    found = (details.precision, details.recall, details.f1, details.support)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours[:7], theirs, rtol=1e-12)
    assert np.isnan([details.precision[7], details.recall[7], details.f1[7]]).all(), "h occurs nowhere"
    assert details.precision[6] == 0, "g is never predicted"
    np.testing.assert_array_equal(details.confusion, confusion_matrix(true, predicted, labels=range(8)))


def test_means_are_those_of_scikit_learns_report(scored, details: ClassDetails) -> None:
    true, predicted = scored[1].numpy(), scored[0].argmax(1).numpy()
    report = classification_report(true, predicted, output_dict=True, zero_division=0)
    assert details.mean(details.f1) == pytest.approx(report["macro avg"]["f1-score"])
    assert details.mean(details.precision, weighted=True) == pytest.approx(report["weighted avg"]["precision"])
    assert details.metrics()["macro_recall"] == pytest.approx(report["macro avg"]["recall"])


def test_accuracy_top5_and_calibration_error_are_those_of_torchmetrics(scored, details: ClassDetails) -> None:
    scores, labels = scored
    assert details.accuracy == pytest.approx(float(multiclass_accuracy(scores, labels, 8, average="micro")))
    top5 = multiclass_accuracy(scores, labels, 8, average="micro", top_k=5)
    assert details.top5 == pytest.approx(float(top5), abs=1e-7)
    assert details.top5 != details.accuracy
    ece = library_ece(scores.softmax(1), labels, task="multiclass", num_classes=8, n_bins=15, norm="l1")
    assert details.ece == pytest.approx(float(ece), abs=1e-6)


def test_the_calibration_error_of_certain_predictions_is_that_of_torchmetrics() -> None:
    scores = torch.tensor([[100.0, 0.0], [100.0, 0.0], [2.5, 0.0], [0.0, 2.7]])
    labels = torch.tensor([0, 1, 0, 0])
    found = details_of("classification", NAMES[:2], kept(scores, labels))
    assert isinstance(found, ClassDetails)
    ece = library_ece(scores.softmax(1), labels, task="multiclass", num_classes=2, n_bins=15, norm="l1")
    assert found.ece == pytest.approx(float(ece), abs=1e-6)
    assert found.top5 is None, "of two classes both are among five"


def test_mistakes_come_most_confident_first(scored, details: ClassDetails) -> None:
    mistakes = details.mistakes()
    assert set(mistakes) == set(np.flatnonzero(scored[0].argmax(1).numpy() != scored[1].numpy()))
    confidences = scored[0].softmax(1).max(1).values.numpy()[mistakes]
    assert (np.diff(confidences) <= 0).all()
    true, predicted, count = details.confusions(1)[0]
    off = details.confusion - np.diag(np.diag(details.confusion))
    assert count == off.max() == details.confusion[true, predicted]


def test_batches_of_any_size_in_any_order_give_the_same_predictions(scored) -> None:
    scores, labels = scored
    whole, parts = kept(scores, labels, sizes=(300,)), kept(scores, labels, sizes=(1, 64, 13))
    backward = PredictionKeeper()
    for first in reversed(range(0, 300, 50)):
        backward(scores[first : first + 50], labels[first : first + 50], first)
    for other in (parts, backward.gather()):
        assert isinstance(whole, ClassPredictions)
        assert all(np.array_equal(a, b) for a, b in zip(vars(whole).values(), vars(other).values(), strict=True))


@pytest.mark.parametrize("ranks", [2, 3])
def test_shards_of_several_processes_are_put_back_in_order(scored, ranks: int) -> None:
    scores, labels = scored
    parts: list[object] = []

    class Together(World):
        """Each rank's part as it calls; the last one gets all."""

        def all_gather(self, value: object) -> list[object]:  # type: ignore[override]
            parts.append(value)
            return parts

    for rank in range(ranks):
        keeper = PredictionKeeper()
        for start in range(0, 300, 64):
            size = min(64, 300 - start) if start < 256 else 1  # the last batch is too small for all ranks
            first, last = BatchShard(rank, ranks).bounds(size)
            if last > first:
                keeper(scores[start + first : start + last], labels[start + first : start + last], start + first)
        found = keeper.gather(Together())
    expected = kept(scores[:257], labels[:257])
    assert all(np.array_equal(a, b) for a, b in zip(vars(expected).values(), vars(found).values(), strict=True))


@pytest.mark.parametrize("classes", [3, 9])
def test_among_equal_scores_the_first_class_is_predicted_as_the_accuracy_counts(classes: int) -> None:
    scores = torch.zeros(4, classes)
    scores[1, -1] = float("nan")
    found = kept(scores, torch.arange(4) % classes)
    assert isinstance(found, ClassPredictions)
    assert found.predicted.tolist() == scores.argmax(1).tolist()
    assert all(len(set(row)) == len(row) for row in found.ranked.tolist())


def test_several_labels_have_the_numbers_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = (torch.rand(200, 4, generator=generator) > 0.6).float()
    scores = torch.randn(200, 4, generator=generator) + 2 * (labels - 0.5)
    found = details_of("multilabel", NAMES[:4], kept(scores, labels, "multilabel"))
    assert isinstance(found, LabelDetails)
    expected = multilabel_f1_score(scores, labels.long(), 4, average=None)
    np.testing.assert_allclose(found.f1, expected.numpy(), rtol=1e-6)
    micro = multilabel_f1_score(scores, labels.long(), 4, average="micro")
    assert found.metrics()["micro_f1"] == pytest.approx(float(micro))
    sample, label = found.mistakes()[0]
    off = (scores.sigmoid() - labels).abs()
    assert off[sample, label] == off.max()


def test_numbers_are_in_their_own_unit_and_the_largest_error_comes_first() -> None:
    keeper = PredictionKeeper("regression", TargetScale((10.0,), (2.0,)))
    keeper(torch.tensor([[0.0], [1.0], [-1.0]]), torch.tensor([[10.0], [15.0], [8.5]]), 0)
    found = details_of("regression", ("age",), keeper.gather())
    assert isinstance(found, NumberDetails)
    assert isinstance(found.predictions, OutputPredictions)
    assert found.predictions.predicted.ravel().tolist() == [10.0, 12.0, 8.0]
    assert found.errors.ravel().tolist() == [0.0, -3.0, -0.5]
    assert found.mistakes().tolist() == [1, 2, 0]
    assert found.metrics()["mae"] == pytest.approx(3.5 / 3)


def test_the_headline_numbers_are_those_that_are_logged() -> None:
    labels = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    scores = torch.tensor([[0.0, -1.0, -3.0], [-4.0, 1.0, -3.0], [-1.0, 0.5, -3.0]])  # the third occurs nowhere
    found = details_of("multilabel", NAMES[:3], kept(scores, labels, "multilabel"))
    assert isinstance(found, LabelDetails)
    assert found.counts["tp"].tolist() == [1, 2, 0], "a probability of 0.5 counts"
    logged = label_metrics(scores.sigmoid(), labels)
    assert {name: found.metrics()[name] for name in logged} == pytest.approx(logged)
    assert logged["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    numbers = details_of("regression", NAMES[:2], kept(scores[:, :2], labels[:, :2], "regression"))
    assert numbers.metrics() == pytest.approx(number_metrics(scores[:, :2], labels[:, :2]))
    assert isinstance(numbers, NumberDetails)
    assert numbers.metrics()["rmse"] == pytest.approx(numbers.rmse.mean())
