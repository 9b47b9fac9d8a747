"""Pictures of a study's search: the metric on validation by base rate and multiplier, and by base rate for each arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lwexp.plots.axes import FONT, GRAY, label_rates, legend, new_figure, readable
from lwexp.report.scale import COLORS, SMALL, Window, pale_grid

from .analysis import StudyAnalysis
from .arms import Arm, Setting
from .figures import multiplier_curves
from .rates import SHARE, threshold

MOST_PANELS, MOST_CURVES, MOST_LINES = 8, 60, 4
_FRAME = "#D55E00"
_NARROWEST = 0.33  # inches of a cell with a number in it


def draw_rates(found: StudyAnalysis) -> Figure | None:
    """Validation in the search by base rate and multiplier, as cells, a panel per arm; the reference is the row of 1.

    A cell is as wide as its distance to the next rates, so a finer grid has narrower cells. Crossed: failed.
    """
    curves = {
        name: {mult: setting for mult, setting in curve.items() if setting.curve}
        for name, curve in multiplier_curves(found.compared).items()
    }
    curves = dict([(name, curve) for name, curve in curves.items() if curve][:MOST_PANELS])
    if not curves:
        return None
    uniform = found.reference.chosen if found.reference is not None and found.reference.chosen.curve else None
    panels: dict[str, list[tuple[str, Setting]]] = {}
    for (arm, rest), curve in curves.items():
        row_of = {mult: (f"{mult:g}", setting) for mult, setting in curve.items() if mult != 1 or uniform is None}
        if uniform is not None and found.reference is not None:
            row_of[1.0] = (f"{readable(found.reference.name, 14)}, 1", uniform)
        panels[f"{arm} {rest}".strip()] = [row_of[mult] for mult in sorted(row_of, reverse=True)]
    rates = sorted({lr for rows in panels.values() for _, setting in rows for lr in setting.curve})
    values = [value for rows in panels.values() for _, s in rows for value in s.curve.values() if not math.isnan(value)]
    if not values or len(rates) < 2:
        return None
    lower = found.metric.lower_is_better
    close = "within 5 % of" if lower else f"at least {100 * SHARE:g} % of"
    about = f"{_named(found)} by base rate and multiplier\n"
    about += f"bold: {close} the best of all arms; framed: the best here"
    edges = [end for rows in panels.values() for _, setting in rows for end in _edges(list(setting.curve))]
    span = min(edges), max(edges)
    columns = 1 if len(panels) == 1 else 2
    lines = -(-len(panels) // columns)
    most = max(map(len, panels.values()))
    figure, first = new_figure(found.study.name, about, min(lines * (0.33 * most + 0.95) + 0.7, 16))
    first.remove()
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
    colors, norm, ends = _colors(found, values)
    best = min(values) if lower else max(values)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    width = (5.2 if columns == 1 else 2.9) / math.log(span[1] / span[0])  # inches for a factor e
    for axes, (name, rows) in zip(grid.flat, panels.items(), strict=False):
        for place, (_, setting) in enumerate(rows):
            _draw_row(axes, place, setting, found, (colors, norm), best, width)
        axes.set_yticks(range(len(rows)), labels=[label for label, _ in rows], **SMALL)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xscale("log")
        axes.set_xlim(*span)
        label_rates(axes, log=True, across=True)
        axes.tick_params(which="both", length=2)
        axes.tick_params(axis="y", labelsize=8)
        axes.set_title(readable(name, 44), **SMALL)
        axes.set_ylabel("mult", fontfamily=FONT, fontsize=9)
        axes.set_facecolor("0.94")
    for axes in grid.flat[max(len(panels) - columns, 0) : len(panels)]:
        axes.set_xlabel("base learning rate", fontfamily=FONT, fontsize=9)
        axes.tick_params(labelbottom=True)
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=list(figure.axes), pad=0.01, fraction=0.05, aspect=30,
                          extend=ends)  # fmt: skip
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{found.metric.factor * value:.4g}"))
    bar.ax.tick_params(labelsize=8.5, labelfontfamily=FONT)
    return figure


def draw_curves(found: StudyAnalysis) -> Figure | None:
    """Validation in the search by base rate, a panel per arm without multipliers, with the curve of the reference."""
    drawn = {name for name, _ in multiplier_curves(found.compared)}
    arms = [arm for arm in found.compared if arm.name not in drawn]
    arms = [arm for arm in arms if any(len(setting.curve) > 1 for setting in arm.settings)]
    arms = [arm for arm in arms if not math.isnan(arm.chosen.best)][:MOST_CURVES]
    if not arms:
        return None
    metric, factor = found.metric, found.metric.factor
    reference = found.reference.chosen if found.reference is not None and found.reference.chosen.curve else None
    least = factor * threshold(found.best_value, metric.lower_is_better)
    about = f"{_named(found)} by base rate; dashed: "
    about += (
        "5 % above the best of all arms" if metric.lower_is_better else f"{100 * SHARE:g} % of the best of all arms"
    )
    columns = min(5, len(arms))
    lines = -(-len(arms) // columns)
    figure, first = new_figure(found.study.name, about, lines * 1.32 + 1.1)
    first.remove()
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    shown = [s for arm in arms for s in arm.settings] + ([reference] if reference else [])
    limits = _limits(shown, factor, metric.lower_is_better)
    for axes in grid.flat[len(arms) :]:
        axes.remove()
    for number, (axes, arm) in enumerate(zip(grid.flat, arms, strict=False)):
        axes.axhline(least, color=GRAY, linewidth=0.8, linestyle="--", zorder=1)
        if reference is not None:
            _draw_line(axes, reference, factor, "0.6", 1.2, "")
        for k, setting in enumerate(_best_few(arm, metric.lower_is_better)):
            _draw_line(axes, setting, factor, COLORS[k], 1.6, "o")
        axes.set_xscale("log")
        axes.set_ylim(*limits)
        axes.yaxis.set_major_locator(MaxNLocator(4))  # so that the layout, which changes the height, changes no label
        label_rates(axes, log=True, across=True)
        axes.tick_params(axis="both", which="both", labelsize=7, labelfontfamily=FONT, length=2)
        axes.set_title(readable(arm.name, 24), **SMALL | {"fontsize": 7.5}, pad=3)
        pale_grid(axes, "both")
        axes.tick_params(axis="x", labelsize=7, labelbottom=number + columns >= len(arms))
    names = [found.reference.name if found.reference else "", "arm"]
    handles = [Line2D([], [], color="0.6", linewidth=1.2), Line2D([], [], color=COLORS[0], marker="o", markersize=3.5)]
    if any(len(_best_few(arm, metric.lower_is_better)) > 1 for arm in arms):
        names.append("other settings of it")
        handles.append(Line2D([], [], color=COLORS[1], marker="o", markersize=3.5))
    skipped = 0 if reference is not None else 1
    legend(figure, handles[skipped:], [readable(name, 20) for name in names[skipped:]], size=8,
           loc="outside lower right", bbox_to_anchor=None)  # fmt: skip
    figure.supxlabel("base learning rate", fontfamily=FONT, fontsize=9)
    return figure


def _draw_row(
    axes: Axes, place: int, setting: Setting, found: StudyAnalysis, colors: tuple[Colormap, Normalize], best: float,
    width: float,
) -> None:  # fmt: skip
    """The cells of one multiplier."""
    rates = list(setting.curve)
    edges = _edges(rates)
    least = threshold(found.best_value, found.metric.lower_is_better)
    sign = -1 if found.metric.lower_is_better else 1
    colormap, norm = colors
    for k, (lr, value) in enumerate(setting.curve.items()):
        low, high = edges[k], edges[k + 1]
        shape: dict[str, Any] = {"xy": (low, place - 0.46), "width": high - low, "height": 0.92}
        room = width * math.log(high / low)
        if math.isnan(value):
            axes.add_patch(Rectangle(**shape, facecolor="0.85", linewidth=0))
            axes.text(lr, place, "\u00d7", ha="center", va="center", color="0.35", fontsize=8)
            continue
        color = colormap(norm(value))
        axes.add_patch(Rectangle(**shape, facecolor=color, edgecolor="white", linewidth=0.4))
        if value == best:
            axes.add_patch(Rectangle(**shape, fill=False, edgecolor=_FRAME, linewidth=2.2, zorder=5, clip_on=False))
        if room >= _NARROWEST or value == setting.best:
            ink = "black" if 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2] > 0.5 else "white"
            text = f"{found.metric.factor * value:.1f}" if found.metric.percent else f"{value:.3g}"
            good = sign * value >= sign * least
            axes.text(math.sqrt(low * high), place, text, ha="center", va="center", color=ink, fontsize=7,
                      fontweight="bold" if good else "normal", fontfamily=FONT)  # fmt: skip


def _colors(found: StudyAnalysis, values: Sequence[float]) -> tuple[Colormap, Normalize, str]:
    """A scale on which the values near the best differ in color: poor ones, below a fifth of all, have one color."""
    known = np.array(values)
    low, high = float(known.min()), float(known.max())
    if found.metric.lower_is_better:
        cut = float(np.quantile(known, 0.8))
        return (
            colormaps["viridis_r"],
            Normalize(low, cut if cut > low else high),
            "max" if low < cut < high else "neither",
        )
    cut = float(np.quantile(known, 0.2))
    return colormaps["viridis"], Normalize(cut if cut < high else low, high), "min" if low < cut < high else "neither"


def _edges(rates: Sequence[float]) -> list[float]:
    """Where the cells of ascending `rates` end: halfway on the log scale, and as far outwards."""
    at = np.log(rates)
    if len(at) == 1:
        return [float(value) for value in np.exp([at[0] - 0.5, at[0] + 0.5])]
    middle = (at[1:] + at[:-1]) / 2
    ends = [2 * at[0] - middle[0], *middle, 2 * at[-1] - middle[-1]]
    return [float(value) for value in np.exp(ends)]


def _named(found: StudyAnalysis) -> str:
    return f"validation {found.metric.name}{' (%)' if found.metric.percent else ''} in the search"


def _limits(settings: Sequence[Setting], factor: float, lower: bool) -> tuple[float, float]:
    """Of an axis: around the best of each setting, and all values that are not in the worst fifth."""
    known = [factor * value for each in settings for value in each.curve.values() if not math.isnan(value)]
    peaks = [factor * each.best for each in settings if not math.isnan(each.best)]
    best, worst = (min(peaks), max(peaks)) if lower else (max(peaks), min(peaks))
    below = worst + 0.4 * (worst - best)
    return Window([best, below, float(np.quantile(known, 0.8 if lower else 0.2))], []).limits


def _draw_line(axes: Axes, setting: Setting, factor: float, color: str, width: float, marker: str) -> None:
    """The curve of a setting, broken at rates that failed."""
    values = [factor * value for value in setting.curve.values()]
    axes.plot(list(setting.curve), values, color=color, linewidth=width, marker=marker, markersize=3, zorder=3)


def _best_few(arm: Arm, lower: bool) -> list[Setting]:
    """The chosen setting first, then the best others, no more than can be told apart."""
    known = [setting for setting in arm.settings if not math.isnan(setting.best)]
    known.sort(key=lambda setting: (setting is not arm.chosen, setting.best if lower else -setting.best))
    return known[:MOST_LINES]
