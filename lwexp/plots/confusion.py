"""The confusion matrix of a classification as a picture that stays readable from 2 to thousands of classes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .pixels import BLACK, BLUE, GRAY, ORANGE, PALE, blend, fitted, length, new_image, save, write, write_upward

NAMED = 60  # up to so many classes each has its name
_MATRIX, _NAME, _MARGIN, _TITLE = 1400, 300, 40, 30  # pixels; shown at half of that in a browser
_TO = " \u2013 "  # between the first and the last class of a block
_LISTED = 25  # most frequent confusions beside a large matrix


def draw_confusion(
    counts: NDArray[np.int64],
    names: Sequence[str],
    confusions: Sequence[tuple[int, int, int]],
    title: str,
    path: Path,
) -> Path:
    """Write the matrix `counts` [true classes, predicted classes] to the PNG file `path`.

    A cell's color is its share of the row: blue for correct ones, orange for mistakes, whose scale is the square root,
    so that a single one is visible. Up to `NAMED` classes every row and column has its name and every cell its number;
    beyond, blocks of classes are labeled, and beyond 280 a cell is a block: its mistakes are the most of one pair, and
    those within a block on the diagonal do not show. The most frequent `confusions` (true, predicted, samples) are
    listed beside more than 12 classes.
    """
    blocks = _Blocks(len(names))
    texts = blocks.labels(names)
    left = _MARGIN + 46 + int(max(length(text, blocks.size) for text in texts)) + 12
    top = _MARGIN + 2 * (_TITLE + 14) + 16
    listed = confusions[:_LISTED] if blocks.classes > 12 else []
    lines = [(f"{fitted(names[t], 22, 260)} → {fitted(names[p], 22, 260)}", n) for t, p, n in listed]
    aside = 60 + int(max(length(text, 22) for text, _ in lines)) + 110 if lines else 0
    under = int(max(length(text, blocks.size) for text in texts)) + 70
    legend = 820 if blocks.pooled == 1 else 1300
    width = max(left + blocks.side + aside + _MARGIN, _MARGIN + legend, int(length(title, _TITLE)) + 2 * _MARGIN)
    height = top + blocks.side + under + _MARGIN
    if lines:
        height = max(height, top + 46 + 34 * len(lines) + _MARGIN)
    image, draw = new_image(width, height)
    write(draw, (_MARGIN, _MARGIN), fitted(title, _TITLE, width - 2 * _MARGIN), _TITLE, BLACK, "la")
    note = f"; a cell is a block of {blocks.pooled} by {blocks.pooled} classes" if blocks.pooled > 1 else ""
    _draw_legend(image, draw, (_MARGIN, _MARGIN + _TITLE + 18), note)
    image.paste(_cells(counts, blocks), (left, top))
    draw.rectangle((left - 1, top - 1, left + blocks.side, top + blocks.side), outline=GRAY)
    if blocks.classes <= NAMED:
        _write_numbers(draw, counts, (left, top), blocks.cell)
    for middle, text in zip(blocks.middles(), texts, strict=True):
        write(draw, (left - 12, top + middle), text, blocks.size, BLACK, "rm")
        foot = top + blocks.side + 12
        write_upward(image, (left + middle, foot + length(text, blocks.size) + 4), text, blocks.size, BLACK)
    write_upward(image, (_MARGIN + 14, top + blocks.side / 2 + 50), "true", 26, GRAY)
    write(draw, (left + blocks.side / 2, top + blocks.side + under), "predicted", 26, GRAY, "mb")
    if lines:
        _list_confusions(draw, lines, (left + blocks.side + 60, top))
    return save(image, path)


class _Blocks:
    """How many pixels a class has, and which classes share a label."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.pooled = _round(classes / 280)  # classes in a cell of 5 pixels or more
        self.rows = -(-classes // self.pooled)
        self.cell = min(150, _MATRIX // self.rows)
        self.side = self.rows * self.cell
        self.size = int(np.clip(self.cell * 0.7, 20, 26)) if classes <= NAMED else 20
        room = 1 if classes <= NAMED else 26 / self.cell * self.pooled  # classes that a label needs
        self.step = _round(room)

    def labels(self, names: Sequence[str]) -> list[str]:
        """The name of each class, or of the first and last class of each block."""
        firsts = range(0, self.classes, self.step)
        if self.step == 1:
            return [fitted(name, self.size, _NAME) for name in names]
        half = (_NAME - length(_TO, self.size)) / 2
        ends = [(names[i], names[min(i + self.step, self.classes) - 1]) for i in firsts]
        return [_TO.join(fitted(name, self.size, half) for name in pair) for pair in ends]

    def middles(self) -> list[float]:
        """Where each label is, in pixels from the matrix's edge."""
        edges = [*range(0, self.classes, self.step), self.classes]
        scale = self.cell / self.pooled
        return [(a + b) / 2 * scale for a, b in pairwise(edges)]


def _round(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, … that is `least` or more."""
    steps: list[int] = [first * 10**power for power in range(9) for first in (1, 2, 5)]
    return next(step for step in steps if step >= least)


def _cells(counts: NDArray[np.int64], blocks: _Blocks) -> Image.Image:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    correct = share.diagonal()
    if blocks.pooled > 1:
        more = -len(counts) % blocks.pooled
        share = np.pad(share, (0, more)).reshape(blocks.rows, blocks.pooled, blocks.rows, blocks.pooled)
        share = share.max(axis=(1, 3))
        firsts = np.arange(0, len(counts), blocks.pooled)
        correct = np.add.reduceat(correct, firsts) / np.diff([*firsts, len(counts)])
    colors = blend(ORANGE, np.sqrt(share))
    diagonal = np.arange(len(share))
    colors[diagonal, diagonal] = blend(BLUE, correct)
    image = Image.fromarray(colors)
    return image.resize((blocks.side, blocks.side), Image.Resampling.NEAREST)


def _write_numbers(draw: ImageDraw.ImageDraw, counts: NDArray[np.int64], corner: tuple[int, int], cell: int) -> None:
    totals = np.maximum(counts.sum(axis=1), 1)
    for row, column in np.argwhere(counts):
        number = int(counts[row, column])
        text, size = f"{number:,}", int(np.clip(cell * 0.42, 15, 30))
        while size > 11 and length(text, size) > cell - 4:
            size -= 1
        share = number / totals[row]
        dark = share > (0.6 if row == column else 0.5)
        at = (corner[0] + (column + 0.5) * cell, corner[1] + (row + 0.5) * cell)
        if length(text, size) <= cell:
            write(draw, at, text, size, (255, 255, 255) if dark else BLACK, "mm")


def _draw_legend(image: Image.Image, draw: ImageDraw.ImageDraw, at: tuple[int, int], note: str) -> None:
    """Two bars from 0 to 100 % of a row's samples."""
    x, y = at
    ramp = np.linspace(0, 1, 160)
    for text, color, strength in (("correct", BLUE, ramp), ("mistakes", ORANGE, np.sqrt(ramp))):
        bar = np.repeat(blend(color, strength)[None], 20, axis=0)
        write(draw, (x, y + 12), text, 22, GRAY, "lm")
        x += int(length(text, 22)) + 12
        image.paste(Image.fromarray(bar), (x, y + 2))
        draw.rectangle((x, y + 2, x + 160, y + 22), outline=PALE)
        x += 190
    write(draw, (x, y + 12), f"0 to 100 % of the row{note}", 22, GRAY, "lm")


def _list_confusions(draw: ImageDraw.ImageDraw, lines: Sequence[tuple[str, int]], at: tuple[int, int]) -> None:
    x, y = at
    write(draw, (x, y), "most frequent mistakes: true → predicted", 22, GRAY, "la")
    for row, (text, number) in enumerate(lines):
        write(draw, (x + 70, y + 46 + 34 * row), f"{number:,}", 22, ORANGE, "ra")
        write(draw, (x + 86, y + 46 + 34 * row), text, 22, BLACK, "la")
