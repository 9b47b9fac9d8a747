"""What a person sees of a run on MLflow's own page, in a real browser."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.helpers.commands import Outcome

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic", "--no-first-run"]
OPTIONS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
TIMEOUT = 60_000.0  # milliseconds: the first page loads many scripts, and the machine may be busy

NAME = "lstm grouping=per_parameter policy=cosine policy.warmup_steps=3 max_steps=12"
NAMES = ["head.bias", "head.weight"]
NAMES += [f"lstm.{kind}_l{layer}" for layer in (1, 0) for kind in ("bias_hh", "bias_ih", "weight_hh", "weight_ih")]
LABELS = [f"{index:02d}_{name}" for index, name in enumerate(NAMES)]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The link that `lwexp.ui` prints for the store in `folder`; the server ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lwexp.ui"], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        links = (re.search(r"http://\S+", line) for line in process.stdout)
        link = next(filter(None, links), None)
        assert link is not None, process.stderr.read()
        yield link[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


@contextmanager
def opened(pictures: Path) -> Iterator[Page]:
    """An empty tab of a new browser, so high that all rates are in view: MLflow makes no other charts.

    A failure leaves a picture of the page in `pictures`.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        tab = browser.new_page(viewport={"width": 1600, "height": 2600})
        tab.set_default_timeout(TIMEOUT)
        try:
            yield tab
        except BaseException:
            tab.screenshot(path=pictures / "page.png")
            raise
        finally:
            browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
@pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is not installed")
def test_a_person_finds_the_plan_the_rates_from_head_to_stem_and_the_pictures_on_the_runs_page(
    lwexp_here: Callable[..., Outcome], tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    expect.set_options(timeout=TIMEOUT)
    run = lwexp_here(
        "run", "model=lstm", "grouping=per_parameter", "max_steps=12", "policy=cosine", "policy.warmup_steps=3",
        "progress=false",
    )  # fmt: skip
    assert run.code == 0, run.err

    with served(tmp_path) as link, opened(tmp_path) as tab:

        def is_for_model_training() -> None:
            expect(tab.get_by_role("link", name="Runs", exact=True).first).to_be_visible()
            expect(tab.get_by_role("link", name="Evaluation runs")).to_have_count(0)  # GenAI's name for them

        tab.goto(link)
        run_link = tab.get_by_role("link", name=NAME)
        expect(run_link).to_be_visible()
        is_for_model_training()

        # MLflow 3.17 opens a run that is clicked in its GenAI view, until "Model training" has been chosen once by hand
        server = link.partition("#")[0]
        tab.goto(f"{server}{run_link.get_attribute('href')}?workflowType=machine_learning")
        expect(tab.get_by_role("heading", name=NAME)).to_be_visible()
        is_for_model_training()

        # the plan, as a table and not as its source
        tab.get_by_text("Show more").first.click()
        rows = [rf"{i}\s+{re.escape(name)}\s+{9 - i}\s+\S+\s+{1e-3 * 0.95**i:.6e}\s" for i, name in enumerate(NAMES)]
        plan = re.compile(rf"index\s+name\s+depth\s+scale\s+lr\s[\s\S]*?^\s*{'[^|]*?'.join(rows)}", re.MULTILINE)
        expect(tab.locator("body")).to_contain_text(plan, use_inner_text=True)
        expect(tab.locator("body")).not_to_contain_text("```")

        # a chart for each rate, all in one section, from the head to the stem
        tab.get_by_role("tab", name="Model metrics").click()
        titles = tab.get_by_role("heading", name=re.compile(r"^\d\d_"))
        expect(titles).to_have_text(LABELS)
        boxes = [title.bounding_box() for title in titles.all()]
        places = [(round(box["y"]), box["x"]) for box in boxes if box is not None]
        assert len(places) == len(LABELS)
        assert places == sorted(places)
        sections = dict(re.findall(r"^(\w+)\s*\((\d+)\)$", tab.locator("body").inner_text(), re.MULTILINE))
        assert sections == {"best": "5", "lr": str(len(LABELS)), "test": "5", "train": "1", "val": "3"}
        assert next(iter(sections)) == "best"  # results come before the rates
        drawn = "count => document.querySelectorAll('.js-plotly-plot:has(.scatterlayer .js-line)').length >= count"
        tab.wait_for_function(drawn, arg=len(LABELS))

        # a picture and the interactive page, inline
        tab.get_by_role("tab", name="Artifacts").click()
        tab.get_by_text("rates_heatmap.png", exact=True).first.click()
        shown = "[...document.images].find(image => image.naturalWidth == 1800 && image.clientWidth > 500)"
        tab.wait_for_function(shown)
        tab.get_by_text("rates.html", exact=True).first.click()
        rates = tab.frame_locator("iframe").locator("#rows tr")
        expect(rates).to_have_count(len(LABELS))
        assert [row.split()[0] for row in rates.all_inner_texts()] == LABELS
        assert rates.first.inner_text().split() == [LABELS[0], "9", "0.000333333", "0.001", "0", "no"]
