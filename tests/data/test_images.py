"""Single images: color modes, orientation, files that cannot be read."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from lwexp.data import CorruptImageError, train_loader
from lwexp.data.images import read_image
from tests.helpers.data_sources import COLOR, RED, folder

pytestmark = [
    # on a machine with one core torch advises against two workers; whether they give the same data is the point here
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    # Python 3.12 and later: torch's own threads beside its own fork
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]


def stored(tmp_path: Path, image: Image.Image, name: str = "image.png", **options: Any) -> np.ndarray[Any, Any]:
    image.save(tmp_path / name, **options)
    return np.asarray(read_image(tmp_path / name, 3))


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        pytest.param(Image.new("L", (4, 4), 120), "a.png", (120, 120, 120), id="gray"),
        pytest.param(Image.new("1", (4, 4), 1), "a.png", (255, 255, 255), id="black-and-white"),
        pytest.param(RED.convert("P"), "a.gif", (204, 0, 0), id="palette"),
        pytest.param(RED.convert("P", palette=Image.Palette.ADAPTIVE), "a.png", (200, 0, 0), id="own palette"),
        pytest.param(Image.new("RGBA", (4, 4), (200, 0, 0, 255)), "a.png", (200, 0, 0), id="RGBA"),
        pytest.param(Image.new("RGBA", (4, 4), (200, 0, 0, 0)), "a.png", (255, 255, 255), id="transparent is white"),
        pytest.param(Image.new("LA", (4, 4), (90, 255)), "a.png", (90, 90, 90), id="gray with alpha"),
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
def test_every_color_mode_becomes_rgb(
    tmp_path: Path, image: Image.Image, name: str, expected: tuple[int, int, int]
) -> None:
    assert (stored(tmp_path, image, name) == np.array(expected)).all()


def test_a_palette_with_transparent_entries_is_read_without_a_warning(tmp_path: Path) -> None:
    image = RED.convert("P", palette=Image.Palette.ADAPTIVE)
    assert (stored(tmp_path, image, transparency=bytes([0] * 256)) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_camera_noted_is_respected(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    ours = stored(tmp_path, image, exif=exif)
    with Image.open(tmp_path / "image.png") as reference:
        assert np.array_equal(ours, np.asarray(ImageOps.exif_transpose(reference)))
    assert ours.shape == ((4, 6, 3) if orientation < 5 else (6, 4, 3))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_the_orientation_is_respected_where_the_rest_of_the_exif_is_broken(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGB", (6, 4))
    # orientation 6, and a description that is a number: Pillow reads it and cannot write it
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x010E, 12, 1, 38)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<Id", 0, 0.5)
    image.save(tmp_path / f"image{suffix}", exif=exif)
    with Image.open(tmp_path / f"image{suffix}") as broken, pytest.raises(AttributeError, match="float"):
        ImageOps.exif_transpose(broken)
    assert read_image(tmp_path / f"image{suffix}", 3).size == (4, 6)


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
    train = folder(photos).datasets(COLOR, augment=True, seed=0).train
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
