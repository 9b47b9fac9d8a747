"""Evaluations of several labels, and of numbers, as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .pixels import BLACK, BLUE, GRAY, ORANGE, PALE, fitted, length, new_image, save, write, write_upward

_MARGIN, _TITLE, _NAME = 40, 30, 340  # pixels; shown at half of that in a browser
_ROWS = 200  # labels at most
_YELLOW = (230, 159, 0)
_KINDS = (("tp", "found", BLUE), ("fn", "missed", ORANGE), ("fp", "predicted, not there", _YELLOW))


def draw_labels(counts: Mapping[str, NDArray[np.int64]], names: Sequence[str], title: str, path: Path) -> Path:
    """Write a bar for each label to the PNG file `path`: how often it was found, missed, and predicted but not there.

    `counts` has the numbers of "tp", "fn" and "fp" of each label. Of more than 200 labels, those with most mistakes.
    """
    order = np.arange(len(names))
    if len(order) > _ROWS:
        order = np.sort(np.argsort(-(counts["fn"] + counts["fp"]), kind="stable")[:_ROWS])
        title += f"; the {_ROWS} with the most mistakes"
    texts = [fitted(names[i], 24, _NAME) for i in order.tolist()]
    left, step, bar = _MARGIN + int(max(length(text, 24) for text in texts)) + 20, 44, 900
    top = _MARGIN + 2 * (_TITLE + 16)
    image, draw = new_image(left + bar + 170 + _MARGIN, top + step * len(order) + _MARGIN)
    write(draw, (_MARGIN, _MARGIN), fitted(title, _TITLE, image.width - 2 * _MARGIN), _TITLE, BLACK, "la")
    x: float = _MARGIN
    for _, text, color in _KINDS:
        draw.rectangle((x, top - 40, x + 22, top - 18), fill=color)
        write(draw, (x + 32, top - 29), text, 22, GRAY, "lm")
        x += 70 + length(text, 22)
    most = max(1, int(max(sum(counts[kind][i] for kind, _, _ in _KINDS) for i in order)))
    for row, (i, text) in enumerate(zip(order, texts, strict=True)):
        y, x = top + row * step, float(left)
        write(draw, (left - 14, y + step / 2), text, 24, BLACK, "rm")
        for kind, _, color in _KINDS:
            wide = bar * int(counts[kind][i]) / most
            if wide:
                draw.rectangle((x, y + 6, max(x, x + wide - 1), y + step - 6), fill=color)
            x += wide
        numbers = " / ".join(f"{int(counts[kind][i]):,}" for kind, _, _ in _KINDS)
        write(draw, (x + 10, y + step / 2), numbers, 20, GRAY, "lm")
    return save(image, path)


def draw_errors(
    true: NDArray[np.float32], predicted: NDArray[np.float32], titles: Sequence[str], title: str, path: Path
) -> Path:
    """Write predicted against true numbers, both [n, outputs], to the PNG file `path`; up to nine outputs."""
    shown = min(9, len(titles))
    across = math.ceil(math.sqrt(shown))
    side = 900 if shown == 1 else 520
    wide, high, top = side + 190, side + 170, _MARGIN + _TITLE + 24
    image, draw = new_image(across * wide + _MARGIN, top + -(-shown // across) * high + _MARGIN // 2)
    more = f"; the first {shown} of {len(titles)}" if len(titles) > shown else ""
    write(draw, (_MARGIN, _MARGIN), fitted(title + more, _TITLE, image.width - 2 * _MARGIN), _TITLE, BLACK, "la")
    for i in range(shown):
        corner = (_MARGIN + 130 + i % across * wide, top + 40 + i // across * high)
        _scatter(image, draw, true[:, i], predicted[:, i], fitted(titles[i], 24, side), corner, side)
    return save(image, path)


def _scatter(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    true: NDArray[np.float32],
    predicted: NDArray[np.float32],
    title: str,
    corner: tuple[int, int],
    side: int,
) -> None:
    """Points in a square with the same scale on both axes; on the diagonal both are equal."""
    x0, y0 = corner
    known = np.isfinite(true) & np.isfinite(predicted)
    values = np.concatenate([true[known], predicted[known]]).astype(np.float64)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    air = 0.04 * (high - low) or abs(high) * 0.1 or 1.0
    low, high = low - air, high + air

    def place(value: float) -> float:
        return (value - low) / (high - low) * side

    write(draw, (x0, y0 - 10), title, 24, BLACK, "lb")
    for value, text in _ticks(low, high):
        at = place(value)
        draw.line((x0 + at, y0, x0 + at, y0 + side), fill=PALE)
        draw.line((x0, y0 + side - at, x0 + side, y0 + side - at), fill=PALE)
        write(draw, (x0 + at, y0 + side + 10), text, 20, GRAY, "ma")
        write(draw, (x0 - 10, y0 + side - at), text, 20, GRAY, "rm")
    half = 5 if known.sum() <= 2000 else 2
    for a, b in zip(true[known].tolist(), predicted[known].tolist(), strict=True):
        x, y = x0 + place(a), y0 + side - place(b)
        draw.ellipse((x - half, y - half, x + half, y + half), fill=BLUE)
    draw.line((x0, y0 + side, x0 + side, y0), fill=ORANGE, width=2)
    draw.rectangle((x0, y0, x0 + side, y0 + side), outline=GRAY)
    write(draw, (x0 + side / 2, y0 + side + 46), "true", 24, GRAY, "ma")
    write_upward(image, (x0 - 110, y0 + side / 2 + 60), "predicted", 24, GRAY)


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round numbers between the two and their texts, about five.

    >>> _ticks(0.0, 10.3)
    [(0.0, '0'), (2.0, '2'), (4.0, '4'), (6.0, '6'), (8.0, '8'), (10.0, '10')]
    """
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next((n for n in (1, 2, 5) if n * power >= raw * 0.9), 10)
    found = [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [(value, f"{value:.6g}") for value in found]
