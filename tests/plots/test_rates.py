"""Plots of a table of rates: what they show, and that every table can be drawn."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from lwexp.plots.axes import NAMED_LIMIT, readable
from lwexp.plots.rate_table import RateTable
from lwexp.plots.rates import draw_heatmap, draw_rates_by_depth, draw_rates_by_step
from tests.helpers.rate_tables import TABLES, constant, cosine, table, unfreezing

DRAWINGS = (draw_heatmap, draw_rates_by_depth, draw_rates_by_step)


@cache
def picture(name: str, draw: Callable[[RateTable], Figure]) -> Figure:
    """The picture of a table, small; made once and shared by the tests that only look at it."""
    figure = draw(TABLES[name])
    figure.set_dpi(50)
    figure.canvas.draw()
    return figure


def texts(figure: Figure) -> list[str]:
    """Everything written in the figure; labels of ticks once it has been drawn."""
    found = figure.findobj(lambda artist: hasattr(artist, "get_text") and artist.get_visible())
    return [artist.get_text() for artist in found if artist.get_text()]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_drawn_and_nothing_runs_over_the_top_or_the_bottom(name: str) -> None:
    for draw in DRAWINGS:
        pixels = np.asarray(picture(name, draw).canvas.buffer_rgba())[..., :3]
        assert pixels.min() < 128  # something dark on the white ground
        assert (pixels[[0, -1]] == 255).all()


@pytest.mark.parametrize("name", ["odd names", "few odd names"])
def test_names_are_shown_as_they_are_never_as_formulas(name: str) -> None:
    for draw in (draw_heatmap, draw_rates_by_step) if name == "few odd names" else (draw_heatmap,):
        shown = texts(picture(name, draw))
        for odd in TABLES[name].names:
            limit = 34 if draw is draw_heatmap else 24
            assert any(text.startswith(readable(odd, limit)) for text in shown), odd


def test_title_is_shown_as_it_is() -> None:
    odd = RateTable("$x_{$ \ud800", ["a"], [0], [False], np.ones((1, 1)), np.zeros(1, dtype=np.int64))
    for draw in DRAWINGS:
        assert any("$x_{$ \\ud800" in text for text in texts(draw(odd)))


@pytest.mark.parametrize("draw", DRAWINGS)
def test_axes_carry_their_units(draw) -> None:
    shown = texts(picture("warm-up and cosine", draw))
    assert "learning rate" in shown
    assert ("depth (0 = stem)" if draw is draw_rates_by_depth else "optimizer step") in shown


@pytest.mark.parametrize("groups", [1, 7, 30, 62, 100, 1000])
def test_heatmap_labels_never_overlap_and_run_from_head_to_stem(groups: int) -> None:
    figure = draw_heatmap(table(constant(groups, steps=3)))
    figure.draw_without_rendering()
    labels = figure.axes[0].get_yticklabels()
    assert labels[0].get_text() == "00_layer0.weight"
    assert labels[-1].get_text() == f"{groups - 1:02d}_layer{groups - 1}.weight"
    boxes = [label.get_window_extent() for label in labels]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
    assert len(labels) == groups or len(labels) > 30  # thinned no more than needed


def test_heatmap_shows_every_rate_at_its_group_and_step_on_a_log_scale_and_zero_apart() -> None:
    rates = unfreezing(12, 100, every=5)
    figure = draw_heatmap(table(rates))
    image = figure.axes[0].images[0]
    shown = image.get_array()
    np.testing.assert_array_equal(shown.filled(0), rates.T)
    np.testing.assert_array_equal(shown.mask, rates.T == 0)
    assert isinstance(image.norm, LogNorm)
    gray = image.cmap(shown)[0, -1, :3]
    assert gray.max() - gray.min() == 0  # no color of the scale is a gray
    assert legend(figure) == ["rate 0"]
    assert legend(draw_heatmap(table(constant(3)))) == []


def test_heatmap_places_rows_of_unequal_distance_at_their_step() -> None:
    rates = np.arange(1.0, 5.0)[:, None]
    uneven = RateTable("", ["a"], [0], [False], rates, np.array([0, 1, 2, 9]))
    image = draw_heatmap(uneven).axes[0].images[0]
    left, right = image.get_extent()[:2]
    shown, width = image.get_array()[0], (right - left) / image.get_array().shape[1]
    middles = left + width * (np.arange(len(shown)) + 0.5)
    for middle, value in zip(middles, shown, strict=True):
        assert value == rates[np.abs(uneven.steps - middle).argmin(), 0]


def test_heatmap_scale_ends_two_decades_below_the_lowest_groups_highest_rate() -> None:
    figure = draw_heatmap(table(cosine(5, 1000)))
    assert figure.axes[0].images[0].norm.vmin == pytest.approx(0.01 * 0.9**4 / 100)
    assert figure.axes[0].images[0].norm.vmax == pytest.approx(0.01)


@pytest.mark.parametrize(("low", "scale"), [(1e-3, "linear"), (1.01e-3, "linear"), (0.99e-3, "log"), (1e-6, "log")])
def test_rate_by_step_is_logarithmic_where_rates_span_more_than_ten(low: float, scale: str) -> None:
    figure = draw_rates_by_step(table(np.array([[1e-2, low]] * 5)))
    assert figure.axes[0].get_yscale() == scale
    bottom, top = figure.axes[0].get_ylim()
    assert bottom < low
    assert top > 1e-2
    assert scale == "log" or bottom == 0


def test_rate_by_step_breaks_lines_at_zero_and_shows_a_point_that_stands_alone() -> None:
    rates = np.array([[0.0, 1e-3], [1e-2, 1e-3], [0.0, 1e-3], [0.0, 1e-3]])
    axes = draw_rates_by_step(table(rates)).axes[0]
    lines, points = axes.collections
    assert isinstance(lines, LineCollection)
    first, second = (path.vertices for path in lines.get_paths())
    np.testing.assert_array_equal(first[:, 1], [np.nan, 1e-2, np.nan, np.nan])
    np.testing.assert_array_equal(second, np.column_stack([np.arange(4), rates[:, 1]]))
    np.testing.assert_array_equal(points.get_offsets(), [[1, 1e-2]])


def test_rate_by_step_names_as_many_groups_as_fit_and_colors_more_by_depth() -> None:
    few, many = draw_rates_by_step(table(constant(NAMED_LIMIT))), draw_rates_by_step(table(constant(NAMED_LIMIT + 1)))
    assert legend(few) == [f"{g:02d}_layer{g}.weight" for g in range(NAMED_LIMIT)]
    assert len(few.axes) == 1
    assert legend(many) == []
    assert "depth (0 = stem)" in texts(many)
    colors = many.axes[0].collections[0].get_colors()
    assert len({tuple(color) for color in colors}) == NAMED_LIMIT + 1


def test_groups_at_one_depth_share_the_color_and_differ_in_dashes() -> None:
    figure = picture("shared depths", draw_rates_by_step)
    handles = figure.axes[0].get_legend().legend_handles
    assert handles[0].get_color() == handles[1].get_color() != handles[3].get_color()
    assert len({str(handle.get_linestyle()) + str(handle._dash_pattern) for handle in handles[:3]}) == 3


def test_coinciding_lines_are_drawn_as_one_that_says_so() -> None:
    assert legend(picture("all equal", draw_rates_by_step)) == ["all 7 groups"]
    assert legend(picture("all equal, many groups", draw_rates_by_step)) == ["all 20 groups"]
    for draw in DRAWINGS:
        assert any("all groups at the same rate" in text for text in texts(picture("all equal", draw)))


def test_frozen_groups_are_marked_in_every_picture() -> None:
    for draw in DRAWINGS:
        assert any("frozen" in text for text in texts(picture("frozen", draw)))
        assert not any("frozen" in text for text in texts(picture("one step", draw)))


def test_rate_by_depth_has_a_line_for_each_of_first_highest_and_last_that_differs() -> None:
    assert legend(draw_rates_by_depth(table(constant(5)))) == ["every step"]
    falling = table(np.array([[1e-2], [1e-3], [1e-4]]))
    assert legend(draw_rates_by_depth(falling)) == ["step 0 (first) = highest over all steps", "step 2 (last)"]
    assert legend(draw_rates_by_depth(table(cosine(5, 50, warmup=5)))) == [
        "step 0 (first)",
        "highest over all steps",
        "step 49 (last)",
    ]


def test_rate_by_depth_has_each_group_at_its_depth_and_zeros_in_a_strip_below() -> None:
    rates = unfreezing(12, 100, every=5)
    figure = draw_rates_by_depth(table(rates))
    upper, strip = figure.axes
    assert upper.get_yscale() == "log"
    np.testing.assert_array_equal(upper.lines[0].get_xydata(), [[11, 0.01]])  # at the first step the head alone moves
    highest = dict(map(tuple, upper.lines[2].get_xydata()))
    assert highest == {11 - g: rates[:, g].max() for g in range(12)}
    assert sorted(strip.lines[0].get_xdata()) == list(range(11))
    assert len(draw_rates_by_depth(table(constant(5))).axes) == 1


def test_drawing_in_threads_gives_the_same_pictures_as_one_after_the_other() -> None:
    def pixels(name: str, draw: Callable[[RateTable], Figure]) -> bytes:
        return bytes(picture.__wrapped__(name, draw).canvas.buffer_rgba())  # drawn again

    jobs = [("few odd names", draw) for draw in DRAWINGS]
    expected = [pixels(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda job: pixels(*job), 2 * jobs)) == 2 * expected
