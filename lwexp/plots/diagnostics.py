"""Heatmaps of diagnosed steps, layer × step: each measure beside the rates of the same steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .axes import (
    DPI,
    FONT,
    GRAY,
    LABEL_POINTS,
    PlotFigure,
    blocks_of,
    label_blocks,
    label_groups,
    label_rates,
    label_steps,
    legend,
    rate_span,
    readable,
    widen,
)
from .diagnosis import TITLES, Diagnosis
from .rate_table import Floats, RateTable, subsample

WIDTH = 11.0  # inches
_ZERO, _UNDEFINED = "0.87", "white"


def draw_diagnosis(table: RateTable, diagnosis: Diagnosis, measure: str) -> Figure:
    """Rates at the left, `measure` at the right, head at the top, both on log color scales.

    Gray is 0: a group that did not move or had no gradient. White is a ratio to weights of 0, or an infinite gradient.
    Each scale ends two decades below the smallest of the groups' highest values.
    """
    groups = len(table.names)
    height = min(max(0.125 * groups + 1.9, 3.6), 9.5)
    figure = PlotFigure(figsize=(WIDTH, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    steps = diagnosis.steps
    shown = f"{len(steps):,} diagnosed steps from {steps[0]:,} to {steps[-1]:,}" if len(steps) > 1 else "1 step"
    text = f"{readable(table.title, 90)}\n{shown}; {TITLES[measure]}"
    figure.suptitle(text, x=0.012, ha="left", fontsize=10.5, parse_math=False, fontfamily=FONT)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1, 1])
    seen = _draw(figure, left, steps, diagnosis.rates, "learning rate")
    seen |= _draw(figure, right, steps, diagnosis.measures[measure], TITLES[measure])
    if seen:
        handles = [Patch(facecolor=color, edgecolor=GRAY, linewidth=0.5) for color in seen]
        place = {"loc": "upper right", "bbox_to_anchor": (0.99, 0.995), "bbox_transform": figure.transFigure}
        legend(right, handles, [*seen.values()], size=8.5, **place)
        right.get_legend().set_in_layout(False)
    room = (height - 1.7) * 72 / groups
    blocks = blocks_of(table.names) if room < LABEL_POINTS else []
    if blocks:
        label_blocks(left, blocks, room)
        for first, _, _ in blocks[1:]:
            right.axhline(first - 0.5, color="white", linewidth=0.5, alpha=0.7)
    else:
        labels = [readable(n, 34) + "  (frozen)" * f for n, f in zip(table.names, table.frozen, strict=True)]
        label_groups(left, labels, table.frozen, room=room)
    right.tick_params(axis="y", labelleft=False)
    return figure


def write_diagnosis(table: RateTable, diagnosis: Diagnosis, folder: Path) -> list[Path]:
    """Write `diagnostics_<measure>.png` of each measure and `rates.html`, which shows them too; returns the paths."""
    from .html import render_html

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for measure in diagnosis.measures:
        written.append(folder / f"diagnostics_{measure}.png")
        draw_diagnosis(table, diagnosis, measure).savefig(written[-1], dpi=DPI)
    written.append(folder / "rates.html")
    written[-1].write_text(render_html(table, diagnosis), encoding="utf-8")
    return written


def _draw(figure: Figure, axes: Axes, steps: np.ndarray, values: Floats, title: str) -> dict[str, str]:
    """Draw the cells of one panel with its color bar; each column shows the nearest step.

    Returns the colors beside those of the scale, and what they mean.
    """
    columns = np.linspace(steps[0], steps[-1], len(subsample(steps, 1500)))
    middles = (steps[1:] + steps[:-1]) / 2
    cells = values[np.searchsorted(middles, columns)].T
    finite = np.isfinite(cells)
    positive = np.ma.masked_where(~finite | (cells <= 0), cells)
    span = rate_span(np.where(np.isfinite(values), values, 0.0), decades=2)
    half = (columns[1] - columns[0]) / 2 if len(columns) > 1 else 0.5
    groups = values.shape[1]
    extent = (columns[0] - half, columns[-1] + half, groups - 0.5, -0.5)
    axes.set_facecolor(_ZERO)
    axes.imshow(
        np.ma.masked_where(finite, np.zeros(cells.shape)), cmap="gray_r", vmin=0, vmax=1, aspect="auto",
        interpolation="nearest", extent=extent,
    )  # fmt: skip
    colors = colormaps["viridis"].with_extremes(bad=(0, 0, 0, 0))
    image = axes.imshow(
        positive, cmap=colors, norm=LogNorm(*widen(*span)) if span else None,
        aspect="auto", interpolation="nearest", extent=extent,
    )  # fmt: skip
    if span:
        pointed = "min" if positive.min() < span[0] else "neither"
        bar = figure.colorbar(
            image, ax=axes, orientation="horizontal", location="top", pad=0.01, aspect=30, extend=pointed
        )
        label_rates(bar.ax, log=True, across=True)
        bar.set_label(title, fontfamily=FONT, fontsize=9, parse_math=False)
    label_steps(axes)
    found = ((_ZERO, "0", (finite & (cells <= 0)).any()), (_UNDEFINED, "not defined", (~finite).any()))
    return {color: meaning for color, meaning, there in found if there}
