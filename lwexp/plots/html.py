"""The interactive page of rates: one self-contained HTML file, without network access, safe for any names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .diagnosis import TITLES, Diagnosis
from .rate_table import Floats, RateTable, subsample, thin

_TEMPLATE = Path(__file__).with_name("rates.html")
_PLACE = "@@RATES@@"
_ROWS = 1000  # steps in the page at most
_NUMBERS = 12_000  # values in all curves at most, which keeps the page at about 100 kB
_COMPARED = 16


def render_html(table: RateTable, diagnosis: Diagnosis | None = None) -> str:
    """The page as text. A large table is thinned evenly over steps; rates keep 6 significant digits.

    The measures of a `diagnosis` are views beside that of the rates, to 4 digits; what is not defined is null.

    The data is JSON in a script element that is not executed, with `<`, `>` and `&` escaped so that nothing can end the
    element; the page inserts names as text only.
    """
    views = [] if diagnosis is None else _views(diagnosis)
    data = json.dumps(
        {**page_data(table), "views": views}, separators=(",", ":"), allow_nan=False
    )  # ASCII: U+2028 is escaped as well
    for character in "<>&":
        data = data.replace(character, f"\\u{ord(character):04x}")
    before, after = _TEMPLATE.read_text(encoding="utf-8").split(_PLACE)
    return before + data + after


def page_data(table: RateTable) -> dict[str, Any]:
    """The data of the page: rate of group g at row t = `scale[g] * shapes[shape[g]][t]`, but 0 in `zeros[g]`.

    `zeros[g]` holds row ranges [start, stop, start, stop, …]. `highest[g]` is over all rows, before thinning.
    """
    kept = thin(table, _ROWS)
    curves = _factor(kept.rates)
    if len(curves.shapes) * len(kept.steps) > _NUMBERS:
        kept = thin(table, max(60, _NUMBERS // len(curves.shapes)))
        curves = _factor(kept.rates)
    return {
        "title": table.title,
        "names": list(table.names),
        "depths": [int(depth) for depth in table.depths],
        "frozen": [int(frozen) for frozen in table.frozen],
        "about": table.about,
        "count": len(table.names) if table.count is None else table.count,
        "jumps": [[group, row] for group, row in kept.jump_rows()],
        "rows": len(table.steps),
        "steps": kept.steps.tolist(),
        "highest": _round(table.rates.max(axis=0), 6),
        "shapes": [_round(shape, 8) for shape in curves.shapes],
        "shape": curves.shape,
        "scale": _round(curves.scale, 8),
        "zeros": [_ranges(column == 0) if column.any() else [] for column in kept.rates.T],
    }


def _views(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    rows = subsample(np.arange(len(diagnosis.steps)), max(60, _NUMBERS // diagnosis.rates.shape[1]))
    return [
        {
            "title": TITLES[name],
            "steps": diagnosis.steps[rows].tolist(),
            "curves": [[_defined(value) for value in column] for column in values[rows].T.tolist()],
        }
        for name, values in diagnosis.measures.items()
    ]


def _defined(value: float) -> float | None:
    return float(f"{value:.3e}") if np.isfinite(value) else None


@dataclass(frozen=True)
class _Curves:
    shapes: list[Floats]
    shape: list[int]
    scale: list[float]


def _factor(rates: Floats) -> _Curves:
    """`rates` [rows, groups] as few shapes [rows] times a scale per group.

    Under a policy all groups have one shape (rate = lr * scale * factor(t)), masked by gradual unfreezing, so the page
    needs one curve instead of one per group; groups with events have further shapes.
    """
    shapes: list[Floats] = []
    index, scale = [], []
    for column in rates.T:
        moving = column > 0
        # The policy's own shape is among the first; comparing with all others would be slow.
        candidates = [k for k in range(len(shapes)) if k < _COMPARED // 2 or k >= len(shapes) - _COMPARED // 2]
        for k in candidates:
            both = moving & (shapes[k] > 0)
            ratios = column[both] / shapes[k][both]
            if not moving.any() or (len(ratios) and ratios.max() <= ratios.min() * (1 + 1e-9)):
                factor = float(np.median(ratios)) if moving.any() else 0.0
                new = moving & (shapes[k] == 0)
                shapes[k][new] = column[new] / factor
                break
        else:
            k, factor = len(shapes), float(column.max())
            shapes.append(column / factor if factor else column.copy())
        index.append(k)
        scale.append(factor)
    return _Curves(shapes, index, scale)


def _ranges(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> list[int]:
    """Where `mask` is true, as [start, stop, start, stop, …]."""
    return [int(i) for i in np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))]


def _round(values: Iterable[float], digits: int) -> list[float]:
    """`values` to `digits` significant digits, integers without `.0`."""
    short = [float(f"{value:.{digits - 1}e}") for value in values]
    return [int(value) if value.is_integer() and value < 1e6 else value for value in short]
