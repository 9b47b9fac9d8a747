"""Pictures drawn with Pillow, which every run has imported: text, names that fit, colors.

A picture by matplotlib costs a run 0.6 s and a process of its own; one of these a few hundredths of a second.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

BLUE, ORANGE, GRAY, BLACK = (0, 114, 178), (213, 94, 0), (110, 110, 110), (20, 20, 20)  # by Okabe and Ito
PALE = (222, 222, 222)
Color = tuple[int, int, int]


@cache
def font(size: int) -> Any:
    """DejaVu Sans, `size` pixels high, as it ships with matplotlib."""
    found = importlib.util.find_spec("matplotlib")
    places = list(found.submodule_search_locations or []) if found is not None else []
    for place in places:
        file = Path(place, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


@cache
def _shown(character: str) -> str:
    """`character`, or its escape where the font lacks it."""
    face = font(16)
    if character.isascii():
        return character if character.isprintable() else " "
    lacking = bytes(face.getmask(character)) == bytes(face.getmask("\uffff"))
    return character.encode("unicode_escape").decode() if lacking else character


def fitted(text: str, size: int, width: float) -> str:
    """`text` as drawn in at most `width` pixels, cut in the middle; characters that the font lacks are escaped."""
    face, text = font(size), "".join(map(_shown, text))
    if face.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 1:
        kept -= max(1, kept // 12)
        end = kept // 2
        short = f"{text[: kept - end]}…{text[len(text) - end :] if end else ''}"
        if face.getlength(short) <= width:
            return short
    return "…"


def length(text: str, size: int) -> float:
    """Pixels that `text` takes as drawn."""
    return float(font(size).getlength(text))


def new_image(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A white picture, and what draws on it."""
    image = Image.new("RGB", (width, height), "white")
    return image, ImageDraw.Draw(image)


def write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, color: Color, anchor: str) -> None:
    """Draw `text` at a point; `anchor` as in Pillow, such as "lm": left, middle."""
    draw.text(at, text, fill=color, font=font(size), anchor=anchor)


def write_upward(image: Image.Image, at: tuple[float, float], text: str, size: int, color: Color) -> None:
    """Draw `text` turned by 90°, upward from `at`, centered on it horizontally."""
    wide, high = int(length(text, size)) + 4, int(size * 1.4)
    label = Image.new("L", (wide, high), 0)
    ImageDraw.Draw(label).text((0, high / 2), text, fill=255, font=font(size), anchor="lm")
    turned = label.transpose(Image.Transpose.ROTATE_90)
    image.paste(Image.new("RGB", turned.size, color), (round(at[0] - high / 2), round(at[1] - wide)), turned)


def blend(color: Color, strength: NDArray[np.float64]) -> NDArray[np.uint8]:
    """White to `color` by `strength` in [0, 1], uint8 [..., 3]."""
    share = np.clip(strength, 0, 1)[..., None]
    mixed = 255 + share * (np.array(color) - 255.0)
    return np.asarray(mixed.round(), dtype=np.uint8)


def save(image: Image.Image, path: Path) -> Path:
    """Write a PNG file; returns its path."""
    image.save(path, compress_level=4)
    return path
