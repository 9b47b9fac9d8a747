"""The table of a notebook: every group, escaped, the middle of a long one folded until it is opened."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
from torch import nn

from lwexp import Plan, make_plan
from tests.helpers.networks import TinyNet
from tests.system.test_mlflow_page import CHROMIUM, OPTIONS

ATTACK = "<script>alert(1)</script>&amp;\"'"


class Cells(HTMLParser):
    """The rows of the table as texts, and the lines above it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.lines: list[str] = []
        self.tags: set[str] = set()
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        self._inside = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "p":
            self.lines.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("td", "th", "input"):
            self.rows[-1][-1] += data
        elif self._inside == "p":
            self.lines[-1] += data


@pytest.fixture(scope="module")
def many() -> Plan:
    return make_plan(timm.create_model("resnet18", num_classes=2), grouping="per_parameter")


def test_it_has_the_printed_table(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr=0.1, freeze=["stem"], group_options={"head": {"weight_decay": 0.5}})
    shown = Cells(plan._repr_html_())
    above, _, table = str(plan).partition("\n\n")
    assert shown.lines == above.splitlines()
    printed = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]
    assert [[text for text in row if text] for row in shown.rows] == [printed[0], *printed[2:]]


def test_a_long_table_is_folded_and_has_every_group(many: Plan) -> None:
    html = many._repr_html_()
    rows = Cells(html).rows[1:]
    assert [row[1] for row in rows if len(row) > 1] == list(many.rates)
    (gap,) = [row for row in rows if len(row) == 1]
    assert gap == ["46 more groups: 8 layer4.0.downsample.1.bias to 53 layer1.0.bn2.bias"]
    assert rows.index(gap) == 8
    assert "input" not in Cells(make_plan(timm.create_model("resnet18"))._repr_html_()).tags


def test_a_table_of_thousands_stays_small() -> None:
    plan = make_plan(nn.Sequential(*(nn.Linear(1, 1) for _ in range(1500))), grouping="per_parameter")
    html = plan._repr_html_()
    assert len(html) < 500_000
    assert "… 1,984 groups are not shown; plan.rows() has all" in html
    assert [row[1] for row in Cells(html).rows if len(row) > 1][-1] == "0.weight"


@pytest.mark.filterwarnings("ignore::lwexp.errors.NoLayerwiseRatesWarning")
def test_no_name_can_add_markup() -> None:
    model = nn.Module()
    model.add_module(ATTACK, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    shown = Cells(make_plan(model)._repr_html_())
    assert "script" not in shown.tags
    assert shown.rows[1][1] == ATTACK
    assert shown.lines[0].startswith("WARNING: no layer-wise rates: all 2 layers are in the only group, <script>")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
@pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is not installed")
def test_a_browser_folds_and_opens_it(many: Plan, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    page = tmp_path / "cell.html"
    page.write_text(f"<!doctype html><meta charset=utf-8>{many._repr_html_()}", encoding="utf-8")
    visible = "[...document.querySelectorAll('tbody tr')].filter(row => row.offsetHeight).length"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        tab = browser.new_page()
        tab.goto(page.as_uri())
        folded = tab.evaluate(visible)
        tab.get_by_text("46 more groups").click()
        opened = tab.evaluate(visible)
        browser.close()
    assert (folded, opened) == (17, 63)
