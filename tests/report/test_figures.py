"""The pictures of a report are readable: no label covers another, whatever number of settings there is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lwexp.report.analysis import analyze
from lwexp.report.figures import MOST_ROWS, draw_by_value, draw_curves, draw_settings
from lwexp.report.heatmap import draw_heatmap, not_drawn
from tests.helpers.report_sweeps import Job, as_sweep, seeds

RANDOM = np.random.default_rng(0)
RATES = ("1e-5", "1e-4", "1e-3", "1e-2", "1e-1")


def grid(rates: int, mults: int, others: int = 1, count: int = 3) -> list[Job]:
    """Uniform rates and `mults` multipliers, at each of `rates` base rates and `others` batch sizes."""
    return [
        job
        for lr in RATES[:rates]
        for size in range(others)
        for m in range(mults + 1)
        for job in seeds(
            RANDOM.uniform(0.8, 1, count).tolist(),
            m == 0,
            mult=f"{1 - m / 50:g}",
            lr=lr,
            **({"batch_size": str(16 * 2**size)} if others > 1 else {}),
        )
    ]


def assert_readable(figure: Figure) -> None:
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    for axes in figure.axes:
        for labels, side in ((axes.get_xticklabels(), 0), (axes.get_yticklabels(), 1)):
            shown = [label for label in labels if label.get_text() and label.get_visible()]
            inside = axes.get_window_extent().padded(1)  # ticks beyond the limits are not drawn
            boxes = [label.get_window_extent() for label in shown]
            boxes = [box for box in boxes if inside.min[side] <= (box.min + box.max)[side] / 2 <= inside.max[side]]
            boxes.sort(key=lambda box: box.min[side])
            if any(label.get_rotation() for label in shown):
                continue
            for one, other in pairwise(boxes):
                assert one.max[side] <= other.min[side] + 1, [label.get_text() for label in shown]
            for box in boxes:
                assert box.x0 >= -1
                assert box.x1 <= width + 1
                assert box.y0 >= -1
                assert box.y1 <= height + 1


def texts(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


@pytest.mark.parametrize(("rates", "mults"), [(1, 1), (1, 3), (5, 3), (5, 12)])
def test_labels_do_not_overlap_with_few_and_with_many_settings(rates: int, mults: int) -> None:
    found = analyze(as_sweep(grid(rates, mults)))
    figures = [draw(found) for draw in (draw_settings, draw_by_value, draw_curves, draw_heatmap)]
    for figure in figures:
        if figure is not None:
            assert_readable(figure)
    settings, by_value, curves, heatmap = figures
    assert settings is not None
    assert len(texts(settings.axes[0])) == min(rates * (mults + 1), MOST_ROWS)
    assert curves is not None
    assert (by_value is None) == (mults < 3 and rates < 3)
    assert (heatmap is None) == (rates == 1)


def test_one_seed_and_one_evaluation_are_drawn_too() -> None:
    jobs = [Job({"mult": m, "seed": "0"}, val=(0.5,), test=0.6, uniform=m == "1") for m in ("1", "0.9", "0.8", "0.7")]
    for draw in (draw_settings, draw_by_value, draw_curves):
        figure = draw(analyze(as_sweep(jobs)))
        assert figure is not None
        assert_readable(figure)


def test_values_that_are_spaced_as_powers_lie_on_a_log_axis() -> None:
    figure = draw_by_value(analyze(as_sweep(grid(5, 1))))
    assert figure is not None
    assert figure.axes[0].get_xscale() == "log"
    figure = draw_by_value(analyze(as_sweep(grid(1, 4))))
    assert figure is not None
    assert figure.axes[0].get_xscale() == "linear"


def test_values_that_make_no_grid_are_points() -> None:
    search = [
        job
        for mult, power in zip(RANDOM.uniform(0.7, 1, 30), RANDOM.uniform(-5, -1, 30), strict=True)
        for job in seeds([RANDOM.uniform(0.8, 1)], mult=f"{mult:.4f}", lr=f"{10**power:.3g}")
    ]
    figure = draw_heatmap(analyze(as_sweep(search)))
    assert figure is not None
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("linear", "log")
    assert_readable(figure)


def test_a_third_key_gives_pictures_side_by_side_and_too_many_are_named_instead() -> None:
    found = analyze(as_sweep(grid(3, 2, others=2, count=1)))
    figure = draw_heatmap(found)
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes[:2]] == ["batch_size=16", "batch_size=32"]
    assert not_drawn(found) is None
    points = ({"mult": m, "lr": lr, "a": a, "b": b} for m in "1234" for lr in "1234" for a in "123" for b in "123")
    jobs = [Job({**point, "seed": "0"}, val=(0.5,), test=0.5, uniform=point["mult"] == "1") for point in points]
    found = analyze(as_sweep(jobs))
    assert draw_heatmap(found) is None
    assert not_drawn(found) == "No heatmap is drawn: a, b have 9 combinations, and 6 would fit."


def test_axes_end_where_the_data_end_and_longer_intervals_have_an_arrow() -> None:
    jobs = [*seeds([0.95, 0.93], True, mult="1"), *seeds([0.9, 0.94], mult="0.9"), *seeds([0.91, 0.9], mult="0.8")]
    figure = draw_settings(analyze(as_sweep(jobs)))
    values, differences = figure.axes
    assert 84 < values.get_xlim()[0] < 90
    assert 95 < values.get_xlim()[1] <= 100.5
    assert -12 < differences.get_xlim()[0] < differences.get_xlim()[1] < 8
    assert {line.get_marker() for line in values.lines} >= {"<", "o"}
    assert "arrow" in values.get_xlabel()
    assert_readable(figure)
    many = [*seeds(RANDOM.uniform(0.9, 0.92, 8).tolist(), True, mult="1"), *seeds([0.9, 0.92] * 4, mult="0.9")]
    figure = draw_settings(analyze(as_sweep(many)))
    assert {"<", ">"}.isdisjoint(line.get_marker() for axes in figure.axes for line in axes.lines)
    assert "arrow" not in figure.axes[0].get_xlabel()
