"""Data sources as tests open them, and folders of small images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lwexp.config.data_schema import DigitsConfig, ImageFolderConfig, TorchvisionConfig
from lwexp.data import DataSource, Preprocessing, open_data
from lwexp.errors import ConfigError

GRAY = Preprocessing(32, 1, (0.5,), (0.5,), crop_pct=1.0)
COLOR = Preprocessing(16, 3, (0.5,) * 3, (0.5,) * 3)
RED = Image.new("RGB", (4, 4), (200, 0, 0))


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


def write_images(path: Path, count: int, suffix: str = ".png", size: tuple[int, int] = (24, 18)) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        noise = np.random.default_rng([i, len(str(path))]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(path / f"{i:03d}{suffix}")


def error_of(call: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)
