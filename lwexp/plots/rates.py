"""Plots of a table of rates [steps, groups]: a heatmap, rate by depth, rate by step, and the interactive page.

Plots use `Figure` objects, never pyplot, and no label is parsed as mathtext, whose parser is a shared object: without
global state a plot can be drawn in any thread, and a name such as `a$b_c$` is shown literally.
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from .axes import (
    DPI,
    FONT,
    GRAY,
    LABEL_POINTS,
    LEGEND_LIMIT,
    NAMED_LIMIT,
    blocks_of,
    depth_bar,
    depth_norm,
    label_blocks,
    label_depths,
    label_groups,
    label_steps,
    legend,
    new_figure,
    rate_bar,
    rate_span,
    readable,
    scale_rates,
    widen,
)
from .diagnosis import TITLES, Diagnosis
from .rate_table import Floats, RateTable, subsample, thin

_ZERO = "0.87"
_SERIES = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", ":"),
)  # by Okabe and Ito, safe for color blindness
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)), (0, (5, 4, 1, 4)))


def draw_heatmap(table: RateTable) -> Figure:
    """Layer × step, head at the top, rate on a log color scale; rate 0 in gray.

    The scale ends two decades below the smallest of the groups' highest rates: a policy that decays to almost 0 would
    leave no colors for the differences between layers. The color bar's pointed end marks this.
    """
    groups = len(table.names)
    height = min(max(0.125 * groups + 1.7, 3.4), 9.5)
    figure, axes = _figure(table, height)
    # An image has equal columns, but rows of the table may be unevenly spaced: each column shows the nearest row.
    columns = np.linspace(table.steps[0], table.steps[-1], len(subsample(table.steps, 1500)))
    middles = (table.steps[1:] + table.steps[:-1]) / 2
    values = np.ma.masked_equal(table.rates[np.searchsorted(middles, columns)].T, 0)
    half = (columns[1] - columns[0]) / 2 if len(columns) > 1 else 0.5
    span = rate_span(table.rates, decades=2)
    image = axes.imshow(
        values,
        cmap=colormaps["viridis"].with_extremes(bad=_ZERO),
        norm=LogNorm(*widen(*span)) if span else None,
        aspect="auto",
        interpolation="nearest",
        extent=(columns[0] - half, columns[-1] + half, groups - 0.5, -0.5),
    )
    if span:
        rate_bar(figure, axes, image, pointed=bool(values.min() < span[0]))
    if values.mask.any():
        legend(axes, [Patch(facecolor=_ZERO, edgecolor=GRAY, linewidth=0.5)], ["rate 0"])
    label_steps(axes)
    labels = [_label(table, g, 34) for g in range(groups)]
    room = (height - 1.5) * 72 / groups
    blocks = blocks_of(table.names) if room < LABEL_POINTS else []
    if blocks:
        label_blocks(axes, blocks, room)
    else:
        label_groups(axes, labels, table.frozen, room=room)
    return figure


def draw_rates_by_depth(table: RateTable) -> Figure:
    """Rate of each group against its depth, log scale: at the first step, its highest, at the last; frozen crossed.

    Lines connect the geometric mean of the groups at each depth; rates of 0 are in a separate strip.
    """
    first, last, highest = table.rates[0], table.rates[-1], table.rates.max(axis=0)
    still = len(table.steps) > 1 and bool((table.rates == first).all())
    series: list[tuple[str, Floats]] = [("every step" if still else f"step {table.steps[0]:,} (first)", first)]
    for text, values in (("highest over all steps", highest), (f"step {table.steps[-1]:,} (last)", last)):
        same = next((i for i, (_, other) in enumerate(series) if np.allclose(values, other, rtol=1e-9, atol=0)), None)
        if same is None:
            series.append((text, values))
        elif len(table.steps) > 1 and not still:
            series[same] = (f"{series[same][0]} = {text}", values)
    figure, axes = _figure(table, 4.6)
    depths, frozen = np.asarray(table.depths), np.asarray(table.frozen, dtype=bool)
    every = np.concatenate([values for _, values in series])
    span = rate_span(every[None], decades=np.inf)
    bottom = axes
    if (every == 0).any() and span:
        axes.remove()
        grid = figure.add_gridspec(2, 1, height_ratios=[14, 1 + len(series) / 2])
        axes = figure.add_subplot(grid[0])
        bottom = figure.add_subplot(grid[1], sharex=axes)
        axes.tick_params(labelbottom=False)
        figure.get_layout_engine().set(h_pad=0.02, hspace=0)  # type: ignore[union-attr,call-arg]
    handles: list[Any] = []
    size = float(np.clip(250 / len(depths), 2.2, 5.5))
    cross: dict[str, Any] = {"color": "black", "marker": "x", "markersize": size + 3, "linestyle": "none"}
    for row, ((_, values), (color, marker, dash)) in enumerate(zip(series, _SERIES, strict=False)):
        style: dict[str, Any] = {"color": color, "marker": marker, "markersize": size, "linestyle": "none"}
        moving = values > 0
        axes.plot(depths[moving], values[moving], **style)
        axes.plot(*_mean_by_depth(depths[moving], values[moving]), color=color, linestyle=dash, linewidth=1.3)
        bottom.plot(depths[~moving], np.full((~moving).sum(), -row), **style, fillstyle="none")
        if frozen.any():
            up, down = frozen & moving, frozen & ~moving
            axes.plot(depths[up], values[up], **cross)
            bottom.plot(depths[down], np.full(down.sum(), -row), **cross)
        handles.append(Line2D([], [], **{**style, "linestyle": dash}, linewidth=1.3))
    labels = [text for text, _ in series]
    if frozen.any():
        handles.append(Line2D([], [], **cross))
        labels.append("frozen")
    legend(axes, handles, labels)
    if span:
        scale_rates(axes, span, log=True)
        axes.set_ylabel("learning rate")
        axes.grid(True, color="0.92", linewidth=0.6)
    if bottom is not axes or not span:
        bottom.set_ylim(-len(series) + 0.3, 0.7)
        bottom.set_yticks([-(len(series) - 1) / 2], labels=["0"])
        bottom.set_facecolor("0.96")
        bottom.tick_params(labelsize=8.5, labelfontfamily=FONT)
    label_depths(bottom, table.depths, table.names)
    return figure


def draw_rates_by_step(table: RateTable) -> Figure:
    """One line per group, colored by depth, broken where the rate is 0; log scale where rates span more than ten.

    The log scale ends three decades below the smallest of the groups' highest rates.
    """
    figure, axes = _figure(table, max(4.8, 0.128 * len(table.names) + 0.9) if _is_named(table) else 4.8)
    table = thin(table, max(300, min(2000, 400_000 // len(table.names))))
    if _all_equal(table):  # otherwise the last line would hide the others
        together = f"all {len(table.names):,} groups"
        table = replace(table, names=[together], depths=[0], frozen=[all(table.frozen)], rates=table.rates[:, :1])
    named, few = _is_named(table), len(table.names) <= LEGEND_LIMIT
    positive = np.where(table.rates > 0, table.rates, np.nan)
    colors = ListedColormap(colormaps["viridis"](np.linspace(0, 0.92, 256)))  # its last yellow is too pale for a line
    norm = depth_norm(table.depths)
    rgba = [colors(norm(depth)) for depth in table.depths]
    # Groups at one depth share its color, so the legend distinguishes them by dashes.
    dashes: list[Any] = [
        _DASHES[list(table.depths[:g]).count(d) % len(_DASHES)] if named else "-" for g, d in enumerate(table.depths)
    ]
    width = 1.8 if few else float(np.clip(60 / len(table.names), 0.5, 1.2))
    jumps = table.jump_rows()
    lines = [stepped(table, positive, g, [row for group, row in jumps if group == g]) for g in range(len(table.names))]
    moved = {group for group, _ in jumps}
    for chosen, order in (([g for g in range(len(lines)) if g not in moved], 2), (sorted(moved), 2.5)):
        drawn = {"colors": [rgba[g] for g in chosen], "linestyles": [dashes[g] for g in chosen], "linewidths": width}
        if chosen:  # lines that events move are on top
            axes.add_collection(LineCollection([lines[g] for g in chosen], **drawn, zorder=order), autolim=False)
    dots = [(table.steps[row], table.rates[row, g], rgba[g]) for g, row in jumps if table.rates[row, g] > 0]
    if dots:
        at_steps, rates, shades = zip(*dots, strict=True)
        axes.scatter(at_steps, rates, s=26, color=shades, zorder=4)
    alone_rows, alone_groups = np.nonzero(_isolated(positive))  # a line of a single point is invisible
    if len(alone_rows):
        points = table.rates[alone_rows, alone_groups]
        axes.scatter(table.steps[alone_rows], points, s=22, color=[rgba[g] for g in alone_groups], zorder=3)
    span = rate_span(table.rates, decades=3)
    if span:
        scale_rates(axes, span, log=bool(np.nanmax(positive) > 10 * np.nanmin(positive)))
    else:
        axes.set_yticks([0])
        axes.text(0.5, 0.55, "every rate is 0", transform=axes.transAxes, ha="center", color=GRAY)
    if named:
        seen: list[Any] = [d if line.any() else "none" for d, line in zip(dashes, table.rates.T, strict=True)]
        handles = [Line2D([], [], color=c, linestyle=d, linewidth=1.8) for c, d in zip(rgba, seen, strict=True)]
        labels = [_label(table, g, 24) for g in range(len(table.names))]
        size = 8.5 if few else 7
        legend(axes, handles, labels, size=size, loc="upper left", bbox_to_anchor=(1.01, 1.0), ncols=1)
    else:
        depth_bar(figure, axes, norm, colors)
    axes.grid(True, color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_ylabel("learning rate")
    label_steps(axes)
    half = 0.5 if len(table.steps) == 1 else 0.01 * (table.steps[-1] - table.steps[0])
    axes.set_xlim(table.steps[0] - half, table.steps[-1] + half)
    return figure


def write_plots(table: RateTable, folder: Path, diagnosis: Diagnosis | None = None) -> list[Path]:
    """Write `rates_heatmap.png`, `rates_by_depth.png`, `rates_by_step.png` and `rates.html` to `folder`; creates it.

    With a `diagnosis`, what `write_diagnosis` writes in their place.
    """
    from .diagnostics import write_diagnosis
    from .html import render_html

    if diagnosis is not None:
        return write_diagnosis(table, diagnosis, folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in (
        ("rates_heatmap", draw_heatmap),
        ("rates_by_depth", draw_rates_by_depth),
        ("rates_by_step", draw_rates_by_step),
    ):
        written.append(folder / f"{name}.png")
        draw(table).savefig(written[-1], dpi=DPI)
    written.append(folder / "rates.html")
    written[-1].write_text(render_html(table), encoding="utf-8")
    return written


def _figure(table: RateTable, height: float) -> tuple[Figure, Axes]:
    count = len(table.names) if table.count is None else table.count
    many = "groups" if count > 1 else "group"
    parts = f" in {len(table.names):,} rows" if count != len(table.names) else ""
    steps = f"steps {table.steps[0]:,} to {table.steps[-1]:,}" if len(table.steps) > 1 else f"step {table.steps[0]:,}"
    about = f"{count:,} {many}{parts}, {steps}{', all groups at the same rate' if _all_equal(table) else ''}"
    about += f"; {readable(table.about, 90)}" if table.about else ""
    return new_figure(table.title, about, height)


def _is_named(table: RateTable) -> bool:
    """Whether each line has its name beside the axes."""
    return len(table.names) <= NAMED_LIMIT


def stepped(table: RateTable, positive: Floats, group: int, rows: list[int]) -> Floats:
    """The points of a line [points, 2]; at `rows`, where an event sets the rate, it goes straight up or down."""
    points = np.column_stack([table.steps, positive[:, group]])
    corners = np.array([(table.steps[row], positive[row - 1, group]) for row in rows]).reshape(-1, 2)
    return np.insert(points, rows, corners, axis=0) if rows else points


def _all_equal(table: RateTable) -> bool:
    return len(table.names) > 1 and bool((table.rates == table.rates[:, :1]).all())


def _label(table: RateTable, group: int, at_most: int) -> str:
    """The label of a group, with a note if it is frozen or its rate is always 0."""
    note = "  (frozen)" if table.frozen[group] else "" if table.rates[:, group].any() else "  (rate 0)"
    return readable(table.names[group], at_most) + note


def _mean_by_depth(depths: NDArray[np.int64], rates: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Each depth once, with the geometric mean of the (positive) rates there."""
    levels, index = np.unique(depths, return_inverse=True)
    return levels, np.exp(np.bincount(index, weights=np.log(rates)) / np.bincount(index))


def _isolated(values: Floats) -> NDArray[np.bool_]:
    """Where a column of `values` has a finite value between non-finite ones."""
    there = np.pad(np.isfinite(values), ((1, 1), (0, 0)))
    result: NDArray[np.bool_] = there[1:-1] & ~there[:-2] & ~there[2:]
    return result


def main() -> None:
    """Draw the table from standard input, as `lwexp.plots.process` sends it, to the folder in `argv`."""
    with np.load(io.BytesIO(sys.stdin.buffer.read())) as sent:
        table = RateTable(**json.loads(str(sent["texts"])), rates=sent["rates"], steps=sent["steps"])
        diagnosis = None
        if "diagnosed" in sent:
            measures = {name: sent[f"measure {name}"] for name in TITLES if f"measure {name}" in sent}
            diagnosis = Diagnosis(sent["diagnosed"], sent["used"], measures)
    print(json.dumps([str(path) for path in write_plots(table, Path(sys.argv[1]), diagnosis)]))


if __name__ == "__main__":
    main()
