"""The picture of several studies: what the best primary arm gains in each, and which base rates are good."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lwexp.plots.axes import FONT, label_rates, legend, new_figure, readable
from lwexp.report.scale import COLORS, SMALL, VERDICT_COLORS, Window, draw_mean, pale_grid
from lwexp.report.statistics import Comparison
from lwexp.report.tables import VERDICTS

from .analysis import StudyAnalysis
from .arms import Arm

_REFERENCE = "0.55"


def draw_overview(studies: Sequence[StudyAnalysis]) -> Figure | None:
    """A row per study: the gain of its best primary arm for each seed, mean and interval; the good rates of both.

    Gains are in points if all metrics are shares, else in percent of the reference's value.
    """
    rows: list[tuple[StudyAnalysis, Arm, Arm, Comparison]] = []
    for found in studies:
        best, reference = found.best, found.reference
        if best is not None and reference is not None and best.difference is not None and best.difference.n:
            rows.append((found, best, reference, best.difference))
    if len(rows) < 2:
        return None
    points = in_points([found for found, *_ in rows])
    about = "gain of the best primary arm over the reference on fresh seeds: each seed, mean and "
    about += f"{studies[0].interval_name}\nright: base rates within 5 % of each one's best"
    figure, first = new_figure("", about, 0.44 * len(rows) + 1.35)
    first.remove()
    axes, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.25, 1])
    scales = [found.gain_scale(points) for found, *_ in rows]
    gains, ends = [], []
    for (found, best, _, part), scale in zip(rows, scales, strict=True):
        mean, low, high = found.gain(part)
        gains.append((scale * mean, scale * found.sign * found.differences(best.chosen)))
        ends.append((scale * low, scale * high))
    window = Window([0.0, *(value for _, values in gains for value in values)], ends)
    for place, ((found, _, _, part), (mean, values)) in enumerate(zip(rows, gains, strict=True)):
        color = VERDICT_COLORS[found.outcome(part)]
        axes.plot(values, [place] * len(values), "o", color=color, alpha=0.3, markersize=3.5)
        window.interval(axes, place, ends[place], color=color, linewidth=2.4)
        draw_mean(axes, mean, place, color)
    axes.axvline(0, color="0.25", linewidth=1)
    axes.set_xlim(*window.limits)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    labels = [f"{readable(found.study.name, 34)}\n{readable(best.label, 34)}" for found, best, *_ in rows]
    axes.set_yticks(range(len(rows)), labels=labels, **SMALL)
    axes.set_xlabel(f"gain, {unit_of(points)}{window.note}", fontfamily=FONT, fontsize=9)
    pale_grid(axes, "x")
    seen = [key for key in (1, 0, -1) if key in {found.outcome(part) for found, *_, part in rows}]
    handles = [Line2D([], [], color=VERDICT_COLORS[key], marker="o", markersize=5, linewidth=2.4) for key in seen]
    legend(axes, handles, [VERDICTS[key] for key in seen])
    _draw_ranges(right, [(reference, best) for _, best, reference, _ in rows])
    return figure


def in_points(studies: Sequence[StudyAnalysis]) -> bool:
    """Whether gains are in points: where all metrics are shares; else in percent of the reference's value."""
    return all(found.metric.percent for found in studies)


def unit_of(points: bool) -> str:
    """Of gains."""
    return "points" if points else "% of the reference"


def _draw_ranges(axes: Axes, rows: Sequence[tuple[Arm, Arm]]) -> None:
    """For each study the good rates of the reference above those of the arm; an arrow where the grid cuts them."""
    tried = [lr for pair in rows for arm in pair for lr in arm.chosen.curve]
    if not tried:
        axes.remove()
        return
    low, high = min(tried), max(tried)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.6, high * 1.6 * (high / low) ** 0.25)
    for place, pair in enumerate(rows):
        for arm, aside, color in zip(pair, (-0.14, 0.14), (_REFERENCE, COLORS[0]), strict=True):
            found = arm.chosen.own
            if found is None:
                continue
            at = place + aside
            axes.plot([found.low, found.high], [at, at], color=color, linewidth=4.5, solid_capstyle="butt")
            if found.factor < 1.02:
                axes.plot(found.low, at, "o", color=color, markersize=4.5)
            for end, cut, mark in zip((found.low, found.high), found.cut, "<>", strict=True):
                if cut:
                    axes.plot(end, at, mark, color=color, markersize=6)
            axes.text(
                found.high * 1.25, at, found.text, ha="left", va="center", color=color, fontsize=7, fontfamily=FONT
            )
    label_rates(axes, log=True, across=True)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("base learning rate", fontfamily=FONT, fontsize=9)
    pale_grid(axes, "x")
    handles = [Line2D([], [], color=color, linewidth=4.5) for color in (_REFERENCE, COLORS[0])]
    legend(axes, handles, ["reference", "best arm"])
