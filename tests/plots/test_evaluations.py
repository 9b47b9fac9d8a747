"""Pictures of evaluations: what is readable on them, from 2 classes to thousands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lwexp.plots.confusion import draw_confusion
from lwexp.plots.mistakes import Mistake, draw_mistakes
from lwexp.plots.outputs import draw_errors, draw_labels
from lwexp.plots.pixels import BLUE, ORANGE, fitted, length


@pytest.mark.parametrize("classes", [1, 2, 10, 50, 61, 200, 281, 1003])
def test_any_number_of_classes_fits_on_a_screen(classes: int, tmp_path: Path) -> None:
    counts = np.diag(np.full(classes, 3))
    counts[0, -1] += 1
    names = [f"class {i}" for i in range(classes)]
    path = draw_confusion(counts, names, [(0, classes - 1, 1)], "a title", tmp_path / "a.png")
    pixels = pixels_of(path)
    assert max(pixels.shape[:2]) <= 2600
    blue = (pixels == BLUE).all(axis=2)
    assert blue.sum() > 4 * 200, "correct ones are visible"
    if classes > 1:
        rows, columns = np.nonzero((pixels == ORANGE).all(axis=2) | _orange(pixels))
        assert columns.max() > np.nonzero(blue)[1].mean(), "the mistake is at the right"
        assert rows.min() < np.nonzero(blue)[0].mean()


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def _orange(pixels: np.ndarray) -> np.ndarray:
    red, green, blue = (pixels[..., i].astype(int) for i in range(3))
    return (red - blue > 40) & (red > green + 20)


def test_names_are_cut_in_the_middle_and_those_that_the_font_lacks_are_escaped() -> None:
    assert fitted("short", 20, 300) == "short"
    cut = fitted("n01440764 tench, Tinca tinca, of the rivers", 20, 200)
    assert cut.startswith("n0144")
    assert cut.endswith("rivers")
    assert "…" in cut
    assert length(cut, 20) <= 200
    assert fitted("Größe é", 20, 300) == "Größe é"
    assert fitted("中", 20, 300) == "\\u4e2d"
    assert fitted("a\nb", 20, 300) == "a b"


def test_mistakes_of_any_shape_are_drawn(tmp_path: Path) -> None:
    shapes = [(1, 1), (8, 8), (300, 20), (500, 500), (20, 700), (32, 32)]
    mistakes = [Mistake(np.full((*shape, 3), 90, np.uint8), "a 99 %", "true: b", "c.jpg") for shape in shapes]
    pixels = pixels_of(draw_mistakes(mistakes, "title", tmp_path / "m.png"))
    gray = (pixels == 90).all(axis=2)
    assert gray[: len(gray) // 2].any()
    assert gray[len(gray) // 2 :].any(), "a second row"


def test_labels_and_numbers_of_any_count_are_drawn(tmp_path: Path) -> None:
    for count in (1, 3, 500):
        counts = {kind: np.arange(count) for kind in ("tp", "fn", "fp", "tn")}
        pixels = pixels_of(draw_labels(counts, [f"label {i}" for i in range(count)], "t", tmp_path / "l.png"))
        assert len(pixels) <= 44 * 200 + 300
    for values in ([1.0], [0.0, 0.0], [1e-9, 1e9], [float("nan"), 1.0], [float("inf"), float("nan")]):
        true = np.array(values, dtype=np.float32)[:, None].repeat(12, axis=1)
        pixels = pixels_of(draw_errors(true, true * 1.1, ["age"] * 12, "t", tmp_path / "e.png"))
        assert len(pixels) < 2600
