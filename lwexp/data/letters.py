"""Printed letters: gray images like those of scikit-learn's digits, drawn from the fonts that matplotlib ships.

A source task that needs no download and knows more than the digits teach: 52 classes, thousands of images.
"""

from __future__ import annotations

import string
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from lwexp.errors import ConfigError

from .digits import IMAGE_SIZE, TensorStore
from .source import DataSource, Split
from .splits import stratified_cut

LETTERS = string.ascii_letters
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    "cmb10", "cmr10", "cmss10", "cmti10", "cmtt10",
)  # fmt: skip
VARIANTS = 10  # of each letter in each font
_SIDE, _CANVAS = 8, 64  # pixels of an image, as the digits have, and of the drawing


def open_letters(seed: int) -> DataSource:
    """Upper and lower case, each turned, slanted and scaled at random by `seed`; a tenth is for validation."""
    random = np.random.default_rng(seed)
    fonts = [ImageFont.truetype(str(file), 44) for file in _font_files()]
    drawn = [_draw(letter, font, random) for letter in LETTERS for font in fonts for _ in range(VARIANTS)]
    images = torch.from_numpy(np.stack(drawn))[:, None]
    labels = torch.arange(len(LETTERS)).repeat_interleave(len(fonts) * VARIANTS)
    train, val = stratified_cut(labels, 0.1, seed)
    store = TensorStore(images)
    return DataSource(
        {"train": Split(store, train, labels[train]), "val": Split(store, val, labels[val])},
        classes=tuple(LETTERS),
        channels=1,
        image_size=IMAGE_SIZE,
        style="character",
    )


def _font_files() -> list[Path]:
    """The files of `FONTS`; matplotlib is found, not imported. Raises `ConfigError`."""
    found = find_spec("matplotlib")
    places = [Path(place) for place in (found.submodule_search_locations or ())] if found is not None else []
    files = [place / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf" for place in places[:1] for name in FONTS]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        where = missing[0].parent if missing else "an installed package"
        raise ConfigError("weights", "letters", f"needs the fonts of matplotlib, which are not in {where}")
    return files


def _draw(letter: str, font: ImageFont.FreeTypeFont, random: np.random.Generator) -> np.ndarray:
    """One letter, uint8 [8, 8], white on black, that fills its image."""
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    center = _CANVAS / 2
    ImageDraw.Draw(canvas).text((center, center), letter, font=font, fill=255, anchor="mm")
    angle, slant = random.uniform(-0.25, 0.25), random.uniform(-0.3, 0.3)
    wide, high = random.uniform(0.8, 1.3, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[wide, slant], [0.0, high]])
    x, y = np.full(2, center) - matrix @ np.full(2, center)
    rows = (*matrix[0], x, *matrix[1], y)
    moved = canvas.transform(canvas.size, Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR)
    left, top, right, bottom = moved.getbbox() or (0, 0, *canvas.size)
    half = max(right - left, bottom - top) / 2 + 2
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    letter_only = moved.crop((middle_x - half, middle_y - half, middle_x + half, middle_y + half))
    return np.array(letter_only.resize((_SIDE, _SIDE), Image.Resampling.BOX))
