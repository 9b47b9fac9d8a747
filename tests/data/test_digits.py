"""scikit-learn's digits: splits, sizes, normalization, augmentation."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lwexp.data import Preprocessing, SampleKey, standard_preprocessing
from tests.helpers.data_sources import GRAY, digits


def test_digits_are_split_70_15_15_with_every_class_in_proportion() -> None:
    source = digits()
    assert source.info.sizes == {"train": 1258, "val": 269, "test": 270}
    assert (source.info.channels, source.info.image_size) == (1, 32)
    assert source.info.classes == tuple("0123456789")
    for split, size in source.info.sizes.items():
        share = torch.bincount(source.labels(split)) / size  # type: ignore[arg-type]
        assert torch.allclose(share, torch.full((10,), 0.1), atol=0.01)


def test_digits_splits_hold_each_image_once_and_follow_split_seed() -> None:
    from sklearn.datasets import load_digits

    def pixels(seed: int) -> list[list[bytes]]:
        splits = digits(split_seed=seed).datasets(Preprocessing(8, 1, (0.0,), (1.0,)), augment=False, seed=0)
        parts = [part for part in (splits.train, splits.val, splits.test) if part is not None]
        return [[(image * 255).round().byte().numpy().tobytes() for image, _ in part] for part in parts]

    first, again, other = pixels(0), pixels(0), pixels(1)
    originals = torch.from_numpy(load_digits().images * (255 / 16)).round().byte()
    assert sorted(itertools.chain(*first)) == sorted(image.numpy().tobytes() for image in originals)
    assert first == again
    assert first[1] != other[1]


def test_digits_are_the_same_where_scikit_learn_keeps_its_file_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def training() -> tuple[Tensor, Tensor]:
        splits = digits().datasets(Preprocessing(8, 1, (0.0,), (1.0,)), augment=False, seed=0)
        images, labels = zip(*splits.train, strict=True)
        return torch.stack(images), torch.tensor(labels)

    images, labels = training()
    monkeypatch.setattr("lwexp.data.digits.FILE", "sklearn/nowhere.csv.gz")
    asked_images, asked_labels = training()
    assert torch.equal(images, asked_images)
    assert torch.equal(labels, asked_labels)


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (32, 3), (48, 1)])
def test_digits_have_the_asked_size_and_channels(size: int, channels: int) -> None:
    source = digits()
    preprocessing = standard_preprocessing(source.info, size, channels)
    image, label = source.datasets(preprocessing, augment=True, seed=0).train[3]
    assert (image.shape, image.dtype) == ((channels, size, size), torch.float32)
    assert label == source.labels("train")[3]
    assert all(torch.equal(image[0], plane) for plane in image)


def test_digits_are_normalized_with_their_own_mean_and_deviation() -> None:
    source = digits()
    train = source.datasets(standard_preprocessing(source.info, 8, 1), augment=False, seed=0).train
    values = torch.stack([image for image, _ in train.__getitems__(range(len(train)))])
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01


def test_a_sample_does_not_depend_on_the_others_of_its_batch() -> None:
    train = digits().datasets(GRAY, augment=True, seed=3).train
    keys = [SampleKey(2, i) for i in range(37)]
    together = train.__getitems__(keys)
    for key, (image, label) in zip(keys, together, strict=True):
        alone = train[key]  # type: ignore[index]
        assert torch.equal(alone[0], image)
        assert alone[1] == label


def test_augmentation_of_digits_is_small_and_never_mirrors() -> None:
    parts = digits()
    plain = parts.datasets(GRAY, augment=False, seed=0).train
    moved = parts.datasets(GRAY, augment=True, seed=0).train
    difference = [(plain[i][0] - moved[i][0]).abs().mean() for i in range(40)]
    mirrored = [(plain[i][0].flip(-1) - moved[i][0]).abs().mean() for i in range(40)]
    assert all(0 < d < 0.5 for d in difference)
    assert sum(difference) < sum(mirrored) / 2
