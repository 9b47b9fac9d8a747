"""Decoded images in a file: the same numbers with and without, made once, never half, and given up without harm."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import pickle
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lwexp.config.data_schema import ImageFolderConfig, TorchvisionConfig
from lwexp.data import CacheSettings, DataSource, Preprocessing, Splits, cache, eval_loader, open_data, train_loader
from lwexp.data.image_folder import FileStore
from lwexp.errors import ConfigError

SEEN = Preprocessing(16, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def write(path: Path, seed: int, size: tuple[int, int] = (24, 18)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for label, name in enumerate(("cat", "dog")):
        for i in range(7):
            write(tmp_path / "photos" / name / f"{i}.png", 10 * label + i, size=(24 + i, 18 + 2 * i))
    write(tmp_path / "photos" / "dog" / "one.jpg", 99)
    return tmp_path / "photos"


def folder(photos: Path) -> DataSource:
    values: dict[str, Any] = {"image_size": None, "val_fraction": 0.3, "split_seed": 0, "augment": True, "workers": 0}
    return open_data(ImageFolderConfig(name="image_folder", path=str(photos), cache="auto", **values))


def fake(channels: int) -> DataSource:
    options = {"size": 20, "image_size": [channels, 20, 12], "num_classes": 2}
    values: dict[str, Any] = {"image_size": None, "val_fraction": 0.3, "split_seed": 0, "augment": True, "workers": 0}
    return open_data(
        TorchvisionConfig(
            name="torchvision", dataset="FakeData", root="", download=False, options=options, cache=True, **values
        )
    )


def settings(place: Path, choice: Any = True, passes: float = 1.0) -> CacheSettings:
    return CacheSettings(place / "cache", choice, passes)


def made(place: Path) -> list[Path]:
    return sorted(path for path in (place / "cache").glob("*") if path.suffix != ".lock")


def epoch(splits: Splits, workers: int = 0, epoch: int = 1) -> list[torch.Tensor]:
    train = train_loader(splits.train, batch_size=3, seed=5, workers=workers, device="cpu")
    train.set_epoch(epoch)
    val = eval_loader(splits.val, batch_size=3, workers=workers, device="cpu")
    batches = [torch.cat((images.flatten(), labels.float())) for loader in (train, val) for images, labels in loader]
    train.close()
    val.close()
    return batches


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The positions of all images that are decoded from now on."""
    found: list[int] = []
    load = FileStore.load

    def counted(store: FileStore, position: int, channels: int) -> Any:
        found.append(position)
        return load(store, position, channels)

    monkeypatch.setattr(FileStore, "load", counted)
    return found


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("kind", ["folder", "color", "gray"])
def test_the_numbers_are_the_same_with_and_without(kind: str, augment: bool, photos: Path, tmp_path: Path) -> None:
    source = folder(photos) if kind == "folder" else fake(3 if kind == "color" else 1)
    plain = epoch(source.datasets(SEEN, augment, 3))
    kept = source.datasets(SEEN, augment, 3, settings(tmp_path))
    assert made(tmp_path)
    assert same(epoch(kept), plain)
    if kind == "folder":
        assert same(epoch(kept, workers=2), plain)


def test_images_are_decoded_once_for_all_runs(photos: Path, tmp_path: Path, loads: list[int]) -> None:
    folder(photos).datasets(SEEN, True, 0, settings(tmp_path))
    files = made(tmp_path)
    loads.clear()
    splits = folder(photos).datasets(SEEN, True, 1, settings(tmp_path))
    epoch(splits)
    assert not loads
    assert made(tmp_path) == files


def test_a_changed_file_another_size_and_another_step_before_augmentation_are_another_cache(
    photos: Path, tmp_path: Path
) -> None:
    folder(photos).datasets(SEEN, False, 0, settings(tmp_path))
    before = len(made(tmp_path))
    write(photos / "cat" / "0.png", 77)
    now = folder(photos)
    assert same(epoch(now.datasets(SEEN, False, 0, settings(tmp_path))), epoch(now.datasets(SEEN, False, 0)))
    after = len(made(tmp_path))
    assert after > before
    now.datasets(Preprocessing(17, 3, SEEN.mean, SEEN.std), False, 0, settings(tmp_path))
    assert len(made(tmp_path)) > after


def test_auto_keeps_what_is_small_and_seen_more_than_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: list[int]
) -> None:
    source = folder(photos)
    for choice, passes in ((False, 9.0), ("auto", 1.0)):
        source.datasets(SEEN, True, 0, settings(tmp_path, choice, passes))
        assert not made(tmp_path)
        assert not loads
    monkeypatch.setattr(cache, "AUTO_BYTES", 1000)
    source.datasets(SEEN, True, 0, settings(tmp_path, "auto", 9.0))
    assert not made(tmp_path)
    monkeypatch.undo()
    source.datasets(SEEN, True, 0, settings(tmp_path, "auto", 2.0))
    files = made(tmp_path)
    assert files
    kept = source.datasets(SEEN, True, 0, settings(tmp_path, "auto", 1.0)).train
    assert "decoded in" in kept.how, "what is there is used"


def test_a_damaged_file_is_made_again(photos: Path, tmp_path: Path) -> None:
    plain = epoch(folder(photos).datasets(SEEN, True, 0))
    folder(photos).datasets(SEEN, True, 0, settings(tmp_path))
    for path in made(tmp_path):
        path.write_bytes(path.read_bytes()[:-5])
    assert same(epoch(folder(photos).datasets(SEEN, True, 0, settings(tmp_path))), plain)


@pytest.mark.parametrize("reason", ["full disk", "no room", "no folder"])
def test_a_disk_that_refuses_is_a_warning(
    reason: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = folder(photos)
    if reason == "full disk":

        def full(file: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    elif reason == "no room":
        monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: Room(free=1000))
    else:
        (tmp_path / "cache").write_text("a file")
    with caplog.at_level(logging.WARNING):
        splits = source.datasets(SEEN, True, 0, settings(tmp_path))
    assert "data.cache" in caplog.text
    assert not made(tmp_path)
    assert same(epoch(splits), epoch(source.datasets(SEEN, True, 0)))


class Room:
    def __init__(self, free: int) -> None:
        self.free = free


def test_a_corrupt_image_is_left_to_the_training_to_name(photos: Path, tmp_path: Path) -> None:
    (photos / "dog" / "one.jpg").write_text("no image")
    splits = folder(photos).datasets(SEEN, True, 0, settings(tmp_path))
    with pytest.raises(ConfigError, match=r"dog/one\.jpg"):
        list(splits.train), list(splits.val)
    assert len(made(tmp_path)) == 1, "that of the other split"


def test_what_no_run_uses_any_more_is_removed_in_the_end(photos: Path, tmp_path: Path) -> None:
    folder(photos).datasets(SEEN, False, 0, settings(tmp_path))
    old, left = made(tmp_path)[0], tmp_path / "cache" / ".0123.images.part"
    left.write_text("of a killed process")
    for path in (old, left):
        os.utime(path, (0, time.time() - 20 * 86400))
    folder(photos).datasets(Preprocessing(8, 3, SEEN.mean, SEEN.std), False, 0, settings(tmp_path))
    assert old not in made(tmp_path)
    assert left not in made(tmp_path)
    folder(photos).datasets(SEEN, False, 0, settings(tmp_path))
    assert old in made(tmp_path)


def test_a_pickle_holds_no_pixels(photos: Path, tmp_path: Path) -> None:
    train = folder(photos).datasets(SEEN, False, 0, settings(tmp_path)).train
    packed = pickle.dumps(train)
    assert len(packed) < 16 * 16 * 3 * len(train)
    assert torch.equal(pickle.loads(packed)[1][0], train[1][0])


def build(photos: Path, place: Path, seconds: float, results: Connection) -> None:
    """In another process: write the cache, each image in `seconds`, and send a message for each and the result."""
    load = FileStore.load

    def slow(store: FileStore, position: int, channels: int) -> Any:
        time.sleep(seconds)
        results.send("decoded")
        return load(store, position, channels)

    FileStore.load = slow  # type: ignore[method-assign]
    FileStore.threads = 1
    splits = folder(photos).datasets(SEEN, False, 0, settings(place))
    results.send(float(sum(batch.sum() for batch in epoch(splits))))


def builder(photos: Path, place: Path, seconds: float) -> tuple[BaseProcess, Connection]:
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=build, args=(photos, place, seconds, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts processes by fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_many_processes_make_it_once_and_a_killed_one_leaves_nothing_half(photos: Path, tmp_path: Path) -> None:
    process, results = builder(photos, tmp_path, 0.1)
    while not made(tmp_path):  # it begins to write when it has looked at a sample
        assert results.recv() == "decoded"
    process.kill()
    process.join()
    assert [path.name[0] for path in made(tmp_path)] == ["."]

    both = [builder(photos, tmp_path, 0.01) for _ in range(2)]
    sums, decoded = [], []
    for process, results in both:
        count = 0
        while (found := results.recv()) == "decoded":
            count += 1
        decoded.append(count)
        sums.append(found)
        process.join(60)
        assert process.exitcode == 0
    assert sums[0] == sums[1]
    assert sum(decoded) <= 15 + 2 * (8 + 5), "all images once, and for each process a sample of both splits"
    assert all(path.suffix == ".images" for path in made(tmp_path))
