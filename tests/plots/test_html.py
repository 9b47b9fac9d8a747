"""The interactive page of rates: it holds every rate, stays small, and no name can break it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwexp.plots.html import page_data, render_html
from lwexp.plots.rate_table import RateTable
from tests.helpers.rate_tables import ATTACK, ODD_NAMES, TABLES, constant, table, unfreezing


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
