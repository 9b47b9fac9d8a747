"""torchvision's sets: splits, labels, options, downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision import datasets as torchvision_datasets

from lwexp.data import CorruptImageError, Preprocessing, eval_loader, standard_preprocessing
from lwexp.data.torchvision_labels import labels_of
from lwexp.data.torchvision_layouts import LAYOUTS
from lwexp.errors import RunError
from tests.helpers.data_sources import COLOR, error_of, torchvision_set
from tests.helpers.torchvision_files import TINY_SETS, emnist, eurosat


@pytest.mark.parametrize("name", list(TINY_SETS))
def test_a_torchvision_set_is_opened_with_its_own_splits(tmp_path: Path, name: str) -> None:
    make, sizes, classes = TINY_SETS[name]
    source = torchvision_set(name, tmp_path, options=make(tmp_path))
    assert source.info.sizes == sizes
    assert len(source.info.classes) == len(set(source.info.classes)) == classes
    assert source.info.channels == LAYOUTS[name].channels
    assert set(source.labels("train").tolist()) == set(range(classes))
    splits = source.datasets(standard_preprocessing(source.info, 24, 3), augment=True, seed=0)
    for split in filter(None, (splits.train, splits.val, splits.test)):
        image, label = split[len(split) - 1]
        assert image.shape == (3, 24, 24)
        assert 0 <= label < classes
        assert torch.isfinite(image).all()


@pytest.mark.parametrize("name", list(TINY_SETS))
def test_labels_are_found_without_decoding_and_are_those_of_the_items(tmp_path: Path, name: str) -> None:
    make, *_ = TINY_SETS[name]
    arguments = {**make(tmp_path), **LAYOUTS[name].train}
    root = {} if name == "FakeData" else {"root": str(tmp_path)}
    dataset = getattr(torchvision_datasets, name)(**root, **arguments)
    labels = labels_of(dataset)
    assert labels is not None
    assert labels.tolist() == [int(dataset[i][1]) for i in range(len(dataset))]


def test_images_keep_their_labels_when_classes_are_dropped_and_validation_is_cut(tmp_path: Path) -> None:
    options = emnist(tmp_path)
    source = torchvision_set("EMNIST", tmp_path, options=options)
    original = torchvision_datasets.EMNIST(str(tmp_path), train=True, **options)
    by_pixels = {np.asarray(image).tobytes(): original.classes[label] for image, label in original}
    for split in ("train", "val"):
        dataset = getattr(source.datasets(Preprocessing(28, 1, (0.0,), (1.0,)), augment=False, seed=0), split)
        for i in range(len(dataset)):
            image, label = dataset[i]
            pixels = (image[0] * 255).round().to(torch.uint8).numpy().tobytes()
            assert by_pixels[pixels] == source.info.classes[label]


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_every_layout_fits_the_constructor_of_its_set(name: str) -> None:
    import inspect

    layout, kind = LAYOUTS[name], getattr(torchvision_datasets, name)
    for arguments in filter(None, (layout.train, layout.val, layout.test)):
        options = {"split": "letters"} if name == "EMNIST" else {}
        root = {} if name == "FakeData" else {"root": "data"}
        inspect.signature(kind).bind(**root, **options, **arguments)
    assert layout.train not in (layout.val, layout.test)


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - {"FakeData"}))
def test_a_set_that_is_not_there_says_how_to_get_it(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"split": "letters"} if name == "EMNIST" else {}
    message = error_of(lambda: torchvision_set(name, tmp_path / "data", options=options))
    cannot_download = name in ("ImageNet", "FER2013")
    if "pip install" in message:
        assert name == "PCAM"  # needs h5py
    else:
        assert message.startswith(f"data.root={tmp_path}/data: no {name} there")
        assert ("add data.download=true" in message) is not cannot_download


def test_an_unknown_set_is_answered_with_the_nearest() -> None:
    assert "did you mean CIFAR10" in error_of(lambda: torchvision_set("CIFAR1O"))
    assert error_of(lambda: torchvision_set("cifar100")) == "data.dataset=cifar100: did you mean CIFAR100?"


def test_a_set_that_is_not_image_classification_is_refused() -> None:
    message = error_of(lambda: torchvision_set("CocoDetection"))
    assert message.startswith("data.dataset=CocoDetection: not an image classification set")
    assert "Flowers102" in message
    assert "data=image_folder" in error_of(lambda: torchvision_set("ImageFolder"))


@pytest.mark.parametrize(
    ("dataset", "options", "expected"),
    [
        ("FakeData", {"sise": 10}, "data.options=sise: FakeData has no such option; did you mean size?"),
        ("DTD", {"split": "val"}, "data.options.split=val: lwexp opens all splits"),
        ("DTD", {"root": "x"}, "data.options.root=x: write data.root"),
        (
            "FGVCAircraft",
            {"annotation_level": "wing"},
            "FGVCAircraft: Unknown value 'wing' for argument annotation_level",
        ),
        ("EMNIST", {}, "data.options.split=???: EMNIST needs it; choices: byclass"),
        ("EMNIST", {"splitt": "letters"}, "did you mean split?"),
        ("FakeData", {"image_size": [2, 8, 8]}, "data.options.image_size=[2, 8, 8]: "),
        ("FakeData", {"size": 1}, "a single class only"),
        ("FakeData", {"size": 0}, "no training images"),
    ],
)
def test_wrong_options_of_a_set_are_named(dataset: str, options: dict[str, Any], expected: str) -> None:
    assert expected in error_of(lambda: torchvision_set(dataset, options=options))


def test_a_download_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise URLError("Temporary failure in name resolution\nor worse")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", unreachable)
    monkeypatch.setattr("torchvision.datasets.eurosat.download_and_extract_archive", unreachable)
    for name in ("MNIST", "EuroSAT"):
        with pytest.raises(RunError, match=f"{name} could not be downloaded to .*name resolution") as caught:
            torchvision_set(name, tmp_path, download=True)
        assert "\n" not in str(caught.value)


def test_a_download_that_torchvision_does_not_offer_is_refused(tmp_path: Path) -> None:
    assert "cannot download ImageNet" in error_of(lambda: torchvision_set("ImageNet", tmp_path, download=True))
    assert "StanfordCars" in error_of(lambda: torchvision_set("StanfordCars", tmp_path, download=True))


def test_a_corrupt_image_of_a_set_is_named(tmp_path: Path) -> None:
    eurosat(tmp_path)
    (tmp_path / "eurosat" / "2750" / "River" / "003.jpg").write_bytes(b"nothing")
    train = torchvision_set("EuroSAT", tmp_path, val_fraction=0.1).datasets(COLOR, augment=False, seed=0).train
    with pytest.raises(CorruptImageError, match=rf"^data.root={tmp_path}: cannot read the image \d+ of EuroSAT: "):
        list(eval_loader(train, batch_size=4, workers=0, device="cpu"))
