"""Pictures across studies: the gain of every arm in each, and the gain by multiplier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lwexp.plots.axes import FONT, new_figure, readable
from lwexp.report.scale import COLORS, SMALL, UNIFORM_COLOR, Window, pale_grid, spaced
from lwexp.report.statistics import summarize

from .analysis import StudyAnalysis
from .arms import Setting
from .figures import MARKERS, multiplier_curves
from .overview import in_points, unit_of
from .tables import arms_across

MOST_PANELS, MOST_STUDIES = 4, 40
_ROW_OF_TEXT = 138  # font sizes that fit side by side
_Point = tuple[float, float, float]  # mean, low, high


def draw_arms_across(studies: Sequence[StudyAnalysis]) -> Figure | None:
    """A row per arm that several studies have, a column per study: its gain over the reference, bold where claimed."""
    studies = studies[:MOST_STUDIES]
    names = arms_across(studies)
    if not names:
        return None
    points = in_points(studies)
    gains = np.full((len(names), len(studies)), math.nan)
    claimed = np.zeros(gains.shape, dtype=bool)
    for column, found in enumerate(studies):
        for arm in found.compared:
            if arm.name in names and arm.difference is not None and arm.difference.n:
                row = names.index(arm.name)
                gains[row, column] = found.gain_scale(points) * found.gain(arm.difference)[0]
                claimed[row, column] = found.outcome(arm.difference) != 0
    if not np.isfinite(gains).any():
        return None
    about = f"gain over the reference on fresh seeds, {unit_of(points)}; bold: claimed by the test of the study"
    figure, axes = new_figure("", about, 0.24 * len(names) + 2.1)
    most = float(np.nanquantile(np.abs(gains), 0.9)) or float(np.nanmax(np.abs(gains))) or 1.0
    colors, norm = colormaps["PuOr_r"].reversed(), Normalize(-most, most)
    axes.imshow(np.ma.masked_invalid(gains), cmap=colors.with_extremes(bad="0.93"), norm=norm, aspect="auto")
    size = min(7.5, _ROW_OF_TEXT / len(studies))
    for row, column in np.argwhere(np.isfinite(gains)):
        value = gains[row, column]
        red, green, blue, _ = colors(norm(value))
        ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.45 else "white"
        weight = "bold" if claimed[row, column] else "normal"
        axes.text(column, row, f"{value:+.1f}", ha="center", va="center", color=ink, fontsize=size, fontweight=weight,
                  fontfamily=FONT)  # fmt: skip
    labels = [readable(found.study.name, 24) for found in studies]
    axes.set_xticks(range(len(studies)), labels=labels, **SMALL, rotation=60, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(names)), labels=[readable(name, 34) for name in names], **SMALL)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(len(studies) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    large = float(np.nanmax(np.abs(gains))) > most
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, pad=0.01, fraction=0.04, aspect=30,
                          extend="both" if large else "neither")  # fmt: skip
    bar.ax.tick_params(labelsize=8.5, labelfontfamily=FONT)
    return figure


def draw_multiplier_across(studies: Sequence[StudyAnalysis]) -> Figure | None:
    """Gain over the reference by multiplier, a line per study, a panel per arm that several studies have.

    On fresh seeds, with intervals of the paired difference, where a study has final runs of all multipliers; else,
    dashed, on validation in the search.
    """
    studies = studies[:MOST_STUDIES]
    points = in_points(studies)
    panels: dict[str, list[tuple[int, dict[float, _Point], bool]]] = {}
    for number, found in enumerate(studies):
        for (arm, rest), curve in multiplier_curves(found.compared).items():
            tested = all(len(found.differences(setting)) for setting in curve.values())
            gains = {mult: _gain(found, setting, tested, points) for mult, setting in curve.items() if mult != 1}
            gains = {mult: gain for mult, gain in gains.items() if math.isfinite(gain[0])}
            if gains:
                panels.setdefault(f"{arm} {rest}".strip(), []).append((number, gains, tested))
    panels = dict([(name, lines) for name, lines in panels.items() if len(lines) > 1][:MOST_PANELS])
    if not panels:
        return None
    drawn = sorted({number for lines in panels.values() for number, *_ in lines})
    dashed = not all(tested for lines in panels.values() for *_, tested in lines)
    about = f"gain over the reference by multiplier, each at its own best base rate, {unit_of(points)}\n"
    about += f"{studies[0].interval_name} of the paired difference on fresh seeds"
    about += "; dashed: on validation in the search" if dashed else ""
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure, first = new_figure("", about, 3.3 * rows + 0.9 + 0.22 * -(-len(drawn) // 4))
    first.remove()
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    means = [gain[0] for lines in panels.values() for _, gains, _ in lines for gain in gains.values()]
    ends = [gain[1:] for lines in panels.values() for _, gains, _ in lines for gain in gains.values()]
    window = Window([0.0, *means], ends)
    styles = {number: _style(k) for k, number in enumerate(drawn)}
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, (name, lines) in zip(grid.flat, panels.items(), strict=False):
        _draw_panel(axes, window, lines, styles)
        axes.set_title(readable(name, 44), **SMALL)
        axes.set_xlabel("mult (1: the reference)", fontfamily=FONT, fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"gain, {unit_of(points)}{window.note}", fontfamily=FONT, fontsize=9)
    handles = [Line2D([], [], linewidth=1.5, **styles[number]) for number in drawn]
    made = figure.legend(handles, ["-"] * len(drawn), loc="outside lower center", ncols=min(len(drawn), 4),
                         frameon=False, fontsize=8.5)  # fmt: skip
    for text, number in zip(made.get_texts(), drawn, strict=True):
        text.set(text=readable(studies[number].study.name, 28), parse_math=False, fontfamily=FONT)
    return figure


def _draw_panel(
    axes: Axes,
    window: Window,
    lines: Sequence[tuple[int, dict[float, _Point], bool]],
    styles: dict[int, dict[str, Any]],
) -> None:
    places = np.array(sorted({1.0, *(mult for _, gains, _ in lines for mult in gains)}))
    step = float(np.diff(places).min())
    for k, (number, gains, tested) in enumerate(lines):
        aside = (k - (len(lines) - 1) / 2) * min(0.12 * step, 0.5 * step / len(lines))
        placed = {mult + aside: gain for mult, gain in gains.items()}
        style, order = styles[number], sorted(placed)
        axes.plot(order, [placed[at][0] for at in order], color=style["color"], linewidth=1.5, zorder=3,
                  linestyle="-" if tested else "--")  # fmt: skip
        for place, gain in placed.items():
            window.interval(axes, place, gain[1:], vertical=True, color=style["color"], linewidth=1.2, zorder=2)
            axes.plot(place, gain[0], zorder=4, linestyle="none", **style)
    axes.axhline(0, color=UNIFORM_COLOR, linewidth=1, zorder=1)
    axes.plot(1, 0, "D", color="black", markersize=6, markeredgecolor="white", zorder=5)
    axes.xaxis.set_major_locator(FixedLocator(spaced(places, log=False)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}"))
    axes.set_ylim(*window.limits)
    axes.tick_params(labelsize=8.5, labelfontfamily=FONT)
    pale_grid(axes, "both")


def _gain(found: StudyAnalysis, setting: Setting, tested: bool, points: bool) -> _Point:
    """Mean and interval of a setting's gain; without an interval on validation in the search."""
    scale = found.gain_scale(points) * found.sign
    if not tested:
        reference = found.reference.chosen.best if found.reference is not None else math.nan
        return scale * (setting.best - reference), math.nan, math.nan
    known = summarize(scale * found.differences(setting), found.confidence)
    return known.mean, known.low, known.high


def _style(k: int) -> dict[str, Any]:
    return {
        "color": COLORS[k % len(COLORS)], "marker": MARKERS[(k + k // len(COLORS)) % len(MARKERS)], "markersize": 5,
        "markeredgecolor": "white", "markeredgewidth": 0.6,
    }  # fmt: skip
