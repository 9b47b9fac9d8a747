"""Pictures of a study's arms: differences to the reference, and the curve of the multiplier.

As in `lwexp/report/figures.py`: `Figure` objects without pyplot, and no label is parsed as mathtext.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lwexp.plots.axes import FONT, GRAY, legend, new_figure, readable
from lwexp.report.scale import COLORS, SMALL, UNIFORM_COLOR, VERDICT_COLORS, Window, draw_mean, pale_grid, spaced
from lwexp.report.statistics import NOTHING, Summary
from lwexp.report.tables import VERDICTS

from .analysis import StudyAnalysis
from .arms import Arm, Setting, multiplier

MOST_ARMS = 64
MARKERS = "osD^vP*X"


def draw_arms(found: StudyAnalysis) -> Figure | None:
    """A row per arm: the difference to the reference for each seed, its mean and interval; on the right the mean value.

    Primary arms are on top. None without a reference or final runs.
    """
    reference = found.reference
    compared = [arm for arm in found.compared if arm.difference is not None and arm.difference.n]
    if reference is None or not compared:
        return None
    shown = compared[:MOST_ARMS]
    rows = _rows(found, shown)
    factor, unit = found.metric.factor, ", points" if found.metric.percent else ""
    about = f"difference in {found.split} {found.metric.name} to {readable(reference.name, 30)}: each seed, mean and "
    about += f"{found.interval_name}\nright: mean {found.split} {found.metric.name}{found.metric.in_unit}"
    about += f"; the best {len(shown)} of {len(compared)} arms" if len(shown) < len(compared) else ""
    figure, axes = new_figure(found.study.name, about, 0.235 * len(rows) + 1.35)
    each = {arm: factor * found.differences(arm.chosen) for arm in shown}
    ends = {arm: (factor * part.low, factor * part.high) for arm in shown if (part := arm.difference) is not None}
    window = Window([0.0, *(value for values in each.values() for value in values)], ends.values())
    for place, row in enumerate(rows):
        if isinstance(row, str) or row is reference or row.difference is None:
            continue
        color = VERDICT_COLORS[found.outcome(row.difference)]
        axes.plot(each[row], [place] * len(each[row]), "o", color=color, alpha=0.3, markersize=3.5)
        window.interval(axes, place, ends[row], color=color, linewidth=2.4)
        draw_mean(axes, factor * row.difference.mean, place, color)
    axes.plot(0, rows.index(reference), "D", color=UNIFORM_COLOR, markersize=5.5, zorder=4)
    axes.axvline(0, color=UNIFORM_COLOR, linewidth=1)
    axes.set_xlim(*window.limits)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    labels = [row if isinstance(row, str) else readable(row.label, 40) for row in rows]
    axes.set_yticks(range(len(rows)), labels=labels, **SMALL)
    values = axes.secondary_yaxis("right")
    means = ["" if isinstance(row, str) else found.metric.value(found.summary(row).mean) for row in rows]
    values.set_yticks(range(len(rows)), labels=means, **SMALL)
    for row, label in zip(rows, axes.get_yticklabels(), strict=True):
        if isinstance(row, str):
            label.set(color=GRAY, style="italic")
    for side in (axes, values):
        side.tick_params(axis="y", length=0)
    axes.set_xlabel(f"difference to {readable(reference.name, 30)}{unit}{window.note}", fontfamily=FONT, fontsize=9)
    pale_grid(axes, "x")
    outcomes = {found.outcome(arm.difference) for arm in shown}
    seen = [key for key in (1, 0, -1) if key in outcomes]
    handles = [Line2D([], [], color=VERDICT_COLORS[key], marker="o", markersize=5, linewidth=2.4) for key in seen]
    legend(axes, handles, [VERDICTS[key] for key in seen])
    return figure


def draw_multiplier(found: StudyAnalysis) -> Figure | None:
    """The metric by multiplier, each at its own best rate, a line per arm; the reference, if uniform, is at 1.

    On test with intervals where the final runs have every multiplier, else on validation in the search.
    """
    curves = multiplier_curves(found.arms)
    if not curves:
        return None
    tested = all(setting.finals for curve in curves.values() for setting in curve.values())
    factor, metric = found.metric.factor, found.metric
    uniform = found.reference.chosen if found.reference is not None else None

    def summary(setting: Setting) -> Summary:
        if tested:
            return setting.test if found.on_test else setting.validation
        return NOTHING if math.isnan(setting.best) else Summary(1, setting.best, *[math.nan] * 3)

    split = found.split if tested else "validation"
    about = f"{split} {metric.name} by multiplier, each at the base rate that was best for it on validation"
    about += (
        f"\n{f'mean and {found.interval_name}' if tested else 'of the search: not all multipliers have final runs'}"
    )
    figure, axes = new_figure(found.study.name, about, 4.2)
    places = np.array(sorted({mult for curve in curves.values() for mult in curve} | ({1.0} if uniform else set())))
    step = float(np.diff(places).min()) if len(places) > 1 else 0.1
    points = [summary(setting) for curve in curves.values() for setting in curve.values()]
    points += [summary(uniform)] if uniform else []
    window = Window([factor * point.mean for point in points], [(factor * p.low, factor * p.high) for p in points])
    handles: list[Any] = []
    labels: list[str] = []
    for number, (name, curve) in enumerate(curves.items()):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        aside = (number - (len(curves) - 1) / 2) * min(0.14 * step, 0.5 * step / len(curves))
        line = {mult + aside: summary(setting) for mult, setting in curve.items() if mult != 1 or uniform is None}
        means = {place: factor * point.mean for place, point in line.items()}
        axes.plot(sorted(means), [means[at] for at in sorted(means)], color=color, linewidth=1.4, zorder=2)
        style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 5.5, "markeredgecolor": "white"}
        for place, point in line.items():
            window.interval(axes, place, (factor * point.low, factor * point.high), vertical=True, color=color,
                            linewidth=1.4, zorder=3)  # fmt: skip
            axes.plot(place, means[place], linestyle="none", zorder=4, **style)
        handles.append(Line2D([], [], linewidth=1.4, **style))
        labels.append(readable(" ".join(name).strip(), 28))
    if uniform is not None and found.reference is not None:
        _draw_uniform(axes, window, summary(uniform), factor)
        mark = Line2D([], [], color="black", marker="D", markersize=6, linestyle="--", linewidth=1)
        handles.append((Patch(facecolor="0.92"), mark))
        labels.append(readable(f"{found.reference.name} (1)", 28))
    axes.xaxis.set_major_locator(FixedLocator(spaced(places, log=False)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}"))
    axes.set_xlim(places[0] - 0.6 * step, places[-1] + 0.6 * step)
    axes.set_ylim(*window.limits)
    axes.set_xlabel("mult", fontfamily=FONT, fontsize=9)
    axes.set_ylabel(f"{split} {metric.name}{metric.in_unit}{window.note}", fontfamily=FONT, fontsize=9)
    axes.tick_params(labelsize=8.5, labelfontfamily=FONT)
    pale_grid(axes, "both")
    legend(axes, handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), ncols=1)
    return figure


def _draw_uniform(axes: Axes, window: Window, point: Summary, factor: float) -> None:
    """The reference at 1, and across the axes."""
    ends = factor * point.low, factor * point.high
    if np.isfinite(ends[0]):
        axes.axhspan(*ends, color="0.92", zorder=0)
    window.interval(axes, 1.0, ends, vertical=True, color="black", linewidth=1.6, zorder=5)
    axes.axhline(factor * point.mean, color=UNIFORM_COLOR, linewidth=1, linestyle="--", zorder=1)
    axes.plot(1.0, factor * point.mean, "D", color="black", markersize=7, markeredgecolor="white", zorder=6)


def multiplier_curves(arms: Sequence[Arm]) -> dict[tuple[str, str], dict[float, Setting]]:
    """By arm, and its other settings where it has several, the settings by multiplier; at least two."""
    curves: dict[tuple[str, str], dict[float, Setting]] = {}
    for arm in arms:
        for setting in arm.settings:
            found = multiplier(setting)
            if found is not None:
                curves.setdefault((arm.name, found[0]), {})[found[1]] = setting
    return {name: dict(sorted(curve.items())) for name, curve in curves.items() if len(curve) > 1}


def _rows(found: StudyAnalysis, shown: Sequence[Arm]) -> list[Arm | str]:
    """The reference, then primary and exploratory arms, each part under its name if there are both."""
    primary, others = ([arm for arm in shown if arm.primary is kind] for kind in (True, False))
    rows: list[Arm | str] = [found.reference] if found.reference is not None else []
    for name, arms in (("primary", primary), ("exploratory", others)):
        rows += [*([name] if primary and arms else []), *arms]
    return rows
