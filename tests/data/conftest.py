"""A folder of images that several modules of these tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.data_sources import write_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split, count in (("train", 8), ("val", 3), ("test", 2)):
        for name in ("cat", "dog", "emu"):
            write_images(tmp_path / split / name, count)
    return tmp_path
