"""Samples that a model got wrong, as a picture: each with what it is and what the model said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .pixels import BLACK, BLUE, GRAY, ORANGE, PALE, fitted, new_image, save, write

SHOWN, COLUMNS = 25, 5
_SIDE, _GAP, _MARGIN, _TITLE = 300, 44, 40, 30  # pixels; shown at half of that in a browser


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: the image as the model saw it, uint8 [H, W, 3], and the texts below it."""

    image: NDArray[np.uint8]
    predicted: str
    true: str
    name: str  # the file's, or its number


def draw_mistakes(mistakes: Sequence[Mistake], title: str, path: Path) -> Path:
    """Write the images of `mistakes` in rows of `COLUMNS` to the PNG file `path`."""
    rows = -(-len(mistakes) // COLUMNS)
    step, top = _SIDE + _GAP, _MARGIN + _TITLE + 34
    below = 112
    width = 2 * _MARGIN + COLUMNS * _SIDE + (COLUMNS - 1) * _GAP
    image, draw = new_image(width, top + rows * (_SIDE + below) + _MARGIN // 2)
    write(draw, (_MARGIN, _MARGIN), fitted(title, _TITLE, width - 2 * _MARGIN), _TITLE, BLACK, "la")
    for i, mistake in enumerate(mistakes):
        x, y = _MARGIN + i % COLUMNS * step, top + i // COLUMNS * (_SIDE + below)
        image.paste(_enlarged(mistake.image), (x, y))
        draw.rectangle((x - 1, y - 1, x + _SIDE, y + _SIDE), outline=PALE)
        texts = ((mistake.predicted, 22, ORANGE), (mistake.true, 22, BLUE), (mistake.name, 18, GRAY))
        line = y + _SIDE + 8
        for text, size, color in texts:
            write(draw, (x, line), fitted(text, size, _SIDE), size, color, "la")
            line += size + 7
    return save(image, path)


def _enlarged(pixels: NDArray[np.uint8]) -> Image.Image:
    """The whole image in a square of `_SIDE` pixels; small ones keep their pixels visible."""
    image = Image.fromarray(pixels)
    scale = _SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    kept = image.resize(size, Image.Resampling.NEAREST if scale > 4 else Image.Resampling.BICUBIC)
    square = Image.new("RGB", (_SIDE, _SIDE), "white")
    square.paste(kept, ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
    return square
