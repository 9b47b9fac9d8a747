"""Loaders: order and augmentation are pure functions of seed and epoch, with any number of workers."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from lwexp.data import DataSource, EpochSampler, SampleKey, eval_loader, standard_preprocessing, to_device, train_loader
from tests.helpers.data_sources import COLOR, GRAY, digits, folder, torchvision_set, write_images

pytestmark = [
    # on a machine with one core torch advises against two workers; whether they give the same data is the point here
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    # Python 3.12 and later: torch's own threads beside its own fork
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]


@pytest.fixture(params=["digits", "image_folder", "torchvision"])
def source(request: pytest.FixtureRequest, photos: Path) -> DataSource:
    if request.param == "digits":
        return digits()
    if request.param == "image_folder":
        return folder(photos)
    return torchvision_set("FakeData", options={"size": 40, "image_size": [1, 20, 20], "num_classes": 4})


def epoch_of(source: DataSource, *, seed: int, epoch: int, start: int = 0, workers: int = 0) -> list[torch.Tensor]:
    preprocessing = standard_preprocessing(source.info, 16, source.info.channels)
    train = source.datasets(preprocessing, augment=True, seed=seed).train
    loader = train_loader(train, batch_size=5, seed=seed, workers=workers, device="cpu")
    loader.set_epoch(epoch, start)
    return [torch.cat((images.flatten(), labels.float())) for images, labels in itertools.islice(loader, 6)]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_an_epoch_is_a_pure_function_of_seed_and_epoch(source: DataSource) -> None:
    first = epoch_of(source, seed=1, epoch=2)
    torch.manual_seed(99)  # whatever the global generator is at
    assert same(first, epoch_of(source, seed=1, epoch=2))
    assert not same(first, epoch_of(source, seed=1, epoch=3))
    assert not same(first, epoch_of(source, seed=2, epoch=2))


def test_a_sample_looks_different_in_every_epoch_and_under_every_seed(source: DataSource) -> None:
    preprocessing = standard_preprocessing(source.info, 16, source.info.channels)

    def image(seed: int, epoch: int) -> torch.Tensor:
        train = source.datasets(preprocessing, augment=True, seed=seed).train
        return train[SampleKey(epoch, 2)][0]  # type: ignore[index]

    assert torch.equal(image(0, 0), image(0, 0))
    assert not torch.equal(image(0, 0), image(0, 1))
    assert not torch.equal(image(0, 0), image(1, 0))


def test_an_epoch_is_the_same_with_any_number_of_workers(source: DataSource) -> None:
    alone = epoch_of(source, seed=0, epoch=1)
    assert same(alone, epoch_of(source, seed=0, epoch=1, workers=1))
    assert same(alone, epoch_of(source, seed=0, epoch=1, workers=2))


def test_an_epoch_resumed_in_its_middle_has_the_same_rest(source: DataSource) -> None:
    whole = epoch_of(source, seed=0, epoch=4)
    assert same(whole[3:], epoch_of(source, seed=0, epoch=4, start=3)[: len(whole) - 3])


def test_loading_leaves_the_global_generators_alone(source: DataSource) -> None:
    import random

    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    epoch_of(source, seed=0, epoch=0)
    epoch_of(source, seed=0, epoch=0, workers=1)
    val = source.datasets(standard_preprocessing(source.info, 16, source.info.channels), augment=True, seed=0).val
    assert sum(len(labels) for _, labels in eval_loader(val, batch_size=4, workers=0, device="cpu")) == len(val)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_only_training_images_are_augmented(source: DataSource) -> None:
    preprocessing = standard_preprocessing(source.info, 16, source.info.channels)
    augmented = source.datasets(preprocessing, augment=True, seed=0)
    plain = source.datasets(preprocessing, augment=False, seed=0)
    for part in ("train", "val", "test"):
        ours, theirs = getattr(augmented, part), getattr(plain, part)
        if ours is not None:
            assert torch.equal(ours[0][0], theirs[0][0]) == (part != "train")


def test_datasets_travel_to_processes_that_are_not_forked(source: DataSource) -> None:
    train = source.datasets(standard_preprocessing(source.info, 16, source.info.channels), augment=True, seed=0).train
    assert torch.equal(pickle.loads(pickle.dumps(train))[1][0], train[1][0])


def test_workers_that_persist_follow_the_epoch() -> None:
    train = digits().datasets(GRAY, augment=True, seed=0).train
    kept = train_loader(train, batch_size=64, seed=0, workers=1, device="cpu")
    for epoch in (0, 1):
        kept.set_epoch(epoch)
        fresh = train_loader(train, batch_size=64, seed=0, workers=0, device="cpu")
        fresh.set_epoch(epoch)
        assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, fresh, strict=True))


def test_a_training_epoch_shuffles_and_drops_the_last_small_batch() -> None:
    sampler = EpochSampler(23, batch_size=5, seed=0)
    seen = [key.sample for batch in sampler for key in batch]
    assert len(sampler) == 4
    assert len(seen) == len(set(seen)) == 20
    assert seen != sorted(seen)


def test_evaluation_sees_each_sample_once_in_order() -> None:
    sampler = EpochSampler(23, batch_size=5, seed=None)
    assert [key.sample for batch in sampler for key in batch] == list(range(23))
    assert len(sampler) == len(list(sampler)) == 5


def test_the_length_of_a_resumed_epoch_is_what_is_left_of_it() -> None:
    sampler = EpochSampler(23, batch_size=5, seed=0)
    sampler.set_epoch(1, start_batch=3)
    assert (len(sampler), len(list(sampler)), sampler.batches_per_epoch) == (1, 1, 4)
    sampler.set_epoch(2)
    assert len(sampler) == 4


def test_batches_are_float_images_and_integer_labels() -> None:
    train = digits().datasets(GRAY, augment=True, seed=0).train
    images, labels = to_device(next(iter(train_loader(train, batch_size=7, seed=0, workers=0, device="cpu"))), "cpu")
    assert (images.shape, images.dtype) == ((7, 1, 32, 32), torch.float32)
    assert (labels.shape, labels.dtype) == ((7,), torch.int64)


def test_memory_is_pinned_for_cuda_only() -> None:
    train = digits().datasets(GRAY, augment=False, seed=0).train
    for device, pinned in (("cpu", False), ("cuda:0", True)):
        assert train_loader(train, batch_size=4, seed=0, workers=0, device=device).pin_memory is pinned
        assert eval_loader(train, batch_size=4, workers=0, device=torch.device(device)).pin_memory is pinned


def test_workers_send_pixels_and_the_batch_is_as_that_of_the_dataset(tmp_path: Path) -> None:
    """A quarter of the bytes; the values are those of single samples, bit for bit."""
    write_images(tmp_path / "photos" / "a", 6)
    write_images(tmp_path / "photos" / "b", 6)
    source = folder(tmp_path / "photos")
    train = source.datasets(COLOR, augment=True, seed=3).train
    prepared, _ = train.prepare([SampleKey(0, i) for i in range(4)])
    assert isinstance(prepared, torch.Tensor)
    assert prepared.dtype == torch.uint8
    for workers in (0, 1):
        loader = train_loader(train, batch_size=4, seed=3, workers=workers, device="cpu", channels_last=True)
        loader.set_epoch(1)
        keys = [key for batch in loader.epoch_sampler for key in batch]
        batches = list(loader)
        loader.close()
        images = torch.cat([images for images, _ in batches])
        assert images.dtype == torch.float32
        assert batches[0][0].is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images, torch.stack([train[key][0] for key in keys[: len(images)]]))
