"""Several plans in one picture: the highest rate of each group by depth, and every plan's rates by step beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection

from .axes import DPI, FONT, GRAY, WIDTH, PlotFigure, depth_norm, label_steps, rate_span, readable, scale_rates
from .rate_table import RateTable, thin
from .rates import stepped

MOST = 23  # panels beside the first
_COLUMNS = 3
_MARKERS = "os^Dv<>Ph*Xd"
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # by Okabe and Ito


def write_comparison(plans: Mapping[str, RateTable], path: Path) -> Path:
    """Draw `plans`, by what distinguishes each, to the PNG file `path`; the first `MOST` of more."""
    shown = dict(list(plans.items())[:MOST])
    columns = min(_COLUMNS, len(shown) + 1)
    rows = math.ceil((len(shown) + 1) / columns)
    figure = PlotFigure(figsize=(WIDTH, 2.6 * rows + 0.6), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    more = f", {len(shown)} of them shown" if len(plans) > len(shown) else ""
    title = f"{readable(next(iter(shown.values())).title.partition(':')[0], 60)}: {len(plans)} plans{more}"
    figure.suptitle(title, x=0.012, ha="left", fontsize=10.5, parse_math=False, fontfamily=FONT)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    span = _span(shown)
    _draw_by_depth(panels[0], shown)
    for axes, (name, table) in zip(panels[1:], shown.items(), strict=False):
        _draw_by_step(axes, table)
        axes.set_title(readable(name, 46), fontsize=8, loc="left", parse_math=False, fontfamily=FONT)
    for axes in panels[1 : len(shown) + 1]:
        if span is not None:
            scale_rates(axes, span, log=span[1] > 10 * span[0])
        axes.tick_params(labelsize=7)
    if span is not None:
        scale_rates(panels[0], span, log=span[1] > 10 * span[0])
        panels[0].tick_params(labelsize=7)
    for axes in panels[len(shown) + 1 :]:
        axes.remove()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path


def _span(plans: Mapping[str, RateTable]) -> tuple[float, float] | None:
    spans = [span for table in plans.values() if (span := rate_span(table.rates, decades=2)) is not None]
    return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None


def _draw_by_depth(axes: Axes, plans: Mapping[str, RateTable]) -> None:
    for i, (name, table) in enumerate(plans.items()):
        highest = table.rates.max(axis=0)
        moving = highest > 0
        style: dict[str, Any] = {"color": _COLORS[i % len(_COLORS)], "marker": _MARKERS[i % len(_MARKERS)]}
        order = np.argsort(np.asarray(table.depths)[moving], kind="stable")
        axes.plot(np.asarray(table.depths)[moving][order], highest[moving][order], **style, markersize=3, linewidth=1,
                  label=f" {readable(name, 40)}")  # fmt: skip
    axes.set_title("highest rate by depth (0 = stem)", fontsize=8, loc="left", fontfamily=FONT)
    axes.grid(True, color="0.92", linewidth=0.6)
    made = axes.legend(frameon=False, fontsize=6.5, labelspacing=0.2)
    for text in made.get_texts():
        text.set(parse_math=False, fontfamily=FONT)


def _draw_by_step(axes: Axes, table: RateTable) -> None:
    table = thin(table, 400)
    positive = np.where(table.rates > 0, table.rates, np.nan)
    jumps, norm = table.jump_rows(), depth_norm(table.depths)
    lines = [stepped(table, positive, g, [row for group, row in jumps if group == g]) for g in range(len(table.names))]
    colors = [colormaps["viridis"](0.92 * float(norm(depth))) for depth in table.depths]
    axes.add_collection(LineCollection(lines, colors=colors, linewidths=1.0), autolim=False)
    if len(table.steps) == 1:
        axes.scatter(np.zeros(len(colors)), positive[0], s=10, color=colors)
    half = 0.5 if len(table.steps) == 1 else 0.01 * (table.steps[-1] - table.steps[0])
    axes.set_xlim(table.steps[0] - half, table.steps[-1] + half)
    label_steps(axes)
    axes.xaxis.label.set(fontsize=7, color=GRAY)
    axes.grid(True, color="0.92", linewidth=0.6)
