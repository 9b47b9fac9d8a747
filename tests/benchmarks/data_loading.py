"""Images (texts) per second of each data set's training loader, against the plainest loader of the same data.

    python tests/benchmarks/data_loading.py [--images 1000] [--pixels 256] [--size 64] [--batch 64] [--repeats 5]

The plain loaders: tensors in memory in a `TensorDataset` (for digits without augmentation, so it is the floor);
torchvision's `ImageFolder` and data sets with the usual transforms of torchvision for a training image; tokenising a
text after the other. JPEGs are made here, of --pixels a side; networks see --size. "ms a batch": the loading alone,
with nothing that trains beside it, the median with quartiles; "of a step": relative to a training step of resnet18 on
--batch images of 32×32 on this device; "to plain": a plain loader's time over the median of ours, above 1 is faster.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
from lwexp.data import CacheSettings, DataSource, EpochLoader, open_data, standard_preprocessing, train_loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 1000), ("pixels", 256), ("size", 64), ("batch", 64), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    given = parser.parse_args()
    print(report.machine())
    step = step_seconds(given.batch)
    print(f"a training step of resnet18, {given.batch} images of 32x32: {1000 * step:.1f} ms\n")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Path(folder)
        for title, contestants in (
            ("digits 32x32", digits(given)),
            (f"image_folder, JPEGs of {given.pixels} seen at {given.size}", photographs(place, given)),
            ("torchvision, grey 28x28 seen at 32 (FashionMNIST's files, random)", fashion(place, given)),
            ("text", texts(place, given)),
        ):
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
    """The plain loader with as many workers, else the one without."""
    workers = name.rpartition(", ")[2]
    return measured.get(f"plain, {workers}", measured["plain, 0 workers"])


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
    preprocessing = standard_preprocessing(source.info, size, 3)
    train = source.datasets(preprocessing, how.get("augment", True), 0, how.get("cache")).train
    return train_loader(train, batch_size=given.batch, seed=0, workers=how.get("workers", 0), device="cpu")


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


def photographs(place: Path, given: argparse.Namespace) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    for i in range(given.images):
        path = place / "photos" / f"class{i % 4}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)  # not noise: that no photograph's size has
        Image.fromarray(coarse).resize((given.pixels, given.pixels), Image.Resampling.BICUBIC).save(path, quality=90)
    usual = [
        v2.RandomResizedCrop(given.size, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]  # fmt: skip
    images = datasets.ImageFolder(str(place / "photos"), v2.Compose(usual))
    values: dict[str, Any] = {"image_size": None, "val_fraction": 0.05, "split_seed": 0, "augment": True, "workers": 0}
    source = open_data(ImageFolderConfig(name="image_folder", path=str(place / "photos"), cache=True, **values))
    return against(images, source, given.size, place, given)


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
