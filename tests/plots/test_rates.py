"""The pictures of a table of rates and the interactive page: what they show, and that no table breaks them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import imread

from lwexp.errors import RunError
from lwexp.plots import process
from lwexp.plots.axes import rate_text, readable
from lwexp.plots.html import page_data, render_html
from lwexp.plots.rates import (
    RateTable,
    draw_heatmap,
    draw_rates_by_depth,
    draw_rates_by_step,
    subsample,
    thinned,
    write_plots,
)

ATTACK = "</script><img src=x onerror=alert(1)>"
ODD_NAMES = ["_a$b_$", "$\\frac{", "x^{2", "中文\n\t\0", "W" * 300, ATTACK]
ODD_NAMES += ["\ud800é", "  ", "$$", "%s{0}\\n", "_", "a|b"]
PICTURES = ["rates_heatmap.png", "rates_by_depth.png", "rates_by_step.png"]


def cosine(groups: int, steps: int, warmup: int = 0) -> np.ndarray:
    """Rates of a cosine to 0 after a linear warm-up, each group at 0.9 of the one before; written as plain loops."""
    rates = np.empty((steps, groups))
    for t in range(steps):
        fall = (t - warmup) / max(steps - 1 - warmup, 1)
        factor = (t + 1) / warmup if t < warmup else 0.5 * (1 + np.cos(np.pi * fall))
        for g in range(groups):
            rates[t, g] = 0.01 * 0.9**g * factor
    rates[-1] = 0.0
    return rates


def table(
    rates: np.ndarray, names: list[str] | None = None, frozen: tuple[int, ...] = (), depths: list[int] | None = None
) -> RateTable:
    groups = rates.shape[1]
    return RateTable(
        title="resnet18, cosine",
        names=names or [f"{g:02d}_layer{g}.weight" for g in range(groups)],
        depths=depths or list(range(groups))[::-1],
        frozen=[g in frozen for g in range(groups)],
        rates=rates,
        steps=np.arange(len(rates)),
    )


def unfreezing(groups: int, steps: int, every: int) -> np.ndarray:
    rates = cosine(groups, steps)
    for g in range(groups):
        rates[: min(g * every, steps), g] = 0
    return rates


def constant(groups: int, steps: int = 20) -> np.ndarray:
    return np.tile(0.01 * 0.9 ** np.arange(groups), (steps, 1))


def frozen_rates() -> np.ndarray:
    rates = cosine(7, 30, warmup=5)
    rates[:, 4:] = 0
    return rates


TABLES = {
    "one group, one step": table(np.full((1, 1), 1e-3)),
    "one step": table(constant(7, steps=1)),
    "one group": table(cosine(1, 50)),
    "all equal": table(np.full((30, 7), 1e-3)),
    "all equal, many groups": table(np.full((30, 20), 1e-3)),
    "all zero": table(np.zeros((10, 3)), frozen=(0, 1, 2)),
    "one step of zeros": table(np.zeros((1, 1))),
    "frozen": table(frozen_rates(), frozen=(4, 5, 6)),
    "frozen with a rate": table(constant(7), frozen=(2,)),
    "warm-up and cosine": table(cosine(12, 100, warmup=10)),
    "a single point between zeros": table(np.array([[0.0, 1e-3], [1e-2, 1e-3], [0.0, 1e-3]])),
    "unfreezing of many groups": table(unfreezing(80, 100, every=2)),
    "shared depths": table(constant(5), depths=[2, 2, 2, 1, 0]),
    "far apart": table(np.array([[5e-324, 1e-300, 1e-2, 1e250], [1e-300, 1e-300, 1e-2, 0.0]])),
    "halved a thousand times": table(np.tile(0.01 * 0.5 ** np.arange(1000), (3, 1))),
    "hardly anything": table(np.full((3, 2), 1e-310)),
    "odd names": table(np.abs(np.sin(np.arange(240).reshape(20, 12))), names=ODD_NAMES, frozen=(1, 4)),
    "few odd names": table(constant(6), names=ODD_NAMES[:6], frozen=(4,)),
}
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


def test_a_table_is_written_as_three_pictures_900_px_wide_at_100_dpi_and_a_page(tmp_path: Path) -> None:
    """Drawn by another process, and the same as if drawn here."""
    written = process.write_plots(TABLES["few odd names"], tmp_path / "new" / "folder")
    assert [path.name for path in written] == [*PICTURES, "rates.html"]
    for path in written[:3]:
        assert imread(path).shape[1] == 1800
    assert written[3].read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    for path, same in zip(written, write_plots(TABLES["few odd names"], tmp_path), strict=True):
        assert path.read_bytes() == same.read_bytes()


def test_pictures_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"\Athe pictures of the plan cannot be drawn: .*file.*\Z"):
        process.write_plots(TABLES["few odd names"], tmp_path / "file")


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
    grey = image.cmap(shown)[0, -1, :3]
    assert grey.max() - grey.min() == 0  # no colour of the scale is a grey
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


def test_rate_by_step_names_up_to_eight_groups_and_colours_more_by_depth() -> None:
    few, many = draw_rates_by_step(table(constant(8))), draw_rates_by_step(table(constant(9)))
    assert legend(few) == [f"{g:02d}_layer{g}.weight" for g in range(8)]
    assert len(few.axes) == 1
    assert legend(many) == []
    assert "depth (0 = stem)" in texts(many)
    colours = many.axes[0].collections[0].get_colors()
    assert len({tuple(colour) for colour in colours}) == 9


def test_groups_at_one_depth_share_the_colour_and_differ_in_dashes() -> None:
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
        return bytes(picture.__wrapped__(name, draw).canvas.buffer_rgba())  # made anew

    jobs = [("few odd names", draw) for draw in DRAWINGS]
    expected = [pixels(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda job: pixels(*job), 2 * jobs)) == 2 * expected


def test_pyplot_is_never_imported(tmp_path: Path) -> None:
    code = """
import sys, pathlib, numpy as np
from lwexp.plots.rates import RateTable, write_plots
write_plots(RateTable("", ["a"], [0], [False], np.ones((2, 1)), np.arange(2)), pathlib.Path(sys.argv[1]))
sys.exit("matplotlib.pyplot" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


@given(count=st.integers(1, 5000), at_most=st.integers(2, 500), start=st.integers(0, 10**6))
def test_subsample_keeps_first_and_last_and_even_distances(count: int, at_most: int, start: int) -> None:
    steps = np.arange(start, start + count)
    kept = subsample(steps, at_most)
    assert len(kept) == min(count, at_most)
    assert (kept[0], kept[-1]) == (steps[0], steps[-1])
    gaps = np.diff(kept)
    assert not len(gaps) or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_thinned_keeps_each_step_with_its_rates() -> None:
    rates = cosine(3, 100)
    few = thinned(table(rates), 10)
    assert len(few.steps) == 10
    np.testing.assert_array_equal(few.rates, rates[few.steps])


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["a"]},
        {"depths": [0]},
        {"frozen": [False] * 3},
        {"rates": np.ones((2, 2))},
        {"rates": np.full((3, 2), np.nan)},
        {"rates": np.full((3, 2), np.inf)},
        {"rates": np.full((3, 2), -1.0)},
        {"steps": np.array([0, 2, 1])},
        {"rates": np.ones((0, 2)), "steps": np.arange(0)},
        {"names": [], "depths": [], "frozen": [], "rates": np.ones((3, 0))},
    ],
)
def test_parts_that_do_not_fit_together_are_refused(change: dict) -> None:
    parts = {"names": ["a", "b"], "depths": [1, 0], "frozen": [False] * 2}
    parts |= {"rates": np.ones((3, 2)), "steps": np.arange(3)}
    RateTable("", **parts)
    with pytest.raises(ValueError, match=r"rates|names"):
        RateTable("", **{**parts, **change})


@given(st.text(max_size=400), st.integers(5, 60))
@settings(deadline=None)
def test_readable_is_printable_and_no_longer_than_asked(name: str, at_most: int) -> None:
    shown = readable(name, at_most)
    assert len(shown) <= at_most
    assert not re.search(r"[\x00-\x1f\ud800-\udfff]", shown)


@pytest.mark.parametrize(
    ("rate", "text"),
    [(1.0, "10⁰"), (0.01, "10⁻²"), (1e-10, "10⁻¹⁰"), (2e-4, "2\u00d710⁻⁴"), (0.00025, "2.5\u00d710⁻⁴")],
)
def test_rates_on_an_axis_are_plain_characters(rate: float, text: str) -> None:
    assert rate_text(rate) == text


def decoded(data: dict) -> np.ndarray:
    """The rates [rows, groups] that the page rebuilds from its data."""
    columns = []
    for g in range(len(data["names"])):
        column = np.array(data["shapes"][data["shape"][g]], dtype=float) * data["scale"][g]
        ends = data["zeros"][g]
        for start, stop in zip(ends[::2], ends[1::2], strict=True):
            column[start:stop] = 0
        columns.append(column)
    return np.stack(columns, axis=1)


def embedded(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


@pytest.mark.parametrize("name", TABLES)
def test_page_holds_every_rate_to_six_digits(name: str) -> None:
    data = embedded(render_html(TABLES[name]))
    assert data["names"] == list(TABLES[name].names)
    assert data["steps"] == TABLES[name].steps.tolist()
    np.testing.assert_allclose(decoded(data), TABLES[name].rates, rtol=1e-6, atol=0)
    np.testing.assert_allclose(data["highest"], TABLES[name].rates.max(axis=0), rtol=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 30))
@settings(deadline=None, max_examples=60)
def test_page_holds_every_rate_whatever_the_table(seed: int, groups: int, steps: int) -> None:
    """Random mixtures of shapes, scales, masks and events."""
    draw = np.random.default_rng(seed)
    shapes = 10.0 ** draw.uniform(-6, 0, (3, steps))
    rates = np.stack([shapes[draw.integers(3)] * 10.0 ** draw.uniform(-6, 0) for _ in range(groups)], axis=1)
    rates[draw.random(rates.shape) < 0.3] = 0
    rates[steps // 2 :, 0] = 0.05
    np.testing.assert_allclose(decoded(page_data(table(rates))), rates, rtol=1e-6, atol=0)


def test_groups_that_follow_one_policy_share_one_curve_and_the_page_stays_small() -> None:
    big = table(unfreezing(62, 1000, every=12))
    assert len(page_data(big)["shapes"]) == 1
    assert len(page_data(big)["steps"]) == 1000
    assert len(render_html(big)) < 60_000


def test_a_page_of_unrelated_curves_is_thinned_to_stay_small() -> None:
    wild = table(np.random.default_rng(0).uniform(1e-5, 1, (3000, 62)))
    data = page_data(wild)
    assert len(render_html(wild)) < 250_000
    assert data["rows"] == 3000
    assert (data["steps"][0], data["steps"][-1]) == (0, 2999)
    np.testing.assert_allclose(decoded(data), wild.rates[data["steps"]], rtol=1e-6)


def test_no_name_or_title_can_end_the_data_or_add_markup() -> None:
    attack = RateTable(ATTACK, [ATTACK, "<!--", "@@RATES@@"], [2, 1, 0], [False] * 3, constant(3), np.arange(20))
    page, plain = render_html(attack), render_html(table(constant(3)))
    for mark in ("<", ">", "<script", "</script", "<!--"):
        assert page.count(mark) == plain.count(mark)
    assert embedded(page)["names"] == [ATTACK, "<!--", "@@RATES@@"]


def test_page_names_no_address_and_puts_text_in_as_text_only() -> None:
    page = render_html(TABLES["frozen"])
    assert not re.search(r"https?:|//[a-z]|src=|href=|url\(|@import|innerHTML|insertAdjacentHTML|document\.write", page)
    assert "default-src 'none'" in page


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
def test_page_works_in_a_browser_from_a_file_and_in_a_sandboxed_frame(tmp_path: Path) -> None:
    from html import escape

    from playwright.sync_api import sync_playwright

    rates = constant(12)
    page_text = render_html(table(rates, names=["00_head", *ODD_NAMES[:4], ATTACK, *ODD_NAMES[7:], "11_stem"][:12]))
    (tmp_path / "rates.html").write_text(page_text, encoding="utf-8")
    frame_text = f'<iframe sandbox="allow-scripts" width=900 height=900 srcdoc="{escape(page_text)}"></iframe>'
    (tmp_path / "frame.html").write_text(frame_text, encoding="utf-8")
    options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic", "--no-first-run"]
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options + quiet)
        for file in ("rates.html", "frame.html"):
            trouble: list[str] = []
            requests: list[str] = []
            tab = browser.new_page()
            tab.on("pageerror", lambda error, into=trouble: into.append(str(error)))
            tab.on("dialog", lambda dialog, into=trouble: (into.append("dialog"), dialog.dismiss()))
            tab.on("console", lambda message, into=trouble: into.append(message.text))
            tab.on("request", lambda request, into=requests: into.append(request.url))
            tab.goto((tmp_path / file).as_uri())
            page = tab.frames[-1]
            page.wait_for_selector("#rows tr")
            assert page.locator("#rows tr").count() == 12
            assert page.locator("#rows tr").first.inner_text().split() == ["00_head", "11", *["0.01"] * 3, "no"]
            assert page.locator("#rows img, #list img").count() == 0
            page.fill("#filter", "</SCRIPT>")
            assert page.locator("#list li:visible, #rows tr:visible").all_inner_texts()[0] == ATTACK
            assert page.locator("#list li:visible").count() == page.locator("#rows tr:visible").count() == 1
            page.click("#list li:visible button")
            assert page.locator("#list [aria-pressed=true]").inner_text() == ATTACK
            page.fill("#filter", "")
            for scale in ("log", "linear"):
                page.check(f"[value={scale}]")
                page.locator("#plot").hover(position={"x": 300, "y": 15})
                assert "00_head" in page.inner_text("#tip")
                assert "learning rate 0.01" in page.inner_text("#tip")
            page.locator("#plot").press("End")
            assert page.inner_text("#said") == "00_head, step 19, learning rate 0.01"
            page.uncheck("#list li:first-child input")
            page.locator("#plot").hover(position={"x": 300, "y": 15})
            assert "00_head" not in page.inner_text("#tip")
            assert trouble == []
            assert [url for url in requests if not url.startswith("about:")] == [(tmp_path / file).as_uri()]
            tab.close()
        browser.close()
