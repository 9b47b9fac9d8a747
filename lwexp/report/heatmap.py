"""A metric by two swept keys: as cells, or as points if the values are not on a grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullFormatter

from lwexp.plots.axes import FONT, new_figure, readable

from .analysis import Analysis
from .arms import number, same
from .runs import SweepRun
from .scale import SMALL, Scale, log_spaced, pale_grid
from .settings import ordered

MOST_FACETS = 6
_FRAME = "#D55E00"
_MARKED_CELLS = 160

_CellKey = tuple[str, str, str]  # values of the keys across and down, and the facet
_Cells = dict[_CellKey, float]
_Values = dict[tuple[str, str], float]  # of one facet
_Colors = tuple[Normalize, Colormap]


def draw_heatmap(found: Analysis) -> Figure | None:
    """Mean over seeds for two swept keys, as cells, or as points if the values are not on a grid; the best is framed.

    Of more keys the two with the most values are the axes, and each combination of the others is a facet;
    see `not_drawn`.
    """
    axes_keys, facets = _facets(found)
    if not axes_keys or not 0 < len(facets) <= MOST_FACETS:
        return None
    scale = Scale(found)
    runs = [run for run in found.sweep.runs if run.whole and np.isfinite(scale.value(run))]
    if not runs:
        return None
    across, down = axes_keys
    cells: dict[_CellKey, list[float]] = {}
    for run in runs:
        at = (_at(run, across), _at(run, down), _rest(run, axes_keys))
        cells.setdefault(at, []).append(scale.value(run))
    means = {at: float(np.mean(values)) for at, values in cells.items()}
    scattered = _scattered(means)
    columns = min(len(facets), 2 if not scattered or len(facets) == 4 else 3)
    lines = -(-len(facets) // columns)
    rows = 8 if scattered else len({at[1] for at in means})
    about = f"{scale.name}{scale.unit}: mean over seeds by {readable(across, 30)} and {readable(down, 30)}"
    best = _best_cell(found, axes_keys)
    about += "; framed: best on validation" if best in means else ""
    figure, first = new_figure(found.sweep.name, about, min(max(lines * (0.36 * rows + 1.2) + 0.6, 3.2), 12))
    first.remove()
    grid = figure.subplots(lines, columns, squeeze=False)
    norm = Normalize(min(means.values()), max(means.values()))
    colors = colormaps["viridis_r" if found.metric.lower_is_better else "viridis"]
    for axes, facet in itertools.zip_longest(grid.flat, facets):
        if facet is None:
            axes.remove()
            continue
        part = {(x, y): value for (x, y, rest), value in means.items() if rest == facet}
        framed = best[:2] if best in means and best[2] == facet else None
        if scattered:
            _draw_points(axes, part, means, (norm, colors), framed)
        else:
            _draw_cells(axes, part, means, (norm, colors), framed, ".2f" if scale.metric.percent else ".4g")
        axes.set_xlabel(readable(across, 40), parse_math=False, fontfamily=FONT, fontsize=9)
        axes.set_ylabel(readable(down, 40), parse_math=False, fontfamily=FONT, fontsize=9)
        if facet:
            axes.set_title(readable(facet, 50), **SMALL)
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=list(figure.axes), pad=0.01, fraction=0.05, aspect=30)
    bar.ax.tick_params(labelsize=8.5, labelfontfamily=FONT)
    return figure


def not_drawn(found: Analysis) -> str | None:
    """Why there is no heatmap although several keys are swept; None where there is one, or nothing to draw."""
    axes_keys, facets = _facets(found)
    if not axes_keys or len(facets) <= MOST_FACETS:
        return None
    others = [key for key in found.sweep.swept if key not in axes_keys]
    return f"No heatmap is drawn: {', '.join(others)} have {len(facets)} combinations, and {MOST_FACETS} would fit."


def _facets(found: Analysis) -> tuple[tuple[str, str] | None, list[str]]:
    """The two keys of the heatmap's axes, and the combinations of the others."""
    runs = [run for setting in found.settings for run in setting.runs.values()]
    counts = {key: len({_at(run, key) for run in runs}) for key in found.sweep.swept}
    varied = sorted((key for key in counts if counts[key] > 1), key=lambda key: -counts[key])
    if len(varied) < 2:
        return None, []
    a, b = sorted(varied[:2], key=found.sweep.swept.index)
    return (a, b), ordered({_rest(run, (a, b)): None for run in runs})


def _at(run: SweepRun, key: str) -> str:
    return same(run.point.get(key, ""))


def _rest(run: SweepRun, keys: Sequence[str]) -> str:
    return " ".join(f"{key}={same(value)}" for key, value in run.point.items() if key not in keys)


def _best_cell(found: Analysis, keys: tuple[str, str]) -> _CellKey | None:
    """Where in the heatmap the best setting on validation is."""
    able = [setting for setting in (found.best, found.best_uniform) if setting is not None]
    sign = 1 if found.metric.lower_is_better else -1
    best = min(able, key=lambda setting: sign * setting.validation.mean, default=None)
    if best is None:
        return None
    run = next(iter(best.runs.values()))
    return _at(run, keys[0]), _at(run, keys[1]), _rest(run, keys)


def _scattered(means: _Cells) -> bool:
    """Whether the values are not on a grid: most of its cells would be empty."""
    across, down = ({at[k] for at in means} for k in (0, 1))
    numeric = all(number(value) is not None for value in across | down)
    return numeric and len(means) > 8 and 3 * len(means) < len(across) * len(down)


def _draw_cells(
    axes: Axes, part: _Values, every: _Cells, colors: _Colors, framed: tuple[str, str] | None, digits: str
) -> None:
    norm, colormap = colors
    across, down = (ordered(at[k] for at in every) for k in (0, 1))
    image = np.full((len(down), len(across)), np.nan)
    for (x, y), value in part.items():
        image[down.index(y), across.index(x)] = value
    axes.imshow(np.ma.masked_invalid(image), cmap=colormap.with_extremes(bad="0.9"), norm=norm, aspect="auto")
    if len(across) * len(down) <= _MARKED_CELLS and len(across) <= 14:
        for (x, y), value in part.items():
            red, green, blue, _ = colormap(norm(value))
            ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
            axes.text(
                across.index(x), down.index(y), format(value, digits), ha="center", va="center", color=ink, fontsize=7.5
            )
    if framed is not None:
        corner = (across.index(framed[0]) - 0.5, down.index(framed[1]) - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=_FRAME, linewidth=2.4, clip_on=False))
    crowded = sum(len(value) for value in across) > 60
    turned: dict[str, Any] = {"rotation": 35, "ha": "right"} if crowded else {}
    axes.set_xticks(range(len(across)), labels=[readable(value or "-", 22) for value in across], **SMALL, **turned)
    axes.set_yticks(range(len(down)), labels=[readable(value or "-", 22) for value in down], **SMALL)


def _draw_points(axes: Axes, part: _Values, every: _Cells, colors: _Colors, framed: tuple[str, str] | None) -> None:
    norm, colormap = colors
    places = np.array([[float(x), float(y)] for x, y in part])
    axes.scatter(
        places[:, 0],
        places[:, 1],
        c=list(part.values()),
        cmap=colormap,
        norm=norm,
        s=38,
        edgecolors="0.3",
        linewidths=0.5,
    )
    if framed is not None:
        at = float(framed[0]), float(framed[1])
        axes.plot(*at, "o", markersize=12, fillstyle="none", color=_FRAME, markeredgewidth=2)
    for k, (axis, scale) in enumerate(((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale))):
        if log_spaced(np.array(sorted({float(at[k]) for at in every}))):
            scale("log")
            axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}"))
    axes.tick_params(labelsize=8.5, labelfontfamily=FONT)
    pale_grid(axes, "both")
