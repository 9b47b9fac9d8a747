"""Images (texts) per second of each data set's training loader, against the plainest loader of the same data.

    python tests/benchmarks/data_loading.py [--images 1000] [--pixels 256] [--size 64] [--batch 64] [--repeats 5]
        [--photos FOLDER] [--only timm augmentation …]

FOLDER: an own set of photographs, <class>/<file> or with train/, in place of those made here.

The plain loaders: tensors in memory in a `TensorDataset` (for digits without augmentation, so it is the floor);
torchvision's `ImageFolder` and data sets with the usual transforms of torchvision for a training image; tokenising a
text after the other. JPEGs are made here, of --pixels a side; networks see --size. "ms a batch": the loading alone,
with nothing that trains beside it, the median with quartiles; "of a step": relative to a training step of resnet18 on
--batch images of 32×32 on this device; "to plain": a plain loader's time over the median of ours, above 1 is faster.
"timm": its `create_loader` on the same photographs with the same steps, training and evaluation. "augmentation": what
each choice of `data.augment` costs beside the standard one, one process, images in the cache.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets
from torchvision.transforms import v2

from lwexp.config.data_schema import DigitsConfig, ImageFolderConfig, TextConfig, TorchvisionConfig
from lwexp.data import (
    Augmentation,
    CacheSettings,
    DataSource,
    EpochLoader,
    Mixing,
    eval_loader,
    open_data,
    standard_preprocessing,
    train_loader,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 1000), ("pixels", 256), ("size", 64), ("batch", 64), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--photos", type=Path, default=None)
    parser.add_argument(
        "--only", nargs="*", default=["digits", "photographs", "fashion", "text", "timm", "augmentation"]
    )
    given = parser.parse_args()
    print(report.machine())
    step = step_seconds(given.batch)
    print(f"a training step of resnet18, {given.batch} images of 32x32: {1000 * step:.1f} ms\n")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Path(folder)
        seen = f"{given.photos.name if given.photos else f'JPEGs of {given.pixels}'} seen at {given.size}"
        for kind, title, make in (
            ("digits", "digits 32x32", lambda: digits(given)),
            ("photographs", f"image_folder, {seen}", lambda: photographs(place, given)),
            ("timm", f"timm, {seen}", lambda: beside_timm(place, given)),
            ("augmentation", f"augmentation, {seen}", lambda: augmentations(place, given)),
            (
                "fashion",
                "torchvision, grey 28x28 seen at 32 (FashionMNIST's files, random)",
                lambda: fashion(place, given),
            ),
            ("text", "text", lambda: texts(place, given)),
        ):
            if kind not in given.only:
                continue
            contestants = make()
            for loader in contestants.values():
                stack.callback(close, loader)
            measured = report.interleave({name: timer(loader) for name, loader in contestants.items()}, given.repeats)
            rows = [
                [
                    name,
                    report.cell(report.spread([1000 * value for value in values]), 1),
                    f"{given.batch / report.spread(values).median:.0f}",
                    f"{report.spread(values).median / step:.1%}",
                    report.cell(report.ratio(reference(measured, name), values)),
                ]
                for name, values in measured.items()
            ]
            print(report.table([title, "ms a batch", "samples/s", "of a step", "to plain"], rows), flush=True)
            print()


def reference(measured: dict[str, list[float]], name: str) -> list[float]:
    """The plain loader, or timm's, of the same kind with as many workers; else the first."""
    kind, _, workers = name.rpartition(", ")
    for other in (f"plain, {workers}", f"timm {kind.rpartition(' ')[2]}, {workers}", "plain, 0 workers"):
        if other in measured:
            return measured[other]
    return next(iter(measured.values()))


def step_seconds(batch: int) -> float:
    import timm

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = timm.create_model("resnet18", num_classes=10).to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    images, labels = torch.randn(batch, 3, 32, 32, device=device), torch.zeros(batch, dtype=torch.int64, device=device)
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return report.spread(seconds[2:]).median


def timer(loader: Any) -> Callable[[], float]:
    """Seconds a batch over one epoch; its first batch, for which workers start, is not counted."""
    epochs = iter(range(1000))

    def measure() -> float:
        if isinstance(loader, EpochLoader):
            loader.set_epoch(next(epochs))
        batches = iter(loader)
        next(batches)
        start = time.perf_counter()
        count = sum(1 for _ in batches)
        return (time.perf_counter() - start) / count

    return measure


def close(loader: Any) -> None:
    if isinstance(loader, EpochLoader):
        loader.close()


def plain(dataset: Any, workers: int, given: argparse.Namespace) -> DataLoader[Any]:
    return DataLoader(
        dataset, given.batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )


def ours(source: DataSource, size: int, given: argparse.Namespace, **how: Any) -> EpochLoader:
    """Batches of the training split as a training or, with `training=False`, an evaluation has them."""
    preprocessing = replace(standard_preprocessing(source.info, size, 3), crop_pct=0.875)
    training = how.get("training", True)
    train = source.datasets(preprocessing, how.get("augment", True) if training else None, 0, how.get("cache")).train
    loading: dict[str, Any] = {"batch_size": given.batch, "workers": how.get("workers", 0), "device": "cpu"}
    if not training:
        return eval_loader(train, **loading)
    return train_loader(train, seed=0, balance=how.get("balance"), mixing=how.get("mixing"), **loading)


def digits(given: argparse.Namespace) -> dict[str, Any]:
    source = open_data(DigitsConfig(name="digits", image_size=None, split_seed=0, augment=True, workers=0))
    whole = ours(source, 32, given, augment=False)
    images, labels = (torch.cat(parts) for parts in zip(*whole, strict=True))
    return {
        "plain, 0 workers": plain(TensorDataset(images, labels), 0, given),
        "lwexp without augmentation, 0 workers": whole,
        "lwexp, 0 workers": ours(source, 32, given),
        "lwexp, 1 workers": ours(source, 32, given, workers=1),
    }


def photographs_in(place: Path, given: argparse.Namespace) -> Path:
    """The folder of classes: the user's own, or one that is made here."""
    if given.photos is not None:
        return given.photos / "train" if (given.photos / "train").is_dir() else given.photos
    if (place / "photos").is_dir():
        return place / "photos"
    generator = np.random.default_rng(0)
    for i in range(given.images):
        path = place / "photos" / f"class{i % 4}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)  # not noise: that no photograph's size has
        Image.fromarray(coarse).resize((given.pixels, given.pixels), Image.Resampling.BICUBIC).save(path, quality=90)
    return place / "photos"


def opened(folder: Path) -> DataSource:
    values: dict[str, Any] = {"image_size": None, "val_fraction": 0.05, "split_seed": 0, "augment": True, "workers": 0}
    return open_data(ImageFolderConfig(name="image_folder", path=str(folder), cache=True, **values))


def beside_timm(place: Path, given: argparse.Namespace) -> dict[str, Any]:
    """timm's loader and ours, without and with our cache: random resized crop and flip; resize and center crop."""
    from timm.data import ImageDataset, create_loader

    folder = photographs_in(place, given)
    source, cache = opened(folder), CacheSettings(place / "cache", True, 10.0)
    found: dict[str, Any] = {}
    for workers in given.workers:
        for kind, training in (("training", True), ("evaluation", False)):
            how: dict[str, Any] = {"workers": workers, "training": training}
            found[f"timm {kind}, {workers} workers"] = create_loader(
                ImageDataset(str(folder)), (3, given.size, given.size), given.batch, is_training=training,
                color_jitter=0.0, interpolation="bilinear", crop_pct=0.875, num_workers=workers,
                persistent_workers=workers > 0, device=torch.device("cpu"),
            )  # fmt: skip
            found[f"lwexp {kind}, {workers} workers"] = ours(source, given.size, given, **how)
            found[f"lwexp cached {kind}, {workers} workers"] = ours(source, given.size, given, cache=cache, **how)
    return found


def augmentations(place: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Each choice on cached images in one process; the first, standard, is what the others are compared with."""
    source, cache = opened(photographs_in(place, given)), CacheSettings(place / "cache", True, 10.0)
    choices: dict[str, dict[str, Any]] = {
        **{name: {"augment": Augmentation(name)} for name in ("standard", "light")},
        "none": {"augment": None},
        **{name: {"augment": Augmentation(name)} for name in ("randaugment", "autoaugment", "trivialaugment")},
        "standard, erasing=0.25": {"augment": Augmentation("standard", erasing=0.25)},
        "standard, mixup=0.2": {"mixing": Mixing(0.2, 0.0, len(source.info.classes), 0)},
        "standard, cutmix=1": {"mixing": Mixing(0.0, 1.0, len(source.info.classes), 0)},
        "standard, sampler=balanced": {"balance": source.labels("train")},
    }
    return {name: ours(source, given.size, given, cache=cache, **how) for name, how in choices.items()}


def photographs(place: Path, given: argparse.Namespace) -> dict[str, Any]:
    usual = [
        v2.RandomResizedCrop(given.size, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]  # fmt: skip
    folder = photographs_in(place, given)
    return against(datasets.ImageFolder(str(folder), v2.Compose(usual)), opened(folder), given.size, place, given)


def fashion(place: Path, given: argparse.Namespace) -> dict[str, Any]:
    raw = place / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, count in (("train", given.images), ("t10k", 64)):
        for kind, code, shape in (("images-idx3", 3, (count, 28, 28)), ("labels-idx1", 1, (count,))):
            values = generator.integers(0, 256 if code == 3 else 4, shape, dtype=np.uint8)
            head = bytes([0, 0, 8, code]) + np.array(shape, dtype=">i4").tobytes()
            (raw / f"{part}-{kind}-ubyte").write_bytes(head + values.tobytes())
    usual = [
        v2.Resize((32, 32), antialias=True), v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1)), v2.Grayscale(3),
        v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3),
    ]  # fmt: skip
    images = datasets.FashionMNIST(str(place), transform=v2.Compose(usual))
    values2: dict[str, Any] = {"image_size": 32, "val_fraction": 0.05, "split_seed": 0, "augment": True, "workers": 0}
    config = TorchvisionConfig(
        name="torchvision", dataset="FashionMNIST", root=str(place), download=False, options={}, cache=True, **values2
    )
    return against(images, open_data(config), 32, place, given)


def against(images: Any, source: DataSource, size: int, place: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The plain data set by workers; ours by workers, with and without cache; ours cached and not augmented."""
    cache = CacheSettings(place / "cache", True, 10.0)
    found: dict[str, Any] = {}
    for workers in given.workers:
        end = f"{workers} workers"
        found[f"plain, {end}"] = plain(images, workers, given)
        found[f"lwexp, {end}"] = ours(source, size, given, workers=workers)
        found[f"lwexp cached, {end}"] = ours(source, size, given, workers=workers, cache=cache)
    found["lwexp without augmentation, 0 workers"] = ours(source, size, given, augment=False)
    found["lwexp cached without augmentation, 0 workers"] = ours(source, size, given, augment=False, cache=cache)
    return found


class OneByOne:
    """Batches of token ids, each text tokenised for itself."""

    def __init__(self, tokens: Any, sentences: list[str], batch: int) -> None:
        self._tokens, self._sentences, self._batch = tokens, sentences, batch

    def __iter__(self) -> Iterator[Any]:
        for i in range(0, len(self._sentences) - self._batch, self._batch):
            yield self._tokens.batch([self._tokens.encode([text])[0] for text in self._sentences[i : i + self._batch]])


def texts(place: Path, given: argparse.Namespace) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    words = [f"w{i}" for i in range(3000)]
    sentences = [" ".join(generator.choice(words, generator.integers(20, 120))) for _ in range(given.images)]
    with (place / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((text, i % 2) for i, text in enumerate(sentences))])
    source = open_data(
        TextConfig(
            name="text", path=str(place / "texts.csv"), dataset=None, subset=None, text="text", label="label",
            tokenizer=None, vocabulary=20000, max_length=128, val_fraction=0.1, test_fraction=0.0, split_seed=0,
            workers=0,
        )
    )  # fmt: skip
    train = source.datasets(None, False, 0).train
    return {
        "plain, 0 workers": OneByOne(source.info.tokens, sentences, given.batch),
        "lwexp, 0 workers": train_loader(train, batch_size=given.batch, seed=0, workers=0, device="cpu"),
        "lwexp, 1 workers": train_loader(train, batch_size=given.batch, seed=0, workers=1, device="cpu"),
    }


if __name__ == "__main__":
    main()
