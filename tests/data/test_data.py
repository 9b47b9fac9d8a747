from __future__ import annotations

import itertools
import json
import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision import datasets as torchvision_datasets

from lwexp.config.schema import DigitsConfig, ImageFolderConfig, TorchvisionConfig
from lwexp.data import (
    CorruptImageError,
    DataInfo,
    DataSource,
    EpochSampler,
    Preprocessing,
    SampleKey,
    eval_loader,
    half_of_classes,
    open_data,
    standard_preprocessing,
    to_device,
    train_loader,
)
from lwexp.data.images import read_image
from lwexp.data.splitting import stratified_cut
from lwexp.data.torchvision_labels import labels_of
from lwexp.data.torchvision_table import RECIPES
from lwexp.errors import ConfigError, RunError

pytestmark = [
    # on a machine with one core torch advises against two workers; whether they give the same data is the point here
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    # Python 3.12 and later: torch's own threads beside its own fork
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]

GREY = Preprocessing(32, 1, (0.5,), (0.5,), crop_pct=1.0)
COLOUR = Preprocessing(16, 3, (0.5,) * 3, (0.5,) * 3)


def digits(**changes: Any) -> DataSource:
    values = {"image_size": None, "split_seed": 0, "augment": True, "workers": 0}
    return open_data(DigitsConfig(name="digits", **{**values, **changes}))


def folder(path: Path, **changes: Any) -> DataSource:
    values = {"image_size": None, "val_fraction": 0.25, "split_seed": 0, "augment": True, "workers": 0, "cache": False}
    return open_data(ImageFolderConfig(name="image_folder", path=str(path), **{**values, **changes}))


def torchvision_set(dataset: str, root: Path | str = "data", **changes: Any) -> DataSource:
    values = {"download": False, "options": {}, "image_size": None, "val_fraction": 0.25, "split_seed": 0}
    more = {"augment": True, "workers": 0, "cache": False}
    return open_data(
        TorchvisionConfig(name="torchvision", dataset=dataset, root=str(root), **{**values, **more, **changes})
    )


def colour(index: int) -> tuple[int, int, int]:
    return (40 * index % 256, 80, 255 - 30 * index % 256)


def write_images(path: Path, count: int, suffix: str = ".png", size: tuple[int, int] = (24, 18)) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        noise = np.random.default_rng([i, len(str(path))]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(path / f"{i:03d}{suffix}")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split, count in (("train", 8), ("val", 3), ("test", 2)):
        for name in ("cat", "dog", "emu"):
            write_images(tmp_path / split / name, count)
    return tmp_path


def error_of(call: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- digits --------------------------------------------------------------------------------------------------------


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


def test_digits_are_normalised_with_their_own_mean_and_deviation() -> None:
    source = digits()
    train = source.datasets(standard_preprocessing(source.info, 8, 1), augment=False, seed=0).train
    values = torch.stack([image for image, _ in train.__getitems__(range(len(train)))])
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01


def test_a_sample_does_not_depend_on_the_others_of_its_batch() -> None:
    train = digits().datasets(GREY, augment=True, seed=3).train
    keys = [SampleKey(2, i) for i in range(37)]
    together = train.__getitems__(keys)
    for key, (image, label) in zip(keys, together, strict=True):
        alone = train[key]  # type: ignore[index]
        assert torch.equal(alone[0], image)
        assert alone[1] == label


def test_augmentation_of_digits_is_small_and_never_mirrors() -> None:
    parts = digits()
    plain = parts.datasets(GREY, augment=False, seed=0).train
    moved = parts.datasets(GREY, augment=True, seed=0).train
    difference = [(plain[i][0] - moved[i][0]).abs().mean() for i in range(40)]
    mirrored = [(plain[i][0].flip(-1) - moved[i][0]).abs().mean() for i in range(40)]
    assert all(0 < d < 0.5 for d in difference)
    assert sum(difference) < sum(mirrored) / 2


# ---- keys, order, random numbers -----------------------------------------------------------------------------------


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
    train = digits().datasets(GREY, augment=True, seed=0).train
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
    train = digits().datasets(GREY, augment=True, seed=0).train
    images, labels = to_device(next(iter(train_loader(train, batch_size=7, seed=0, workers=0, device="cpu"))), "cpu")
    assert (images.shape, images.dtype) == ((7, 1, 32, 32), torch.float32)
    assert (labels.shape, labels.dtype) == ((7,), torch.int64)


def test_memory_is_pinned_for_cuda_only() -> None:
    train = digits().datasets(GREY, augment=False, seed=0).train
    for device, pinned in (("cpu", False), ("cuda:0", True)):
        assert train_loader(train, batch_size=4, seed=0, workers=0, device=device).pin_memory is pinned
        assert eval_loader(train, batch_size=4, workers=0, device=torch.device(device)).pin_memory is pinned


# ---- image folders -------------------------------------------------------------------------------------------------


def test_a_folder_of_splits_is_opened_as_it_is(photos: Path) -> None:
    info = folder(photos).info
    assert info == DataInfo(3, ("cat", "dog", "emu"), {"train": 24, "val": 9, "test": 6}, None)
    assert folder(photos, image_size=40).info.image_size == 40


@pytest.mark.parametrize("name", ["val", "validation", "valid", "Validation"])
def test_the_validation_folder_has_any_of_its_usual_names(photos: Path, name: str) -> None:
    (photos / "val").rename(photos / name)
    assert folder(photos).info.sizes["val"] == 9


def test_validation_is_cut_from_train_by_split_seed_where_there_is_no_folder_for_it(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "cat", 8)
    write_images(tmp_path / "train" / "dog", 16)
    source = folder(tmp_path)
    assert source.info.sizes == {"train": 18, "val": 6}
    assert torch.bincount(source.labels("val")).tolist() == [2, 4]
    assert source.datasets(COLOUR, augment=True, seed=0).test is None

    def val(seed: int) -> torch.Tensor:
        part = folder(tmp_path, split_seed=seed).datasets(COLOUR, augment=False, seed=0).val
        return torch.stack([part[i][0] for i in range(len(part))])

    assert torch.equal(val(0), val(0))
    assert not torch.equal(val(0), val(1))


def test_class_folders_may_lie_directly_below_the_path(tmp_path: Path) -> None:
    for name in ("car", "plane", "train"):  # a class may be called train
        write_images(tmp_path / name, 4)
    info = folder(tmp_path).info
    assert info.classes == ("car", "plane", "train")
    assert info.sizes == {"train": 9, "val": 3}


def test_images_in_subfolders_and_of_all_suffixes_count_and_hidden_files_do_not(photos: Path) -> None:
    write_images(photos / "train" / "cat" / "2024" / "may", 2, suffix=".JPG")
    write_images(photos / "train" / "cat" / ".ipynb_checkpoints", 2)
    for suffix in (".jpeg", ".bmp", ".webp", ".gif", ".tif"):
        write_images(photos / "train" / "cat" / suffix[1:], 1, suffix=suffix)
    (photos / "train" / "cat" / "._000.png").write_bytes(b"resource fork")
    (photos / "train" / "cat" / "notes.txt").write_text("no image")
    (photos / "train" / ".git").mkdir()
    source = folder(photos)
    assert source.info.sizes["train"] == 24 + 2 + 5
    train = source.datasets(COLOUR, augment=False, seed=0).train
    assert {train[i][0].shape for i in range(len(train))} == {(3, 16, 16)}


def test_a_link_that_leads_back_is_followed_once(photos: Path) -> None:
    (photos / "train" / "cat" / "again").symlink_to(photos / "train" / "cat", target_is_directory=True)
    assert folder(photos).info.sizes["train"] == 24


def test_labels_and_images_belong_together(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for label, name in enumerate(("blue", "green", "red")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (20, 20), tuple(255 * (k == 2 - label) for k in range(3))).save(
                    tmp_path / split / name / f"{i}.png"
                )
    source = folder(tmp_path)
    for part in (
        source.datasets(COLOUR, augment=True, seed=0).train,
        source.datasets(COLOUR, augment=True, seed=0).val,
    ):
        for i in range(len(part)):
            image, label = part[i]
            assert image.mean(dim=(1, 2)).argmax() == 2 - label
    assert source.labels("val").tolist() == [0, 0, 1, 1, 2, 2]


def test_evaluation_keeps_the_centre_that_crop_pct_says(tmp_path: Path) -> None:
    # 32×32 black with a white frame of 2 pixels: resized to 32 and cropped to 24, the frame is gone
    picture = np.full((32, 32, 3), 255, dtype=np.uint8)
    picture[2:-2, 2:-2] = 0
    for path in ("train/a", "train/b", "val/a"):
        (tmp_path / path).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(picture).save(tmp_path / path / f"{i}.png")
    source = folder(tmp_path)
    zero_one = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    cropped = source.datasets(Preprocessing(24, 3, **zero_one, crop_pct=0.75), augment=False, seed=0).val[0][0]
    whole = source.datasets(Preprocessing(32, 3, **zero_one, crop_pct=1.0), augment=False, seed=0).val[0][0]
    assert cropped.max() == 0
    assert torch.equal(whole[0], torch.from_numpy(picture[..., 0] / 255).float())


def test_colour_images_become_grey_for_a_model_of_one_channel(photos: Path) -> None:
    image, _ = folder(photos).datasets(GREY, augment=True, seed=0).train[0]
    assert image.shape == (1, 32, 32)


def test_a_channel_count_that_cannot_be_made_is_refused(photos: Path) -> None:
    four = Preprocessing(16, 4, (0.5,) * 4, (0.5,) * 4)
    assert "4" in error_of(lambda: folder(photos).datasets(four, augment=False, seed=0))


# ---- colour modes and orientation ----------------------------------------------------------------------------------


def stored(tmp_path: Path, image: Image.Image, name: str = "image.png", **options: Any) -> np.ndarray[Any, Any]:
    image.save(tmp_path / name, **options)
    return np.asarray(read_image(tmp_path / name, 3))


RED = Image.new("RGB", (4, 4), (200, 0, 0))


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        pytest.param(Image.new("L", (4, 4), 120), "a.png", (120, 120, 120), id="grey"),
        pytest.param(Image.new("1", (4, 4), 1), "a.png", (255, 255, 255), id="black-and-white"),
        pytest.param(RED.convert("P"), "a.gif", (204, 0, 0), id="palette"),
        pytest.param(RED.convert("P", palette=Image.Palette.ADAPTIVE), "a.png", (200, 0, 0), id="own palette"),
        pytest.param(Image.new("RGBA", (4, 4), (200, 0, 0, 255)), "a.png", (200, 0, 0), id="RGBA"),
        pytest.param(Image.new("RGBA", (4, 4), (200, 0, 0, 0)), "a.png", (255, 255, 255), id="transparent is white"),
        pytest.param(Image.new("LA", (4, 4), (90, 255)), "a.png", (90, 90, 90), id="grey with alpha"),
        pytest.param(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "a.tif", (255, 0, 0), id="CMYK"),
        pytest.param(
            Image.fromarray(np.full((4, 4), 40000, np.uint16)), "a.png", (156, 156, 156), id="16 bits are scaled"
        ),
        pytest.param(Image.fromarray(np.full((4, 4), 100, np.int32)), "a.tif", (100, 100, 100), id="32-bit integers"),
        pytest.param(
            Image.fromarray(np.full((4, 4), 0.5, np.float32)), "a.tif", (128, 128, 128), id="floats in [0, 1]"
        ),
    ],
)
def test_every_colour_mode_becomes_rgb(
    tmp_path: Path, image: Image.Image, name: str, expected: tuple[int, int, int]
) -> None:
    assert (stored(tmp_path, image, name) == np.array(expected)).all()


def test_a_palette_with_transparent_entries_is_read_without_a_warning(tmp_path: Path) -> None:
    image = RED.convert("P", palette=Image.Palette.ADAPTIVE)
    assert (stored(tmp_path, image, transparency=bytes([0] * 256)) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_camera_noted_is_respected(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    image = Image.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    ours = stored(tmp_path, image, exif=exif)
    with Image.open(tmp_path / "image.png") as reference:
        assert np.array_equal(ours, np.asarray(ImageOps.exif_transpose(reference)))
    assert ours.shape == ((4, 6, 3) if orientation < 5 else (6, 4, 3))


# ---- mistakes in image folders -------------------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "there is no such folder" in error_of(lambda: folder(tmp_path / "nowhere"))
    assert error_of(lambda: folder(tmp_path / "nowhere")).startswith(f"data.path={tmp_path}/nowhere: ")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"")
    assert "is a file" in error_of(lambda: folder(tmp_path / "images.zip"))


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    assert "has no folders of images" in error_of(lambda: folder(tmp_path))
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "dog").mkdir()
    assert "no images in train" in error_of(lambda: folder(tmp_path))


def test_a_train_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 3)
    assert "no images in train" in error_of(lambda: folder(tmp_path))


@pytest.mark.parametrize("place", ["train/fox", "val/cat"])
def test_a_class_folder_without_images_is_named(photos: Path, place: str) -> None:
    for image in (photos / place).glob("*"):
        image.unlink()
    (photos / place).mkdir(exist_ok=True)
    assert f"class folder {place};" in error_of(lambda: folder(photos))


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_train_does_not_have_is_named_with_the_nearest(photos: Path, split: str) -> None:
    write_images(photos / split / "dogs", 1)
    message = error_of(lambda: folder(photos))
    assert f"{split}/dogs is not in train" in message
    assert "did you mean dog?" in message


def test_a_class_may_be_missing_from_validation(photos: Path) -> None:
    (photos / "val" / "cat").rename(photos / "val" / "emu" / "more")
    assert folder(photos).labels("val").tolist() == [1] * 3 + [2] * 6


def test_a_single_class_is_refused_and_the_folder_that_was_meant_is_named(tmp_path: Path, photos: Path) -> None:
    write_images(tmp_path / "one" / "cat", 3)
    assert "a single class only (cat)" in error_of(lambda: folder(tmp_path / "one"))
    (tmp_path / "above").mkdir()
    for split in ("train", "val", "test"):
        (photos / split).rename(tmp_path / "above" / split)
    (tmp_path / "top").mkdir()
    (tmp_path / "above").rename(tmp_path / "top" / "photos")
    assert f"did you mean {tmp_path}/top/photos?" in error_of(lambda: folder(tmp_path / "top"))


def test_splits_without_train_are_refused(photos: Path) -> None:
    (photos / "train").rename(photos / "training")
    assert "no train folder" in error_of(lambda: folder(photos))


def test_two_folders_for_one_split_are_refused(photos: Path) -> None:
    write_images(photos / "validation" / "cat", 1)
    assert "both val and validation" in error_of(lambda: folder(photos))


def test_a_folder_that_may_not_be_read_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: Any) -> Any:  # tests may run as root, whom no permission stops
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    message = error_of(lambda: folder(photos))
    assert "permission denied" in message
    assert "train/dog" in message


def test_classes_of_one_image_each_cannot_be_split(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_images(tmp_path / "train" / name, 1)
    assert "no class has two images" in error_of(lambda: folder(tmp_path))


BROKEN = {
    "empty": (b"", "the file is empty"),
    "text": (b"this is not an image", "not an image"),
    "truncated": (None, "truncated"),
}


# one case with a worker: torch takes five seconds to stop a worker that raised
@pytest.mark.parametrize(("kind", "workers"), [("empty", 0), ("text", 0), ("truncated", 0), ("truncated", 1)])
def test_a_corrupt_image_is_named_in_one_line(photos: Path, kind: str, workers: int) -> None:
    content, why = BROKEN[kind]
    broken = photos / "train" / "dog" / "broken.jpg"
    if content is None:
        Image.effect_noise((64, 64), 80).save(broken)
        content = broken.read_bytes()[:700]
    broken.write_bytes(content)
    train = folder(photos).datasets(COLOUR, augment=True, seed=0).train
    loader = train_loader(train, batch_size=len(train), seed=0, workers=workers, device="cpu")
    with pytest.raises(CorruptImageError) as caught:
        list(loader)
    loader.close()  # else its worker, which ignores the signal that Python sends it, holds up the end of the process
    message = str(caught.value)
    assert message.startswith(f"data.path={photos}: cannot read the image train/dog/broken.jpg: ")
    assert why in message
    assert "\n" not in message
    assert caught.value.exit_code == 2
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


# ---- torchvision's sets --------------------------------------------------------------------------------------------


def write_idx(path: Path, values: np.ndarray[Any, Any]) -> None:
    """The format of MNIST: magic number (8: uint8, 12: int32; dimensions), shape, values."""
    kind = {np.dtype("u1"): 8, np.dtype(">i4"): 12}[values.dtype]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(">BBBB", 0, 0, kind, values.ndim) + struct.pack(f">{values.ndim}i", *values.shape))
    with path.open("ab") as file:
        file.write(values.tobytes())


def write_mnist(root: Path, labels: list[int], images: str, targets: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
    write_idx(root / images, values)
    write_idx(root / targets, np.array(labels, dtype=np.uint8))


def mnist(root: Path) -> dict[str, Any]:
    for name, labels in (("train", list(range(10)) * 4), ("t10k", list(range(10)))):
        raw = root / "MNIST" / "raw"
        write_mnist(raw, labels, f"{name}-images-idx3-ubyte", f"{name}-labels-idx1-ubyte")
    return {}


def emnist(root: Path) -> dict[str, Any]:
    for name, labels in (("train", list(range(1, 27)) * 2), ("test", list(range(1, 27)))):
        prefix = f"emnist-letters-{name}"
        write_mnist(root / "EMNIST" / "raw", labels, f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    return {"split": "letters"}


def qmnist(root: Path) -> dict[str, Any]:
    for name, count in (("train", 40), ("test", 20)):
        raw = root / "QMNIST" / "raw"
        write_idx(raw / f"qmnist-{name}-images-idx3-ubyte", np.zeros((count, 28, 28), np.uint8))
        full = np.stack([np.arange(count) % 10, *[np.arange(count)] * 7], axis=1).astype(">i4")
        write_idx(raw / f"qmnist-{name}-labels-idx2-int", full)
    return {}


def gtsrb(root: Path) -> dict[str, Any]:
    base = root / "gtsrb"
    for label in range(3):
        write_images(base / "GTSRB" / "Training" / f"{label:05d}", 4, suffix=".ppm")
    write_images(base / "GTSRB" / "Final_Test" / "Images", 3, suffix=".ppm")
    rows = "".join(f"{i:03d}.ppm;{i}\n" for i in range(3))
    (base / "GT-final_test.csv").write_text(f"Filename;ClassId\n{rows}")
    return {}


def country211(root: Path) -> dict[str, Any]:
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        for name in ("AT", "CH"):
            write_images(root / "country211" / split / name, count)
    return {}


def pets(root: Path) -> dict[str, Any]:
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for split, count in (("trainval", 4), ("test", 1)):
        lines = []
        for label, breed in enumerate(("Abyssinian", "basset_hound"), start=1):
            write_images(base / "images", 0)
            for i in range(count):
                RED.save(base / "images" / f"{breed}_{split}{i}.jpg")
                lines.append(f"{breed}_{split}{i} {label} {label} 1\n")
        (base / "annotations" / f"{split}.txt").write_text("".join(lines))
    return {}


def food(root: Path) -> dict[str, Any]:
    base = root / "food-101"
    (base / "meta").mkdir(parents=True)
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        names = {name: [f"{name}/{i:03d}" for i in numbers] for name in ("pie", "ramen")}
        (base / "meta" / f"{split}.json").write_text(json.dumps(names))
    for name in ("pie", "ramen"):
        write_images(base / "images" / name, 6, suffix=".jpg")
    return {}


def dtd(root: Path) -> dict[str, Any]:
    base = root / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    for name in ("dotted", "woven"):
        write_images(base / "images" / name, 4, suffix=".jpg")
    for i, split in enumerate(("train", "val", "test")):
        (base / "labels" / f"{split}2.txt").write_text(f"dotted/{i:03d}.jpg\nwoven/{i:03d}.jpg\n")
    return {"partition": 2}


def eurosat(root: Path) -> dict[str, Any]:
    for name in ("Forest", "River"):
        write_images(root / "eurosat" / "2750" / name, 8, suffix=".jpg")
    return {}


def clevr(root: Path) -> dict[str, Any]:
    base = root / "clevr" / "CLEVR_v1.0"
    (base / "scenes").mkdir(parents=True)
    for split in ("train", "val"):
        write_images(base / "images" / split, 6)
        scenes = [{"image_filename": f"{i:03d}.png", "objects": [0] * (3 + i % 3)} for i in range(6)]
        (base / "scenes" / f"CLEVR_{split}_scenes.json").write_text(json.dumps({"scenes": scenes}))
    return {}


def sun(root: Path) -> dict[str, Any]:
    (root / "SUN397").mkdir(parents=True)
    (root / "SUN397" / "ClassName.txt").write_text("/a/abbey\n/b/bay\n")
    for name in ("a/abbey", "b/bay"):
        (root / "SUN397" / name).mkdir(parents=True)
        for i in range(4):
            RED.save(root / "SUN397" / name / f"sun_{name[0]}{i}.jpg")
    return {}


def fake(root: Path) -> dict[str, Any]:
    return {"size": 60, "image_size": [3, 20, 20], "num_classes": 3}


TINY_SETS = {
    "MNIST": (mnist, {"train": 30, "val": 10, "test": 10}, 10),
    "EMNIST": (emnist, {"train": 26, "val": 26, "test": 26}, 26),  # without the empty class that torchvision lists
    "QMNIST": (qmnist, {"train": 30, "val": 10, "test": 20}, 10),
    "GTSRB": (gtsrb, {"train": 9, "val": 3, "test": 3}, 3),
    "Country211": (country211, {"train": 6, "val": 4, "test": 2}, 2),
    "OxfordIIITPet": (pets, {"train": 6, "val": 2, "test": 2}, 2),
    "Food101": (food, {"train": 6, "val": 2, "test": 4}, 2),
    "DTD": (dtd, {"train": 2, "val": 2, "test": 2}, 2),
    "EuroSAT": (eurosat, {"train": 12, "val": 4}, 2),
    "CLEVRClassification": (clevr, {"train": 6, "val": 6}, 3),
    "SUN397": (sun, {"train": 6, "val": 2}, 2),
    "FakeData": (fake, {"train": 45, "val": 15}, 3),
}


@pytest.mark.parametrize("name", list(TINY_SETS))
def test_a_torchvision_set_is_opened_with_its_own_splits(tmp_path: Path, name: str) -> None:
    make, sizes, classes = TINY_SETS[name]
    source = torchvision_set(name, tmp_path, options=make(tmp_path))
    assert source.info.sizes == sizes
    assert len(source.info.classes) == len(set(source.info.classes)) == classes
    assert source.info.channels == RECIPES[name].channels
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
    arguments = {**make(tmp_path), **RECIPES[name].train}
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


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_fits_the_constructor_of_its_set(name: str) -> None:
    import inspect

    recipe, kind = RECIPES[name], getattr(torchvision_datasets, name)
    for arguments in filter(None, (recipe.train, recipe.val, recipe.test)):
        options = {"split": "letters"} if name == "EMNIST" else {}
        root = {} if name == "FakeData" else {"root": "data"}
        inspect.signature(kind).bind(**root, **options, **arguments)
    assert recipe.train not in (recipe.val, recipe.test)


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"FakeData"}))
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
    train = torchvision_set("EuroSAT", tmp_path, val_fraction=0.1).datasets(COLOUR, augment=False, seed=0).train
    with pytest.raises(CorruptImageError, match=rf"^data.root={tmp_path}: cannot read the image \d+ of EuroSAT: "):
        list(eval_loader(train, batch_size=4, workers=0, device="cpu"))


# ---- preprocessing, stratified cuts, halves of the classes ---------------------------------------------------------


def test_standard_preprocessing_is_imagenets_for_photographs_and_centred_for_grey() -> None:
    photographs = DataInfo(3, ("a", "b"), {}, None)
    assert standard_preprocessing(photographs, 224, 3) == Preprocessing(
        224, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 0.875
    )
    assert standard_preprocessing(photographs, 32, 3).crop_pct == 1.0
    grey = DataInfo(1, ("a", "b"), {}, 32)
    assert standard_preprocessing(grey, 32, 3) == Preprocessing(32, 3, (0.5,) * 3, (0.5,) * 3, crop_pct=1.0)
    measured = DataInfo(1, ("a", "b"), {}, 32, mean=(0.3,), std=(0.4,))
    assert standard_preprocessing(measured, 32, 3) == Preprocessing(32, 3, (0.3,) * 3, (0.4,) * 3, crop_pct=1.0)


@pytest.mark.parametrize(
    "wrong", [{"mean": (0.5, 0.5)}, {"std": ()}, {"interpolation": "nearest"}, {"crop_pct": 0.0}, {"crop_pct": 87.5}]
)
def test_a_preprocessing_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    right = {"image_size": 8, "channels": 1, "mean": (0.5,), "std": (0.5,)}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Preprocessing(**{**right, **wrong})


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_a_stratified_cut_keeps_every_class_on_both_sides_and_single_images_in_train(fraction: float) -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20 + [3])
    kept, cut = stratified_cut(labels, fraction, seed=0)
    assert sorted(torch.cat((kept, cut)).tolist()) == list(range(101))
    assert set(labels[kept].tolist()) == {0, 1, 2, 3}
    assert set(labels[cut].tolist()) == {0, 1, 2}
    assert len(cut) == min(max(round(fraction * 100), 3), 97)


@given(
    counts=st.lists(st.integers(min_value=2, max_value=40), min_size=1, max_size=8),
    fraction=st.floats(min_value=0.01, max_value=0.9),
    seed=st.integers(min_value=0, max_value=2**32 - 1),
)
def test_a_stratified_cut_is_the_one_of_scikit_learn(counts: list[int], fraction: float, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)) * 3, torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed % 1000))]
    kept, cut = stratified_cut(labels, fraction, seed)
    positions = range(len(labels))
    expected = train_test_split(positions, test_size=len(cut), random_state=seed, stratify=labels.numpy())
    assert [kept.tolist(), cut.tolist()] == [sorted(part) for part in expected]


def test_a_stratified_cut_follows_its_seed() -> None:
    labels = torch.arange(100) % 4
    assert torch.equal(stratified_cut(labels, 0.2, 7)[1], stratified_cut(labels, 0.2, 7)[1])
    assert not torch.equal(stratified_cut(labels, 0.2, 7)[1], stratified_cut(labels, 0.2, 8)[1])
    assert "data.split_seed" in error_of(lambda: stratified_cut(labels, 0.2, 2**32))


def test_the_halves_of_the_classes_are_disjoint_and_follow_the_seed() -> None:
    source = digits()
    halves: Iterator[tuple[DataSource, DataSource]] = (
        (half_of_classes(source, "source", seed), half_of_classes(source, "target", seed)) for seed in (0, 0, 1)
    )
    chosen = []
    for first, second in halves:
        assert sorted(first.info.classes + second.info.classes) == list("0123456789")
        assert len(first.info.classes) == 5
        for split, size in source.info.sizes.items():
            assert first.info.sizes[split] + second.info.sizes[split] == size
        chosen.append(first.info.classes)
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_half_has_the_same_images_under_new_labels() -> None:
    source = digits()
    half = half_of_classes(source, "target", 0)
    names = [source.info.classes[label] for label in source.labels("val")]
    kept = [i for i, name in enumerate(names) if name in half.info.classes]
    whole = source.datasets(GREY, augment=False, seed=0).val
    part = half.datasets(GREY, augment=False, seed=0).val
    assert [half.info.classes[label] for label in half.labels("val")] == [names[i] for i in kept]
    assert [part[k][1] for k in range(len(part))] == half.labels("val").tolist()
    assert all(torch.equal(part[k][0], whole[i][0]) for k, i in enumerate(kept))
    assert set(half.labels("train").tolist()) == set(range(5))


def test_fewer_than_four_classes_cannot_be_halved(photos: Path) -> None:
    assert error_of(lambda: half_of_classes(folder(photos), "source", 0)) == (
        "weights=source_task: needs at least 4 classes to halve, the data has 3"
    )
