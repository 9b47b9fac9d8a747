"""The files of an evaluation of several labels, of numbers, of very many classes, and of a user's own samples."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lwexp.data import Preprocessing, SampleDataset, SampleKey, TargetScale
from lwexp.experiment import evaluation_files
from lwexp.experiment.evaluation_files import Evaluated, write_evaluation
from lwexp.tasks import Task
from lwexp.training.details import details_of
from lwexp.training.predictions import PredictionKeeper


class Samples(SampleDataset):
    """Given inputs, as they are."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__(torch.zeros(len(inputs), dtype=torch.int64))
        self._inputs = inputs

    def inputs(self, keys: Sequence[SampleKey]) -> Tensor:
        return self._inputs[[key.sample for key in keys]]


def written(
    folder: Path, task: Task, names: tuple[str, ...], scores: Tensor, labels: Tensor, inputs: Tensor, **more: Any
) -> set[str]:
    keeper = PredictionKeeper(task, more.pop("scale", None))
    keeper(scores, labels, 0)
    data = Evaluated("test", Samples(inputs), more.pop("preprocessing", None), "image")
    return {path.name for path in write_evaluation(details_of(task, names, keeper.gather()), data, folder)}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_several_labels_have_a_table_of_counts_and_the_most_confident_wrong_answers(tmp_path: Path) -> None:
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    scores = torch.tensor([[2.0, -1.0], [-4.0, 1.0], [-1.0, 0.5]])
    files = written(tmp_path, "multilabel", ("cat", "dog"), scores, labels, torch.rand(3, 3, 8, 8))
    assert files == {"metrics.json", "per_class.csv", "predictions.csv", "mistakes.csv", "mistakes.png", "labels.png"}
    cat, dog = table(tmp_path / "per_class.csv")
    assert (cat["label"], cat["tp"], cat["fn"], cat["fp"], cat["tn"]) == ("cat", "1", "1", "0", "1")
    assert (dog["precision"], dog["recall"], dog["f1"]) == ("0.5", "1", "0.666667")
    first, second = table(tmp_path / "mistakes.csv")
    assert (first["sample"], first["predicted"], first["true"]) == ("1", "not cat", "cat")
    assert (second["sample"], second["predicted"], second["true"]) == ("2", "dog", "not dog")
    assert table(tmp_path / "predictions.csv")[0]["true: cat"] == "1"


def test_numbers_have_errors_in_their_own_unit(tmp_path: Path) -> None:
    scores, labels = torch.tensor([[0.0], [1.0]]), torch.tensor([[30.0], [60.0]])
    scale = TargetScale((30.0,), (10.0,))
    files = written(tmp_path, "regression", ("age",), scores, labels, torch.rand(2, 1, 8, 8), scale=scale)
    assert files == {"metrics.json", "per_class.csv", "predictions.csv", "mistakes.csv", "mistakes.png", "errors.png"}
    worst, _ = table(tmp_path / "mistakes.csv")
    assert worst == {"sample": "1", "predicted": "40", "true": "60", "error": "-20"}
    (row,) = table(tmp_path / "per_class.csv")
    assert row == {"output": "age", "rmse": "14.1421", "mae": "10", "r2": "0.111111"}


def test_very_many_classes_have_a_list_in_place_of_a_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_files, "MATRIX", 5)
    scores = 9 * torch.eye(7)[[0, 1, 1, 6]]
    names = tuple("abcdefg")
    files = written(tmp_path, "classification", names, scores, torch.tensor([0, 2, 2, 6]), torch.rand(4, 1, 4, 4))
    assert "confusion.png" not in files
    assert table(tmp_path / "confusion.csv") == [{"true": "c", "predicted": "b", "samples": "2"}]


def test_pictures_show_what_the_model_saw_and_files_of_an_earlier_evaluation_go(tmp_path: Path) -> None:
    red = torch.zeros(1, 3, 6, 6)
    red[:, 0] = 1
    preprocessing = Preprocessing(6, 3, (0.5,) * 3, (0.5,) * 3)
    scores, labels = torch.tensor([[5.0, 0.0]]), torch.tensor([1])
    (tmp_path / "labels.png").touch()
    files = written(
        tmp_path, "classification", ("a", "b"), scores, labels, red * 2 - 1, preprocessing=preprocessing
    )  # fmt: skip
    assert "labels.png" not in files
    with Image.open(tmp_path / "mistakes.png") as image:
        pixels = np.asarray(image).reshape(-1, 3)
    assert (pixels == (255, 0, 0)).all(axis=1).sum() > 250 * 250


def test_samples_that_are_no_images_have_no_pictures(tmp_path: Path) -> None:
    scores, labels = torch.tensor([[5.0, 0.0]]), torch.tensor([1])
    files = written(tmp_path, "classification", ("a", "b"), scores, labels, torch.rand(1, 12))
    assert "mistakes.png" not in files
    assert "mistakes.csv" in files
