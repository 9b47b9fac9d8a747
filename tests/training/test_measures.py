"""Metrics of several labels and of numbers against scikit-learn's, and metrics of the user's own."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torchmetrics
from sklearn import metrics as sklearn_metrics
from torch import Tensor, nn

from lwexp.data import EpochSampler, TargetScale
from lwexp.errors import ConfigError, RunError
from lwexp.tasks import task_of
from lwexp.training.evaluation import evaluate
from lwexp.training.loss import make_loss
from lwexp.training.measures import OwnMetrics, check_names, label_metrics, number_metrics
from lwexp.training.monitor import Monitor

CPU = torch.device("cpu")


def labels_and_scores(count: int = 40, labels: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    targets = (torch.rand(count, labels, generator=generator) > 0.6).float()
    scores = 2 * targets - 1 + 2 * torch.randn(count, labels, generator=generator)
    return targets, scores


def evaluated(loss: nn.Module, scores: Tensor, targets: Tensor, batch_size: int, own: Any = None) -> dict[str, float]:
    """The evaluation of a model that gives `scores`."""
    starts = range(0, len(scores), batch_size)
    batches = [(scores[start : start + batch_size], targets[start : start + batch_size]) for start in starts]
    sampler = EpochSampler(len(scores), batch_size, None)
    return evaluate(nn.Identity(), batches, sampler, loss, "val", device=CPU, context=nullcontext(), own=own)


def test_metrics_of_labels_are_those_of_scikit_learn() -> None:
    targets, scores = labels_and_scores()
    found, truth, predicted = label_metrics(scores.sigmoid(), targets), targets.numpy(), (scores >= 0).numpy()
    assert found["map"] == pytest.approx(sklearn_metrics.average_precision_score(truth, scores.numpy()), abs=1e-6)
    assert found["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(truth, predicted, average="macro"))
    assert found["micro_f1"] == pytest.approx(sklearn_metrics.f1_score(truth, predicted, average="micro"))
    assert found["exact_match"] == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))


def test_labels_that_no_sample_has_do_not_count() -> None:
    targets, scores = labels_and_scores()
    rare = torch.cat([targets, torch.zeros(len(targets), 1)], dim=1)
    with_rare = label_metrics(torch.cat([scores.sigmoid(), torch.full((len(targets), 1), 0.1)], dim=1), rare)
    assert with_rare == pytest.approx(label_metrics(scores.sigmoid(), targets))


def test_one_label_alone_has_metrics() -> None:
    assert label_metrics(torch.tensor([[0.9], [0.1]]), torch.tensor([[1.0], [0.0]]))["map"] == 1.0


def test_metrics_of_numbers_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(1)
    targets = torch.rand(30, 2, generator=generator) * torch.tensor([1.0, 1000.0])
    predictions = targets + torch.randn(30, 2, generator=generator) * torch.tensor([0.3, 200.0])
    found = number_metrics(predictions, targets)
    pair = targets.double().numpy(), predictions.double().numpy()
    assert found["rmse"] == pytest.approx(sklearn_metrics.root_mean_squared_error(*pair))
    assert found["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(*pair))
    assert found["r2"] == pytest.approx(sklearn_metrics.r2_score(*pair))
    assert torch.tensor(number_metrics(predictions[:1], targets[:1])["r2"]).isnan()


@pytest.mark.parametrize("batch_size", [7, 40])
def test_an_evaluation_of_labels_does_not_depend_on_its_batches(batch_size: int) -> None:
    targets, scores = labels_and_scores()
    loss = make_loss("auto", 4, task="multilabel")
    found = evaluated(loss, scores, targets, batch_size)
    expected = nn.functional.binary_cross_entropy_with_logits(scores, targets)
    assert found.pop("val/loss") == pytest.approx(expected.item(), rel=1e-6)
    assert found == {f"val/{name}": value for name, value in label_metrics(scores.sigmoid(), targets).items()}


def test_an_evaluation_of_numbers_is_in_their_own_unit() -> None:
    targets = torch.tensor([[100.0], [200.0], [300.0], [400.0]])
    scale = TargetScale.of(targets)
    scores = (targets - scale.mean[0]) / scale.std[0] + 0.5
    found = evaluated(make_loss("auto", 1, task="regression", scale=scale), scores, targets, 3)
    assert found["val/loss"] == pytest.approx(0.25)
    assert found["val/rmse"] == pytest.approx(0.5 * scale.std[0])
    assert found["val/mae"] == pytest.approx(0.5 * scale.std[0])


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ({"val/loss": 1.0, "val/accuracy": 0.4}, {"val/loss": 2.0, "val/accuracy": 0.5}),
        ({"val/loss": 1.0, "val/rmse": 5.0}, {"val/loss": 2.0, "val/rmse": 4.0}),
        ({"val/loss": 1.0, "val/rmse": float("nan")}, {"val/loss": 2.0, "val/rmse": 4.0}),
        ({"val/loss": 1.0, "val/map": 0.1}, {"val/loss": 2.0, "val/map": 0.2}),
        ({"val/loss": 2.0, "val/map": 0.2}, {"val/loss": 1.0, "val/map": 0.2}),
    ],
)
def test_the_better_evaluation_has_the_better_main_metric(low: dict[str, float], high: dict[str, float]) -> None:
    assert Monitor.of(task_of(low)).is_better(high, low)
    assert not Monitor.of(task_of(low)).is_better(low, high)


def test_a_metric_of_the_users_own_sees_the_whole_split() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, scores = torch.randint(3, (50,), generator=generator), torch.randn(50, 3, generator=generator)
    own = OwnMetrics(
        {
            "f2": torchmetrics.FBetaScore(task="multiclass", num_classes=3, beta=2.0, average="macro"),
            "auroc": torchmetrics.AUROC(task="multiclass", num_classes=3),
        },
        "classification",
        3,
    )
    found = evaluated(nn.CrossEntropyLoss(), scores, labels, 7, own)
    expected = sklearn_metrics.fbeta_score(labels, scores.argmax(dim=1), beta=2.0, average="macro")
    assert found["val/f2"] == pytest.approx(expected)
    auroc = sklearn_metrics.roc_auc_score(labels, scores.softmax(dim=1), multi_class="ovr")
    assert found["val/auroc"] == pytest.approx(auroc)
    assert evaluated(nn.CrossEntropyLoss(), scores, labels, 7, own) == found, "nothing is left of an evaluation"
    without = evaluated(nn.CrossEntropyLoss(), scores, labels, 7)
    assert {name: found[name] for name in without} == without


def test_metrics_of_labels_and_of_numbers_receive_what_torchmetrics_takes() -> None:
    targets, scores = labels_and_scores()
    own = OwnMetrics({"hamming": torchmetrics.HammingDistance(task="multilabel", num_labels=4)}, "multilabel", 4)
    found = evaluated(make_loss("auto", 4, task="multilabel"), scores, targets, 9, own)
    assert found["val/hamming"] == pytest.approx(sklearn_metrics.hamming_loss(targets, scores >= 0))
    numbers = torch.arange(6.0).reshape(6, 1)
    own = OwnMetrics({"pearson": torchmetrics.PearsonCorrCoef()}, "regression", 1)
    found = evaluated(make_loss("auto", 1, task="regression"), 2 * numbers + 1, numbers, 4, own)
    assert found["val/pearson"] == pytest.approx(1.0)


class Draws(torchmetrics.Metric):
    """Draws random numbers, which must not change those of the training."""

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        torch.rand(5)

    def compute(self) -> dict[str, float]:
        return {"a": float(torch.rand(1) * 0), "b": 1.0}


def test_a_metric_changes_no_random_number_of_the_training() -> None:
    own = OwnMetrics({"mine": Draws()}, "classification", 2)
    torch.manual_seed(4)
    before = torch.get_rng_state()
    assert own.compute([(torch.rand(2, 2, generator=torch.Generator()), torch.tensor([0, 1]))]) == {
        "mine_a": 0.0, "mine_b": 1.0,
    }  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before)


class FailsLater(Draws):
    def update(self, predictions: Tensor, targets: Tensor) -> None:
        if len(predictions) == 2:
            raise ValueError("two\nis too few")


def test_a_metric_that_does_not_fit_is_one_line_with_its_key() -> None:
    per_class = torchmetrics.Accuracy(task="multiclass", num_classes=3, average=None)
    with pytest.raises(ConfigError, match=r"metrics.each=MulticlassAccuracy: .* 3 numbers, not one; torchmetrics'"):
        OwnMetrics({"each": per_class}, "classification", 3)
    with pytest.raises(ConfigError, match=r"metrics.ten=MulticlassAccuracy: does not fit 3 classes: "):
        OwnMetrics({"ten": torchmetrics.Accuracy(task="multiclass", num_classes=10)}, "classification", 3)
    with pytest.raises(ConfigError, match=r"metrics.none=Identity: a Identity has no update, compute, reset"):
        OwnMetrics({"none": nn.Identity()}, "classification", 3)
    with pytest.raises(RunError, match=r"^metrics.late: fails: ValueError: two is too few$"):
        OwnMetrics({"late": FailsLater()}, "classification", 2).compute([(torch.rand(2, 2), torch.tensor([0, 1]))])


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("name", ["accuracy", "map", "rmse", "loss", "top5", "ece", "epoch", "step", "a/b", ""])
def test_a_name_that_means_something_else_or_that_mlflow_refuses(name: str, task: Any) -> None:
    with pytest.raises(ConfigError, match=f"^metrics.{name}={name}"):
        check_names([name], task)


@pytest.mark.parametrize(("name", "key", "why"), [
    ("exact", "match", "metrics.exact=exact_match: every evaluation has a metric of that name; choose another"),
    ("a", "b", "metrics.a=a_b: it gives a metric of that name, as metrics.a_b does"),
])  # fmt: skip
def test_the_names_in_a_mapping_are_checked_as_well(name: str, key: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        OwnMetrics({name: Two(key), "a_b": torchmetrics.MeanSquaredError()}, "multilabel", 3)
    assert str(caught.value) == why


class Two(torchmetrics.MeanSquaredError):
    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def compute(self) -> Any:
        return {self.key: 1.0}


def test_losses_of_labels_and_numbers() -> None:
    targets, scores = labels_and_scores()
    balanced = make_loss("auto", 4, task="multilabel", class_weights="balanced", labels=targets)
    positive = targets.sum(dim=0)
    expected = nn.BCEWithLogitsLoss(pos_weight=(len(targets) - positive) / positive)(scores, targets)
    assert balanced(scores, targets) == pytest.approx(expected.item())
    scale = TargetScale((10.0,), (2.0,))
    loss = make_loss("L1Loss", 1, task="regression", scale=scale)
    assert loss(torch.tensor([[1.0]]), torch.tensor([[16.0]])).item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "task", "line"),
    [
        ("CrossEntropyLoss", "multilabel", "loss.name=CrossEntropyLoss: does not fit data with several labels each; "),
        ("CrossEntropyLoss", "regression", "loss.name=CrossEntropyLoss: does not fit data with numbers to predict; "),
        ("MSELoss", "multilabel", "loss.name=MSELoss: does not fit data with several labels each; choices: BCEWith"),
        ("BCELoss", "regression", "loss.name=BCELoss: does not fit data with numbers to predict"),
        ("MSE", "regression", "loss.name=MSE: no such loss in torch.nn; did you mean MSELoss"),
    ],
)
def test_a_loss_of_another_task_is_one_line(name: str, task: Any, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_loss(name, 3, task=task)
    assert str(caught.value).startswith(line)


def test_options_of_a_loss_that_another_task_has() -> None:
    with pytest.raises(ConfigError, match=r"loss.class_weights=balanced: MSELoss takes no weights of classes"):
        make_loss("auto", 1, task="regression", class_weights="balanced", labels=torch.zeros(3, 1))
    with pytest.raises(ConfigError, match=r"loss.class_weights=balanced: MultiLabelSoftMarginLoss has no pos_weight"):
        make_loss("MultiLabelSoftMarginLoss", 2, task="multilabel", class_weights="balanced", labels=torch.ones(3, 2))
    with pytest.raises(ConfigError, match=r"loss.label_smoothing=0.1: BCEWithLogitsLoss has none"):
        make_loss("auto", 2, task="multilabel", label_smoothing=0.1)
