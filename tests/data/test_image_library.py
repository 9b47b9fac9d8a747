"""data=images data.dataset=…: sets of the datasets library, saved to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lwexp.config.data_schema import ImageTableConfig
from lwexp.data import DataSource, SampleKey, open_data
from lwexp.experiment.opening import based
from tests.data.test_image_table import DEFAULTS
from tests.helpers.data_sources import COLOR, GRAY, error_of, write_images

datasets: Any = pytest.importorskip("datasets")


def library(path: Path, **changes: Any) -> DataSource:
    return open_data(ImageTableConfig(name="images", **{**DEFAULTS, "dataset": str(path), **changes}))


def pictures(count: int, mode: str = "RGB") -> list[Image.Image]:
    shape = (10, 12, 3) if mode == "RGB" else (10, 12)
    return [Image.fromarray(np.full(shape, 5 * number, dtype=np.uint8)) for number in range(count)]


def save(path: Path, labels: Any, feature: Any, mode: str = "RGB", **splits: int) -> Path:
    """A set whose splits have so many images, all labeled in turn."""
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    made = {}
    for split, count in (splits or {"train": 20}).items():
        own = [labels[number % len(labels)] for number in range(count)]
        made[split] = datasets.Dataset.from_dict({"image": pictures(count, mode), "label": own}, features=features)
    datasets.DatasetDict(made).save_to_disk(str(path))
    return path


def test_the_names_of_a_class_label_are_the_classes(tmp_path: Path) -> None:
    path = save(tmp_path / "set", [1, 0], datasets.ClassLabel(names=["cat", "dog"]), train=20, validation=6, test=4)
    source = library(path)
    assert (source.info.task, source.info.classes, source.info.channels) == ("classification", ("cat", "dog"), 3)
    assert dict(source.info.sizes) == {"train": 20, "val": 6, "test": 4}
    data = source.datasets(COLOR, None, seed=0)
    assert data.test is not None
    images, labels = data.test.batch([SampleKey(0, 2), SampleKey(0, 3)])
    assert labels.tolist() == [1, 0]
    expected = (torch.tensor([10, 15]) / 255 - 0.5) / 0.5  # of the third and fourth of the test split, not of train
    assert images[:, 0, 0, 0].tolist() == pytest.approx(expected.tolist())  # type: ignore[index]


def test_a_missing_validation_split_is_cut_from_train(tmp_path: Path) -> None:
    source = library(save(tmp_path / "set", [1, 0], datasets.ClassLabel(names=["cat", "dog"])))
    assert dict(source.info.sizes) == {"train": 15, "val": 5}


def test_a_sequence_of_class_labels_is_several_labels(tmp_path: Path) -> None:
    feature = datasets.Sequence(datasets.ClassLabel(names=["sea", "sky", "sun"]))
    source = library(save(tmp_path / "set", [[0, 1], [2], []], feature))
    assert (source.info.task, source.info.classes) == ("multilabel", ("sea", "sky", "sun"))
    assert {tuple(row) for row in source.labels("train").tolist()} == {(1, 1, 0), (0, 0, 1), (0, 0, 0)}


def test_floats_are_a_regression(tmp_path: Path) -> None:
    source = library(save(tmp_path / "set", [1.0, 4.0], datasets.Value("float32")))
    assert (source.info.task, source.info.classes) == ("regression", ("label",))


def test_gray_images_have_one_channel(tmp_path: Path) -> None:
    source = library(save(tmp_path / "set", [0, 1], datasets.ClassLabel(names=["a", "b"]), mode="L"))
    assert source.info.channels == 1
    assert source.datasets(GRAY, None, seed=0).train[0][0].shape == (1, 32, 32)


def test_paths_in_a_column_are_read_as_images(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 8)
    paths = [str(path) for path in sorted((tmp_path / "photos").iterdir())]
    datasets.Dataset.from_dict({"file": paths, "label": ["a", "b"] * 4}).save_to_disk(str(tmp_path / "set"))
    source = library(tmp_path / "set", image="file")
    assert source.datasets(COLOR, None, seed=0).train[0][0].shape == (3, 16, 16)


def test_a_relative_folder_starts_where_the_run_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "start" / "set", [1, 0], datasets.ClassLabel(names=["cat", "dog"]))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = ImageTableConfig(name="images", **{**DEFAULTS, "dataset": "set"})
    assert open_data(based(config, tmp_path / "start")).info.classes == ("cat", "dog")
    hub = config.model_copy(update={"dataset": "someone/some-set"})
    assert based(hub, tmp_path / "start").dataset == "someone/some-set"


def test_hidden_labels_of_the_test_split_are_no_test_split(tmp_path: Path) -> None:
    path = save(tmp_path / "set", [0, 1], datasets.ClassLabel(names=["a", "b"]), train=20)
    features = datasets.load_from_disk(str(path))["train"].features
    hidden = datasets.Dataset.from_dict({"image": pictures(3), "label": [-1] * 3}, features=features)
    whole = datasets.DatasetDict({"train": datasets.load_from_disk(str(path))["train"], "test": hidden})
    whole.save_to_disk(str(tmp_path / "hidden"))
    assert dict(library(tmp_path / "hidden").info.sizes) == {"train": 15, "val": 5}


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    path = save(tmp_path / "set", [0, 1], datasets.ClassLabel(names=["a", "b"]))
    assert "data.label=labels: no such column" in error_of(lambda: library(path, label="labels"))
    assert "data.image=label: holds " in error_of(lambda: library(path, image="label"))
    assert "data.split=part: is for a table" in error_of(lambda: library(path, split="part"))
