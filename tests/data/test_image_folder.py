"""Folders of images: layouts, labels, and mistakes that are refused in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lwexp.data import DataInfo, Preprocessing
from tests.helpers.data_sources import COLOR, GRAY, error_of, folder, write_images


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
    assert source.datasets(COLOR, augment=True, seed=0).test is None

    def val(seed: int) -> torch.Tensor:
        part = folder(tmp_path, split_seed=seed).datasets(COLOR, augment=False, seed=0).val
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
    train = source.datasets(COLOR, augment=False, seed=0).train
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
        source.datasets(COLOR, augment=True, seed=0).train,
        source.datasets(COLOR, augment=True, seed=0).val,
    ):
        for i in range(len(part)):
            image, label = part[i]
            assert image.mean(dim=(1, 2)).argmax() == 2 - label
    assert source.labels("val").tolist() == [0, 0, 1, 1, 2, 2]


def test_evaluation_keeps_the_center_that_crop_pct_says(tmp_path: Path) -> None:
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


def test_color_images_become_gray_for_a_model_of_one_channel(photos: Path) -> None:
    image, _ = folder(photos).datasets(GRAY, augment=True, seed=0).train[0]
    assert image.shape == (1, 32, 32)


def test_a_channel_count_that_cannot_be_made_is_refused(photos: Path) -> None:
    four = Preprocessing(16, 4, (0.5,) * 4, (0.5,) * 4)
    assert "4" in error_of(lambda: folder(photos).datasets(four, augment=False, seed=0))


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


def test_a_class_folder_without_images_is_named(photos: Path) -> None:
    (photos / "train" / "fox").mkdir()
    assert "class folder train/fox;" in error_of(lambda: folder(photos))
    (photos / "train" / "fox" / "1.heic").touch()
    expected = "no images in the class folder train/fox (but files that Pillow cannot read: 1 .heic); "
    assert expected in error_of(lambda: folder(photos))


@pytest.mark.parametrize("place", ["val/cat", "test/emu", "val/new"])
def test_a_class_folder_without_images_is_only_said_outside_of_train(
    photos: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    before = folder(photos).info
    assert caplog.text == ""
    count = len(list((photos / place).glob("*")))
    for image in (photos / place).glob("*"):
        image.unlink()
    (photos / place).mkdir(exist_ok=True)
    split = place.partition("/")[0]
    assert folder(photos).info.sizes == {**before.sizes, split: before.sizes[split] - count}
    assert f"data.path={photos}: without images: {place}" in caplog.text


def test_every_format_that_pillow_decodes_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    suffixes = [".ppm", ".jfif", ".pgm", ".tga", ".JPE", ".avif", ".jp2", ".ico", ".qoi", ".dib"]
    for name in ("cat", "dog"):
        write_images(tmp_path / name, 1)
        for suffix in suffixes:
            path = tmp_path / name / f"picture{suffix}"
            kind = Image.registered_extensions()[suffix.lower()]
            write_images(tmp_path / name / "more", 1, suffix=".png")
            (tmp_path / name / "more" / "000.png").rename(tmp_path / name / "without_ending")
            Image.open(tmp_path / name / "000.png").convert("L" if suffix == ".pgm" else "RGB").save(path, kind)
    caplog.set_level("INFO")
    source = folder(tmp_path, val_fraction=0.1)
    assert sum(source.info.sizes.values()) == 2 * (2 + len(suffixes))
    train = source.datasets(COLOR, augment=False, seed=0).train
    assert {train[i][0].shape for i in range(len(train))} == {(3, 16, 16)}
    assert caplog.text == ""


def test_nothing_is_skipped_unsaid(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    for place in ("train/cat/@eaDir/000.png", "train/@eaDir", "$RECYCLE.BIN/S-1-5", "System Volume Information"):
        write_images(photos / place, 1)
    for place in ("train/cat/Thumbs.db", "val/cat/.DS_Store", ".DS_Store", "val/desktop.ini", "train/dog/._000.png"):
        (photos / place).write_bytes(b"no image")
    for place in ("train/cat/a.txt", "val/dog/b.txt", "train/cat/phone.HEIC", "train/dog/noending"):
        (photos / place).touch()
    write_images(photos / "train", 1)
    write_images(photos / "unlabeled", 1)
    caplog.set_level("INFO")
    assert folder(photos).info == DataInfo(3, ("cat", "dog", "emu"), {"train": 24, "val": 9, "test": 6}, None)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        f"data.path={photos}: skipped: 1 file (train/dog/noending), 1 .heic file (train/cat/phone.HEIC), "
        "2 .txt files (train/cat/a.txt, val/dog/b.txt), 1 image outside of class folders (train/000.png), "
        "1 folder beside train (unlabeled), 9 files or folders of the system (2 .DS_Store, 2 @eaDir, $RECYCLE.BIN, …)"
    )


def test_what_systems_leave_behind_is_said_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("cat", "dog", "@eaDir", "__MACOSX", "#recycle"):
        write_images(tmp_path / name, 4)
    caplog.set_level("INFO")
    assert folder(tmp_path).info.classes == ("cat", "dog")
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert record.getMessage().endswith("skipped: 3 files or folders of the system (#recycle, @eaDir, __MACOSX)")


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
