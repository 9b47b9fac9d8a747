"""The files of some of torchvision's sets, a few images each, in the formats that torchvision reads."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.data_sources import RED, write_images


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
