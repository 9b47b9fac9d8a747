"""Elements that plots share: figure and title, labels, scales, ticks, legends, color bars.

No label is parsed as mathtext, and all text uses a font that ships with matplotlib.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

WIDTH, DPI = 9.0, 200  # inches, and dots per inch: 900 px wide in a browser at 100 px an inch, twice that in a paper
LEGEND_LIMIT = 8  # up to this many groups a legend names each line; for more a color bar shows the depth
NAMED_LIMIT = 62  # up to so many groups each has its name in every picture
LABEL_POINTS = 9.2  # height of a label of a row
MOST_BLOCKS = 32
FONT = "DejaVu Sans"  # ships with matplotlib, so `readable` escapes the same characters on every machine
GRAY = "0.4"


class PlotFigure(Figure):
    """A figure that a notebook shows, also where pyplot has not been imported."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=DPI)
        return png.getvalue(), {"width": round(100 * WIDTH)}


def new_figure(title: str, about: str, height: float) -> tuple[Figure, Axes]:
    """A figure `height` inches high with an optional title and a line `about` its content, and its axes.

    It has no window and no global state.
    """
    figure = PlotFigure(figsize=(WIDTH, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    text = f"{readable(title, 80)}\n{about}" if title else about
    figure.suptitle(text, x=0.012, ha="left", fontsize=10.5, parse_math=False, fontfamily=FONT)
    return figure, figure.add_subplot()


def readable(name: str, at_most: int = 34) -> str:
    """`name` as a label of at most `at_most` characters, cut in the middle; characters that the font lacks are escaped.

    >>> readable("00_fc.bias"), readable("12_blocks.3.attn.qkv.weight", 15), readable("中")
    ('00_fc.bias', '12_bloc….weight', '\\\\u4e2d')
    """
    font = get_font(findfont(FONT))
    text = "".join(c if font.get_char_index(ord(c)) else c.encode("unicode_escape").decode() for c in name)
    if len(text) <= at_most:
        return text
    end = (at_most - 1) // 2
    return f"{text[: at_most - 1 - end]}…{text[-end:]}"


def rate_text(rate: float) -> str:
    """`rate` as an axis label, in plain characters instead of mathtext.

    >>> rate_text(0.01), rate_text(2e-5), rate_text(0.25)
    ('10⁻²', '2×10⁻⁵', '2.5×10⁻¹')
    """
    digits, power = f"{rate:.6e}".split("e")
    digits = digits.rstrip("0").rstrip(".")
    raised = f"10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    return raised if digits == "1" else f"{digits}\u00d7{raised}"


class _LogLabels(LogFormatterSciNotation):
    """Labels the same ticks as its base class, with `rate_text`."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return rate_text(x) if super().__call__(x, pos) else ""


def rate_span(rates: NDArray[np.float64], decades: float) -> tuple[float, float] | None:
    """The lowest and highest positive rate of `rates` [steps, groups]; None if all are 0.

    The lowest is at most `decades` below the smallest of the groups' highest rates. Both are clipped to 1e±100, beyond
    which matplotlib's ticks overflow.
    """
    peaks = rates.max(axis=0)
    if not (peaks > 0).any():
        return None
    floor = float(peaks[peaks > 0].min()) * 10.0**-decades
    low, high = np.clip([max(float(rates[rates > 0].min()), floor), float(peaks.max())], 1e-100, 1e100)
    return float(low), float(high)


def widen(low: float, high: float) -> tuple[float, float]:
    """The same limits, widened where they are (nearly) equal."""
    return (low, high) if high > 1.2 * low else (low / 2, high * 2)


def scale_rates(axes: Axes, span: tuple[float, float], log: bool) -> None:
    """Limits with a margin; a linear axis starts at 0, so that ratios between rates are visible."""
    low, high = widen(*span)
    if log:
        air = (high / low) ** 0.06
        axes.set_ylim(low / air, high * air)  # before the scale, which would otherwise choose limits and warn
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, span[1] * 1.08)
    label_rates(axes, log)


def label_rates(axes: Axes, log: bool, *, across: bool = False) -> None:
    """Label rates on the vertical axis, or the one `across`, in plain characters."""
    axis = axes.xaxis if across else axes.yaxis
    if log:
        axis.set_major_formatter(_LogLabels())
        axis.set_minor_formatter(_LogLabels())
        low, high = sorted(axis.get_view_interval())
        if across and high > 5 * low:  # labels are side by side
            axis.set_minor_formatter(NullFormatter())
            if high < 100 * low:
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter(FuncFormatter(lambda x, _: rate_text(x)))
    else:
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.6g}"))
    axes.tick_params(which="both", labelsize=8.5, labelfontfamily=FONT)


def label_steps(axes: Axes) -> None:
    """Label optimizer steps on the horizontal axis with integers."""
    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(_whole_numbers(8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.tick_params(axis="x", labelsize=8.5, labelfontfamily=FONT)


def label_depths(axes: Axes, depths: Sequence[int], names: Sequence[str]) -> None:
    """Label depths on the horizontal axis with integers, and with the groups' names if there are few."""
    axes.set_xlabel("depth (0 = stem)")
    low, high = min(depths), max(depths)
    air = max(0.6, 0.015 * (high - low))
    axes.set_xlim(low - air, high + air)
    named: dict[int, list[str]] = {}
    for name, depth in zip(names, depths, strict=True):
        named.setdefault(depth, []).append(name)
    if len(names) <= LEGEND_LIMIT and len(named) == len(depths):
        labels = [f"{depth}\n{readable(name, 14)}" for name, depth in zip(names, depths, strict=True)]
        axes.set_xticks(depths, labels=labels, fontsize=8, parse_math=False, fontfamily=FONT)
    elif len(names) <= NAMED_LIMIT:
        labels = [f"{readable(all_[0], 24)}{f' +{len(all_) - 1}' if len(all_) > 1 else ''}" for all_ in named.values()]
        axes.set_xticks([*named], labels=labels, fontsize=6.5, rotation=90, parse_math=False, fontfamily=FONT)
    else:
        axes.xaxis.set_major_locator(_whole_numbers(14))
        axes.tick_params(axis="x", labelsize=8.5, labelfontfamily=FONT)


def label_groups(axes: Axes, labels: Sequence[str], pale: Sequence[bool], room: float) -> None:
    """Label rows from the top on the vertical axis, each `room` points high; labels that would overlap are omitted."""
    shown = _select_spaced(len(labels), room, needed=LABEL_POINTS)
    axes.set_yticks(shown, labels=[labels[g] for g in shown], fontsize=7.5, parse_math=False, fontfamily=FONT)
    for label, group in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_color(GRAY if pale[group] else "black")
    axes.set_ylabel("group (head first)")


def blocks_of(names: Sequence[str]) -> list[tuple[int, int, str]]:
    """Runs of rows that have the beginning of their name in common: first row, last row, that beginning.

    As deep as `MOST_BLOCKS` allow; empty where even the first parts of the names are too many.

    >>> blocks_of([f"{i:02d}_blocks.{i // 40}.w{i}.bias" for i in range(80)])
    [(0, 39, 'blocks.0'), (40, 79, 'blocks.1')]
    """
    paths = [re.sub(r"^\d+_", "", name).split(".") for name in names]
    found: list[tuple[int, int, str]] = []
    for level in range(1, 5):
        starts = [".".join(path[: min(level, max(len(path) - 1, 1))]) for path in paths]
        edges = [i for i in range(len(starts)) if not i or starts[i] != starts[i - 1]]
        if len(edges) > MOST_BLOCKS or len(edges) > len(names) // 2:
            break
        ends = [edge - 1 for edge in edges[1:]] + [len(starts) - 1]
        found = [(first, last, starts[first]) for first, last in zip(edges, ends, strict=True)]
    return found


def label_blocks(axes: Axes, blocks: Sequence[tuple[int, int, str]], room: float) -> None:
    """Label runs of rows, with a line between two; of labels that would overlap, that of the larger run stays."""
    shown: list[tuple[float, int, str]] = []
    for first, last, text in blocks:
        label = (
            (first + last) / 2,
            last - first,
            readable(f"{text} ({first}\u2013{last})" if last > first else text, 34),
        )
        if shown and (label[0] - shown[-1][0]) * room < LABEL_POINTS:
            if label[1] <= shown[-1][1]:
                continue
            shown.pop()
        shown.append(label)
    labels = [text for _, _, text in shown]
    axes.set_yticks([middle for middle, _, _ in shown], labels=labels, fontsize=7.5, parse_math=False, fontfamily=FONT)
    for first, _, _ in blocks[1:]:
        axes.axhline(first - 0.5, color="white", linewidth=0.5, alpha=0.7)
    axes.set_ylabel("groups (head first)")


def _select_spaced(count: int, room: float, needed: float) -> list[int]:
    """Which of `count` labels to show so that each has `needed` points if a row has `room`; always both ends."""
    stride = max(1, int(np.ceil(needed / room)))
    kept = list(range(0, count, stride))
    if kept[-1] != count - 1:
        kept[-1 if len(kept) > 1 else len(kept) :] = [count - 1]
    return kept


def _whole_numbers(at_most: int) -> MaxNLocator:
    return MaxNLocator(at_most, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])


def legend(axes: Axes | Figure, handles: list[Any], labels: list[str], size: float = 8.5, **place: Any) -> None:
    """A legend, above axes on the right by default; its texts are set afterwards, so one may begin with `_`.

    That of a figure needs its `loc` and `bbox_to_anchor`.
    """
    place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": len(handles), **place}
    made = axes.legend(
        handles,
        ["-"] * len(labels),
        frameon=False,
        fontsize=size,
        borderaxespad=0.2,
        labelspacing=0.5 if size > 8 else 0.15,
        **place,
    )
    for text, label in zip(made.get_texts(), labels, strict=True):
        text.set(text=label, parse_math=False, fontfamily=FONT)


def depth_norm(depths: Sequence[int]) -> Normalize:
    """Normalizes depths for a colormap; a single depth is in the middle."""
    low, high = min(depths), max(depths)
    return Normalize(low, high) if high > low else Normalize(low - 0.5, high + 0.5)


def rate_bar(figure: Figure, axes: Axes, image: ScalarMappable, pointed: bool) -> None:
    """A color bar of rates on a log scale, its lower end `pointed` if there are rates below it."""
    point = 0.14 / float(figure.get_size_inches()[1])
    bar = _bar(figure, axes, image, extend="min" if pointed else "neither", extendfrac=point)
    label_rates(bar.ax, log=True)
    bar.set_label("learning rate", fontfamily=FONT)


def depth_bar(figure: Figure, axes: Axes, norm: Normalize, colors: Colormap) -> None:
    """A color bar of depths."""
    bar = _bar(figure, axes, ScalarMappable(norm, colors))
    bar.locator = _whole_numbers(8)
    bar.update_ticks()
    bar.ax.tick_params(labelsize=8.5, labelfontfamily=FONT)
    bar.set_label("depth (0 = stem)", fontfamily=FONT)


def _bar(figure: Figure, axes: Axes, image: ScalarMappable, **ends: Any) -> Colorbar:
    return figure.colorbar(image, ax=axes, pad=0.01, fraction=0.05, aspect=30, **ends)
