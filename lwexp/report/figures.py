"""Figures of a report: settings with intervals, a metric by a swept value, learning curves.

As in `lwexp/plots/rates.py`: `Figure` objects without pyplot, and no label is parsed as mathtext.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lwexp.config.keys import is_layerwise
from lwexp.plots.axes import FONT, LEGEND_LIMIT, label_steps, legend, new_figure, readable

from .analysis import Analysis
from .arms import number, same
from .scale import COLORS, SMALL, UNIFORM_COLOR, VERDICT_COLORS, Scale, Window, draw_mean, log_spaced, pale_grid, spaced
from .settings import Setting
from .statistics import Floats

MOST_ROWS = 40
_BEST, _OTHER = "#8E2A8B", "#0072B2"
_PALE = "0.8"


def draw_settings(found: Analysis) -> Figure:
    """A row per setting: each seed, mean and interval, the band of the best uniform one; and differences to uniform."""
    scale = Scale(found)
    shown = _shown(found, scale)
    count = sum(scale.summary(setting).n > 0 for setting in found.settings)
    about = f"{scale.name}, each seed, mean and {found.interval_name}"
    about += f"; the {len(shown)} best of {count} settings" if len(shown) < count else ""
    figure, axes = new_figure(found.sweep.name, about, max(0.27 * len(shown) + 1.7, 2.8))
    right = None
    if any((part := found.difference(setting)) is not None and part.n for setting in shown):
        axes.remove()
        axes, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.15, 1])
    places = range(len(shown))
    handles, labels = _uniform_band(axes, found, scale, vertical=True)
    window = Window(
        (value for setting in shown for value in scale.seeds(setting)),
        (scale.ends(scale.summary(setting)) for setting in shown),
    )
    for place, setting in zip(places, shown, strict=True):
        color, summary = _color(found, setting), scale.summary(setting)
        axes.plot(scale.seeds(setting), [place] * len(setting.runs), "o", color=color, alpha=0.3, markersize=3.5)
        window.interval(axes, place, scale.ends(summary), color=color, linewidth=1.8)
        draw_mean(axes, scale.factor * summary.mean, place, color)
    axes.set_xlim(*window.limits)
    axes.set_yticks(places, labels=[readable(_marked(found, s), 38) for s in shown], **SMALL)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel(f"{scale.name}{scale.unit}{window.note}", fontfamily=FONT, fontsize=9)
    pale_grid(axes, "x")
    if handles:
        legend(axes, handles, labels)
    if right is not None:
        _draw_differences(right, found, scale, shown)
    return figure


def _draw_differences(axes: Axes, found: Analysis, scale: Scale, shown: Sequence[Setting]) -> None:
    compared = [(place, setting, part) for place, setting in enumerate(shown) if (part := found.difference(setting))]
    compared = [(place, setting, part) for place, setting, part in compared if part.n]
    each = {place: scale.differences(setting, found.twin(setting)) for place, setting, _ in compared}
    ends = [pair for *_, part in compared for pair in (scale.ends(part), scale.ends_of_all(part))]
    window = Window((0.0, *(value for values in each.values() for value in values)), ends)
    for place, _, part in compared:
        color = VERDICT_COLORS[found.outcome(part)]
        axes.plot(each[place], [place] * len(each[place]), "o", color=color, alpha=0.3, markersize=3.5)
        if part.together > 1:
            window.interval(axes, place, scale.ends_of_all(part), color=color, linewidth=0.9)
        window.interval(axes, place, scale.ends(part), color=color, linewidth=3.0)
        draw_mean(axes, scale.factor * part.mean, place, color)
    axes.axvline(0, color=UNIFORM_COLOR, linewidth=1)
    axes.set_xlim(*window.limits)
    unit = ", points" if found.metric.percent else ""
    axes.set_xlabel(f"difference to uniform{unit}{window.note}", fontfamily=FONT, fontsize=9)
    axes.tick_params(axis="y", length=0)
    pale_grid(axes, "x")
    seen = {found.outcome(part) for *_, part in compared}
    words = {1: "better", 0: "no claim", -1: "worse"}
    handles = [
        Line2D([], [], color=VERDICT_COLORS[key], marker="o", markersize=5, linewidth=3) for key in words if key in seen
    ]
    legend(axes, handles, [word for key, word in words.items() if key in seen])


def draw_by_value(found: Analysis) -> Figure | None:
    """Mean and interval against the numeric key with the most values, a line for each combination of the others.

    None without a key of three or more numbers, or with more than eight lines.
    """
    scale, settings = Scale(found), [s for s in found.layerwise if s.runs]
    numeric = [k for k in found.sweep.swept if all(number(dict(s.key).get(k, "")) is not None for s in settings)]
    key = max(numeric, key=lambda k: len({same(dict(s.key)[k]) for s in settings}), default=None)
    if key is None or not settings or len({same(dict(s.key)[key]) for s in settings}) < 3:
        return None
    lines: dict[str, list[Setting]] = {}
    if not is_layerwise(key):
        for setting in found.uniform:
            lines.setdefault(_without(setting, key), []).append(setting)
    for setting in settings:
        lines.setdefault(_without(setting, key), []).append(setting)
    if len(lines) > LEGEND_LIMIT:
        return None
    about = f"{scale.name} by {key}, mean and {found.interval_name}"
    figure, axes = new_figure(found.sweep.name, about, 4.4)
    handles, labels = _uniform_band(axes, found, scale, vertical=False) if is_layerwise(key) else ([], [])
    places = np.array(sorted({float(dict(s.key)[key]) for line in lines.values() for s in line}))
    log = log_spaced(places)
    drawn = [setting for line in lines.values() for setting in line]
    window = Window(
        (value for setting in (*drawn, *found.uniform) for value in scale.seeds(setting)),
        (scale.ends(scale.summary(setting)) for setting in drawn),
    )
    colors = iter(COLORS)
    for row, (name, line) in enumerate(lines.items()):
        color, dash = UNIFORM_COLOR if name == "uniform" else next(colors), "--" if line[0].uniform else "-"
        # settings with one value are drawn side by side
        at = np.array([float(dict(s.key)[key]) for s in line])
        shift = (row - (len(lines) - 1) / 2) * 0.012
        at = at * (places[-1] / places[0]) ** shift if log else at + shift * (places[-1] - places[0])
        sums = [scale.summary(setting) for setting in line]
        order = np.argsort(at)
        mean = scale.factor * np.array([one.mean for one in sums])
        style: dict[str, Any] = {"color": color, "marker": "o", "markersize": 5, "linewidth": 1.3, "linestyle": dash}
        axes.plot(at[order], mean[order], **style)
        for place, one in zip(at, sums, strict=True):
            window.interval(axes, place, scale.ends(one), vertical=True, color=color, linewidth=1.3)
        handles.append(Line2D([], [], **style))
        labels.append(readable(name or "layer-wise", 30))
    if log:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(spaced(places, log)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.6g}"))
    axes.set_xlabel(readable(key, 60), parse_math=False, fontfamily=FONT, fontsize=9)
    axes.set_ylim(*window.limits)
    axes.set_ylabel(f"{scale.name}{scale.unit}{window.note}", fontfamily=FONT, fontsize=9)
    axes.tick_params(labelsize=8.5, labelfontfamily=FONT)
    pale_grid(axes, "both")
    legend(axes, handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), ncols=1)
    return figure


def draw_curves(found: Analysis) -> Figure | None:
    """Validation metric by optimizer step: mean over seeds, and mean ± one standard deviation as a band.

    With more than eight settings only the best few are named, the others are pale lines.
    """
    scale = Scale(found)
    curves = {setting: _curve(setting, scale.factor) for setting in found.settings}
    drawn = [setting for setting in found.settings if len(curves[setting][0])]
    if not drawn:
        return None
    about = f"validation {found.metric.name}: mean over seeds, band: one standard deviation up and down"
    about += "; right: the last half"
    figure, first = new_figure(found.sweep.name, about, 4.4)
    first.remove()
    whole, late = figure.subplots(1, 2)
    sign = 1 if found.metric.lower_is_better else -1
    ranked = sorted(
        (s for s in drawn if not s.uniform), key=lambda s: (s not in found.marked, sign * s.validation.mean)
    )
    named = drawn
    if len(drawn) > LEGEND_LIMIT:
        named = [s for s in (found.best_uniform, *ranked[:4]) if s in drawn]
    half = max(curves[setting][0][-1] for setting in drawn) / 2
    styles = {setting: _curve_style(found, setting, named) for setting in drawn}
    for axes, start in ((whole, 0.0), (late, half)):
        for setting in drawn:
            steps, mean, sd = (part[curves[setting][0] >= start] for part in curves[setting])
            dots = {"marker": "o", "markersize": 4} if len(steps) < 3 else {}
            axes.plot(steps, mean, **styles[setting], **dots, zorder=3 if setting in named else 1)
            if setting in named:
                color = styles[setting]["color"]
                low, high = (np.clip(ends, *scale.limits) for ends in (mean - sd, mean + sd))
                axes.fill_between(steps, low, high, color=color, alpha=0.12, linewidth=0, zorder=2)
        label_steps(axes)
        axes.tick_params(axis="y", labelsize=8.5, labelfontfamily=FONT)
        pale_grid(axes, "both")
    whole.set_ylabel(f"validation {found.metric.name}{scale.unit}", fontfamily=FONT, fontsize=9)
    handles = [Line2D([], [], **styles[setting]) for setting in named]
    labels = [readable(_marked(found, setting), 26) for setting in named]
    if len(named) < len(drawn):
        handles.append(Line2D([], [], color=_PALE, linewidth=1))
        labels.append(f"{len(drawn) - len(named)} others")
    legend(late, handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), ncols=1)
    return figure


def _curve_style(found: Analysis, setting: Setting, named: Sequence[Setting]) -> dict[str, Any]:
    dash = "--" if setting.uniform else "-"
    if setting not in named:
        return {"color": _PALE, "linewidth": 0.8, "linestyle": dash}
    colored = [other for other in named if other is not found.best_uniform]
    color = "black" if setting is found.best_uniform else COLORS[colored.index(setting)]
    return {"color": color, "linewidth": 1.5, "linestyle": dash}


def _without(setting: Setting, key: str) -> str:
    """The setting's label without `key`."""
    words = ["uniform"] if setting.uniform else []
    return " ".join([*words, *(f"{k}={v}" for k, v in setting.shown if k != key)])


def _curve(setting: Setting, factor: float) -> tuple[Floats, Floats, Floats]:
    """Steps at which all runs were evaluated, mean over the runs, standard deviation (0 for one run)."""
    curves = [run.curve for run in setting.runs.values() if len(run.curve.steps)]
    if not curves:
        return np.array([]), np.array([]), np.array([])
    steps = np.array(sorted(set.intersection(*(set(curve.steps) for curve in curves))))
    values = factor * np.array([curve.values[np.isin(curve.steps, steps)] for curve in curves])
    return steps, values.mean(axis=0), values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(steps))


def _shown(found: Analysis, scale: Scale) -> list[Setting]:
    """Settings with a value, no more than fit: the best by validation, in the order of their values."""
    able = [setting for setting in found.settings if scale.summary(setting).n]
    sign = 1 if found.metric.lower_is_better else -1
    ranked = sorted(able, key=lambda s: (s not in found.marked, sign * s.validation.mean))
    kept = ranked[:MOST_ROWS]
    return [setting for setting in able if setting in kept]


def _uniform_band(axes: Axes, found: Analysis, scale: Scale, vertical: bool) -> tuple[list[Any], list[str]]:
    """The interval and mean of the best uniform setting across the axes; returns what a legend needs."""
    if found.best_uniform is None or not scale.summary(found.best_uniform).n:
        return [], []
    summary = scale.summary(found.best_uniform)
    span, line = (axes.axvspan, axes.axvline) if vertical else (axes.axhspan, axes.axhline)
    if np.isfinite(summary.low):
        span(scale.factor * summary.low, scale.factor * summary.high, color="0.9", zorder=0)
    line(scale.factor * summary.mean, color=UNIFORM_COLOR, linewidth=1, linestyle="--", zorder=1)
    name = found.best_uniform.label if len(found.uniform) == 1 else f"best {found.best_uniform.label}"
    return [(Patch(facecolor="0.9"), Line2D([], [], color=UNIFORM_COLOR, linewidth=1, linestyle="--"))], [
        readable(name, 40)
    ]


def _color(found: Analysis, setting: Setting) -> str:
    return UNIFORM_COLOR if setting.uniform else _BEST if setting in found.marked else _OTHER


def _marked(found: Analysis, setting: Setting) -> str:
    return f"{setting.label} *" if setting in found.marked else setting.label
