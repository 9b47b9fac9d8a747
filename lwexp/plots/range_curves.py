"""Pictures of range tests: the loss over the rate with the suggested rates, and a small one for each group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lwexp.core.finding.suggestion import NAMES, Suggestion

from .axes import DPI, FONT, GRAY, WIDTH, new_figure, rate_text, readable

_COLORS = dict(zip(NAMES, ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), strict=True))
_MARKS = dict(zip(NAMES, "osD^", strict=True))
_COLUMNS, _ROW = 4, 1.7  # small pictures in a row, inches of one


def draw_range_test(found: Suggestion, title: str, path: Path) -> Path:
    """Write the curve of one range test to the PNG file `path`."""
    figure, axes = new_figure(title, _about(found), 4.2)
    _draw(axes, found, size=7)
    axes.set_xlabel("learning rate", fontfamily=FONT)
    axes.set_ylabel("loss", fontfamily=FONT)
    axes.legend(fontsize=9, frameon=False, loc="best", prop={"family": FONT, "size": 9})
    return _save(figure, path)


def draw_range_tests(found: Mapping[str, Suggestion], title: str, path: Path) -> Path:
    """Write a small curve for each group, head first, to the PNG file `path`; all have the same axes."""
    rows = math.ceil(len(found) / _COLUMNS)
    figure, first = new_figure(title, "each group alone, the others at rest", 1.1 + _ROW * rows)
    first.remove()
    low, high = _limits([each.curve.smoothed for each in found.values()])
    for number, (name, suggestion) in enumerate(found.items()):
        axes = figure.add_subplot(rows, _COLUMNS, number + 1)
        _draw(axes, suggestion, size=4)
        axes.set_ylim(low, high)
        axes.tick_params(labelsize=7)
        axes.set_title(readable(name, 26), fontsize=8, loc="left", parse_math=False, fontfamily=FONT)
        if not suggestion.rates:
            axes.text(0.03, 0.06, "no answer", transform=axes.transAxes, fontsize=7.5, color=GRAY, fontfamily=FONT)
    handles, labels = [], []
    for each in figure.axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            if label.partition(" ")[0] not in labels:
                handles.append(handle)
                labels.append(label.partition(" ")[0])
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, prop={"family": FONT, "size": 8})
    return _save(figure, path)


def _draw(axes: Axes, found: Suggestion, size: float) -> None:
    curve = found.curve
    axes.set_xscale("log")
    axes.set_xlim(curve.test.min_lr, curve.test.max_lr)
    if curve.rates:
        axes.plot(curve.rates, curve.losses, color="0.78", linewidth=0.8, label="loss")
        axes.plot(curve.rates, curve.smoothed, color="black", linewidth=1.4, label="smoothed")
        axes.set_ylim(*_limits([curve.smoothed, curve.losses[: max(len(curve) - 5, 1)]]))
    for rule, lr in found.rates.items():
        place = min(range(len(curve)), key=lambda i: abs(math.log(curve.rates[i] / lr)))
        style: dict[str, Any] = {
            "color": _COLORS[rule],
            "marker": _MARKS[rule],
            "markersize": size,
            "linestyle": "none",
        }
        axes.plot([lr], [curve.smoothed[place]], label=f"{rule} {rate_text(float(f'{lr:.1e}'))}", zorder=5, **style)
    axes.xaxis.set_major_formatter(lambda x, _: rate_text(x))
    axes.xaxis.set_minor_formatter(lambda x, _: "")
    axes.grid(color="0.93")


def _limits(curves: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The range of the losses, not of those far above where they diverge."""
    values = [value for curve in curves for value in curve] or [0.0, 1.0]
    low, start = min(values), max(curve[0] for curve in curves if curve) if any(curves) else 1.0
    high = min(max(values), start + (start - low))
    air = 0.06 * max(high - low, 1e-3 * abs(high), 1e-12)
    return low - air, high + air


def _about(found: Suggestion) -> str:
    curve = found.curve
    end = "the loss diverges there" if curve.diverged else "the loss does not diverge"
    last = f" to {rate_text(float(f'{curve.rates[-1]:.1e}'))}; {end}" if curve.rates else ""
    text = f"{len(curve)} optimizer steps from {rate_text(curve.test.min_lr)}{last}"
    return f"{text}\nno answer: {found.reason}" if found.reason else text


def _save(figure: Figure, path: Path) -> Path:
    figure.set_size_inches(WIDTH, figure.get_size_inches()[1])
    figure.savefig(path, dpi=DPI)
    return path
