"""`lwexp.report` on sweeps written into a store by hand: what it says, what it writes, what it refuses."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from scipy import stats

from lwexp.config.command_options import tracking_config
from lwexp.report import make_report
from lwexp.report.reading import SweepReader
from tests.helpers.report_sweeps import BETTER, UNIFORM, Job, Report, make_sweep, seeds
from tests.system.test_mlflow_page import CHROMIUM, OPTIONS

FILES = {"report.md", "report.html", "report.csv", "runs.csv", "settings.png", "curves.png"}


def rows(path: Path) -> dict[str, dict[str, str]]:
    """The lines of a CSV file by their first cell."""
    with path.open(encoding="utf-8", newline="") as file:
        return {next(iter(row.values())): row for row in csv.DictReader(file)}


def test_a_real_difference_is_reported_with_its_numbers_and_everything_is_attached(
    report: Report, client: MlflowClient, tmp_path: Path
) -> None:
    parent = make_sweep(client, [*seeds(UNIFORM, True, mult="1.0"), *seeds(BETTER, mult="0.9")])
    outcome = report()
    assert outcome.code == 0, outcome.err
    text = " ".join(outcome.out.split())
    assert "12 of 12 runs compared" in text
    assert "mult=0.9 has accuracy 92.50 % on validation and 92.50 % on test; uniform has accuracy 90.67 %" in text
    difference = np.array(BETTER) - np.array(UNIFORM)
    low, high = stats.ttest_1samp(difference, 0).confidence_interval()
    assert (
        "mult=0.9 is better than uniform rates by 1.83 points in test accuracy (95 % interval "
        f"{100 * low:+.2f} to {100 * high:+.2f}, 6 seeds, p = 0.0312)." in text  # 2 / 2**6, the lowest there is
    )

    (folder,) = (tmp_path / "outputs" / "reports").iterdir()
    assert folder.name.endswith(f"_{parent[:8]}")
    assert {path.name for path in folder.iterdir()} == FILES
    attached = tmp_path / "outputs" / "mlartifacts" / parent / "artifacts" / "report"
    assert {path.name: path.read_bytes() for path in attached.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    found = rows(folder / "report.csv")
    assert float(found["mult=0.9"]["test_difference_mean"]) == pytest.approx(difference.mean())
    assert float(found["mult=0.9"]["test_difference_low"]) == pytest.approx(low)
    assert float(found["uniform"]["test_sd"]) == pytest.approx(np.std(UNIFORM, ddof=1))
    assert found["mult=0.9"]["verdict"] == "better"
    assert (float(found["mult=0.9"]["head_lr"]), float(found["mult=0.9"]["stem_lr"])) == (0.01, 0.009)
    runs = rows(folder / "runs.csv")
    assert len(runs) == 12
    assert {(run["setting"], run["seed"], float(run["test"])) for run in runs.values()} == {
        *(("uniform", str(seed), value) for seed, value in enumerate(UNIFORM)),
        *(("mult=0.9", str(seed), value) for seed, value in enumerate(BETTER)),
    }


OLD_PLAN = """index,name,depth,scale,lr,tensors
0,head,1,1.0,0.01,2
1,"stem, norm",0,0.9,0.009000000000000001,2
"""


@pytest.mark.parametrize(
    ("plan", "rates"),
    [(OLD_PLAN, ("0.01", "0.009")), ("", ("", "")), ("index,name\n0,head\n", ("", "")), ("lr\nfast\n", ("", ""))],
    ids=["plan", "empty", "no lr", "no number"],
)
def test_runs_without_tags_of_their_rates_are_read_from_their_plan_csv(
    quick: Report, client: MlflowClient, tmp_path: Path, plan: str, rates: tuple[str, str]
) -> None:
    description = "```\nindex    lr\n-----  ----\n    0  77.0\n```\n"  # is for the reader of MLflow's page alone
    jobs = [*seeds(UNIFORM, True, mult="1.0"), *seeds(BETTER, mult="0.9")]
    for job in jobs:
        job.plan_csv, job.tags = plan, {"mlflow.note.content": description}
    make_sweep(client, jobs)
    outcome = quick("--out", "here")
    assert (outcome.code, outcome.err) == (0, "")
    found = rows(tmp_path / "here" / "report.csv")["mult=0.9"]
    assert (found["head_lr"], found["stem_lr"]) == rates


def test_the_files_stand_alone_and_show_names_as_they_are(report: Report, client: MlflowClient, tmp_path: Path) -> None:
    name = "mult=0.9 'freeze=[<b>x_1*</b>]' \n$a_b$"
    cunning = [*seeds(UNIFORM, True, mult="1.0", lr="=1+1|x"), *seeds(BETTER, mult="0.9", lr="=1+1|x")]
    make_sweep(client, cunning, name=name)
    assert report("--out", "here").code == 0
    page = (tmp_path / "here" / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "freeze=[&lt;b&gt;x_1*&lt;/b&gt;]" in page
    assert not re.search(r"<script|<link|https?://|src=\"(?!data:)", page)
    markdown = (tmp_path / "here" / "report.md").read_text(encoding="utf-8")
    assert "&lt;b>x\\_1\\*" in markdown
    assert "lr==1+1\\|x" in markdown
    assert set(re.findall(r"\]\((.*?)\)", markdown)) <= {path.name for path in (tmp_path / "here").iterdir()}
    assert "'=1+1|x" in (tmp_path / "here" / "report.csv").read_text(encoding="utf-8")
    for path in (tmp_path / "here").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_excluded_runs_are_counted_and_listed_with_the_reason(quick: Report, client: MlflowClient) -> None:
    arms = [*seeds(UNIFORM, True, mult="1.0"), *seeds(BETTER, mult="0.9")]
    arms[6] = Job(arms[6].point, status="FAILED", tags={"lwexp.reason": "lr=-1: should be greater than 0"})
    arms[7].status, arms[7].tags = "KILLED", {"lwexp.reason": "killed for memory"}
    arms[8] = Job(arms[8].point, val=(0.5,), status="RUNNING")
    arms[9] = Job(arms[9].point, val=(0.5,), tags={"lwexp.pruned": "below the median at step 10"})
    arms[10].val, arms[10].test = (math.nan,), math.nan
    parent = make_sweep(client, arms, total=20, status="RUNNING")
    outcome = quick()
    counts = (
        "7 of 20 runs compared, 1 failed, 1 has no finite metric, 1 killed, 1 pruned, 1 still running, 8 not started"
    )
    assert counts in outcome.out
    assert "mult=0.9 seed=0: failed: lr=-1: should be greater than 0" in outcome.out
    assert "mult=0.9 seed=1: killed: killed for memory" in outcome.out
    assert "Failed runs are in no mean, which favors settings that fail: mult=0.9." in outcome.out
    assert "The sweep is not complete" in outcome.out
    again = make_report(tracking_config([], []), Path.cwd(), parent, attach=False)
    reasons = {row["run"]: row["reason"] for row in rows(again.folder / "runs.csv").values()}
    assert reasons["mult=0.9 seed=3"] == "below the median at step 10"


def test_another_metric_is_that_of_the_weights_that_were_kept(
    quick: Report, client: MlflowClient, tmp_path: Path
) -> None:
    def losses(value: float) -> dict[str, float]:
        return {"val/loss": value, "test/loss": value + 0.1}

    arms = [*seeds(UNIFORM, True, mult="1.0"), *seeds(BETTER, mult="0.9")]
    for number, job in enumerate(arms):
        job.val = (0.9, 0.8)  # the first evaluation is the best; the second has the lower loss
        job.metrics = losses(0.5 + 0.1 * (number < 6))
    parent = make_sweep(client, arms)
    for run in client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'"):
        client.log_metric(run.info.run_id, "val/loss", 0.7 + 0.1 * (run.data.tags["lwexp.arm"] == "uniform"), step=10)
    outcome = quick("--metric", "loss", "--out", "here", "--confidence", "0.9")
    assert outcome.code == 0, outcome.err
    found = rows(tmp_path / "here" / "report.csv")
    assert float(found["mult=0.9"]["val_mean"]) == pytest.approx(0.7)
    assert float(found["mult=0.9"]["test_mean"]) == pytest.approx(0.6)
    assert "mult=0.9 is better than uniform rates by 0.1 in test loss (6 seeds" in outcome.out
    assert quick("--metric", "acuracy").err.startswith(
        "lwexp-report: --metric=acuracy: no run has it on validation; did"
    )


def test_made_again_it_replaces_what_was_attached_and_no_attach_leaves_it(
    quick: Report, client: MlflowClient, tmp_path: Path
) -> None:
    parent = make_sweep(client, [*seeds(UNIFORM, True, mult="1.0"), *seeds(BETTER, mult="0.9")])
    attached = tmp_path / "outputs" / "mlartifacts" / parent / "artifacts" / "report" / "report.md"
    assert quick("--no-attach").code == 0
    assert not attached.exists()
    assert "attached" in quick().out
    before = attached.read_text(encoding="utf-8")
    assert quick("--confidence", "0.8").code == 0
    assert "80 % interval" in attached.read_text(encoding="utf-8") != before


def test_the_sweep_is_the_latest_or_the_one_named(quick: Report, client: MlflowClient, tmp_path: Path) -> None:
    one = make_sweep(client, seeds(UNIFORM[:1], True, mult="1.0"), name="mult=1.0 seed=0,1", start=1_000_000_000_000)
    latest = make_sweep(client, seeds(UNIFORM[:1], True, mult="1.0"), name="other", start=1_000_000_005_000)
    folder = tmp_path / "outputs" / "sweeps" / "mine"
    folder.mkdir(parents=True)
    (folder / "delivery.json").write_text(json.dumps({"run_id": one}), encoding="utf-8")
    store = SweepReader(tracking_config([], []), tmp_path)
    assert [*store.find().sweeps] == [latest]
    for word in (one, one[:8], one[:6].upper(), "mult=1.0 seed=0,1", str(folder)):
        assert [*store.find(word).sweeps] == [one]
    outcome = quick("mult=1.0 seed=0,1", "--no-attach", f"tracking.uri=sqlite:///{tmp_path}/outputs/mlflow.db")
    assert f"({one[:8]})" in outcome.out


def test_mistakes_are_one_line(quick: Report, client: MlflowClient, tmp_path: Path) -> None:
    def refused(code: int, line: str, *arguments: str) -> None:
        outcome = quick(*arguments)
        assert outcome.code == code
        assert re.fullmatch(f"lwexp-report: {line}\n", outcome.err), outcome.err
        assert outcome.out == ""

    refused(2, r"tracking\.experiment=lwexp: holds no sweep yet.*")
    single = client.create_run("1", run_name="alone").info.run_id
    refused(2, rf"sweep={single}: is a single run, and no sweep; to compare it, name other runs as well", single)
    empty = make_sweep(client, [], name="empty")
    refused(1, rf"the sweep empty \({empty}\) has no finished run to report on")
    broken = [Job({"mult": "-1"}, status="FAILED", tags={"lwexp.reason": "mult=-1: should be greater than 0"})]
    parent = make_sweep(client, [*broken, Job({"mult": "0.9"}, val=(0.5,), status="RUNNING")], name="twice")
    refused(1, rf"the sweep twice \({parent}\) has no finished run to report on: 1 failed, 1 still running", parent)
    child = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'")[0].info.run_id
    refused(2, rf"sweep={child}: is one job of the sweep {parent}; to compare it, name other runs as well", child)
    make_sweep(client, broken, name="twice")
    client.delete_tag(child, "lwexp.point")
    other = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'")[1].info.run_id
    client.delete_tag(other, "lwexp.point")
    refused(1, rf"the runs of {parent} have no tag lwexp\.point: an older lwexp has made them", parent)
    refused(2, r"sweep=twice: 2 sweeps have this name; give an id, newest first: \w{32}, \w{32}", "twice")
    refused(2, r"sweep=twicee: no such folder, id or name in experiment lwexp; did you mean twice\?", "twicee")
    refused(2, r"sweep=ffffffffffff: no such folder, id or name in experiment lwexp; choices: empty, twice", "f" * 12)
    refused(2, r"tracking\.experiment=lwex: not in this store; did you mean lwexp\?", "tracking.experiment=lwex")
    (tmp_path / "folder").mkdir()
    refused(2, r"sweep=folder: the folder holds no run that MLflow has \(lwexp\.sync delivers it\)", "folder")
    refused(2, r"sweep=twicee: no such folder, id or name in experiment lwexp; did you mean twice\?", parent, "twicee")
    refused(2, r"--filter=params lr: MLflow cannot read it: .*", "--filter", "params lr")
    refused(2, r"--filter=params\.lr = '7': no run of the experiment lwexp matches", "--filter", "params.lr = '7'")
    refused(2, r"tracking\.experiment=lwex: not in this store; did you mean lwexp\?", "--experiment", "lwex")
    refused(2, r"tracking\.url=x: unknown option; did you mean tracking\.uri, .*", "tracking.url=x")
    refused(2, r"--confidence=2: must be from 0\.5 to below 1", "--confidence", "2")
    refused(2, r"unrecognized arguments: --metrics; see lwexp-report --help", "--metrics")
    refused(2, r"tracking\.uri=sqlite:.*: there is no such database: .*", "tracking.uri=sqlite:///none.db")
    refused(1, r"the tracking store http://127\.0\.0\.1:9 is not available \(.*\)", "tracking.uri=http://127.0.0.1:9")
    assert not (tmp_path / "none.db").exists()


def test_what_cannot_be_written_or_attached_is_one_line(quick: Report, client: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    client.create_experiment("closed", artifact_location=(tmp_path / "file" / "below").as_uri())
    make_sweep(client, seeds(UNIFORM, True, mult="1.0"), experiment="closed")
    outcome = quick("tracking.experiment=closed")
    assert outcome.code == 1
    assert re.fullmatch(r"lwexp-report: the tracking store .* does not take the report: .*\n", outcome.err)
    assert "6 of 6 runs compared" in outcome.out  # and the report is there all the same
    assert "attached" not in outcome.out
    outcome = quick("tracking.experiment=closed", "--out", "file/below")
    assert (outcome.code, outcome.out) == (2, "")
    assert re.fullmatch(r"lwexp-report: --out=file/below: cannot be written: .*\n", outcome.err)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
@pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is not installed")
def test_the_page_opens_in_a_browser_with_all_pictures_and_asks_for_nothing(
    report: Report, client: MlflowClient, tmp_path: Path
) -> None:
    from playwright.sync_api import sync_playwright

    make_sweep(client, [*seeds(UNIFORM, True, mult="1.0"), *seeds(BETTER, mult="0.9")])
    assert report("--out", "here").code == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        tab = browser.new_page()
        asked, said = [], []
        tab.on("request", lambda request: asked.append(request.url.partition(":")[0]))
        tab.on("console", lambda message: said.append(message.text))
        tab.goto((tmp_path / "here" / "report.html").as_uri())
        widths = tab.evaluate("[...document.images].map(image => image.naturalWidth)")
        text = tab.inner_text("body")
        browser.close()
    assert widths == [360, 360]
    assert set(asked) == {"file", "data"} or asked == ["file"]
    assert said == []
    assert "mult=0.9 is better than uniform rates by 1.83 points" in text


def test_trials_of_a_search_do_not_count_where_their_settings_were_run_again(
    quick: Report, client: MlflowClient
) -> None:
    def phase(jobs: list[Job], name: str) -> list[Job]:
        return [replace(job, tags={"lwexp.phase": name}) for job in jobs]

    lucky = phase([Job({"mult": "0.77", "seed": "0"}, val=(0.99,), test=0.99)], "search")
    again = [*phase(seeds(UNIFORM, True, mult="1"), "repeat"), *phase(seeds(BETTER, mult="0.9"), "repeat")]
    make_sweep(client, [*lucky, *again], name="searched and run again", start=1_800_000_000_000)
    outcome = quick()
    assert "12 of 12 runs compared, 1 trial of the search excluded" in outcome.out
    assert "mult=0.77" not in outcome.out
    make_sweep(client, [*lucky, *seeds(UNIFORM, True, mult="1")], name="searched only", start=1_900_000_000_000)
    assert "mult=0.77" in quick().out


@pytest.mark.parametrize("count", [2, 6])
def test_the_terminal_gets_80_columns_with_the_verdict_whatever_the_names(
    quick: Report, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = {"recipe": "cosine-annealing-with-warm-restarts", "optimizer.name": "adamw-with-decoupled-weight-decay"}
    jobs = [*seeds(UNIFORM[:count], True, mult="1.0", **long), *seeds([0.5] * count, mult="0.9", **long)]
    for job in jobs:
        job.tags = {"lwexp.reason": ""}
    make_sweep(client, jobs, name="short")
    lines = quick("--no-attach").out.splitlines()
    assert max(map(len, lines[: lines.index("")])) <= 80
    assert max(len(line) for line in lines if not line.startswith("report: ")) <= 80
    head = next(k for k, line in enumerate(lines) if line.startswith("setting"))
    assert lines[head].endswith("verdict")
    assert any(line.endswith("no claim" if count == 2 else "worse") for line in lines[head:])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
@pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is not installed")
@pytest.mark.parametrize("count", [2, 6])
def test_the_table_fits_1280_pixels_and_the_verdict_is_seen_on_a_phone(
    quick: Report, client: MlflowClient, tmp_path: Path, count: int
) -> None:
    from playwright.sync_api import sync_playwright

    noisy = [value - 0.3 + 0.3 * (seed % 2) for seed, value in enumerate(UNIFORM[:count])]
    jobs = [*seeds(UNIFORM[:count], True, mult="1.0"), *seeds(noisy, mult="0.9"), *seeds([0.5] * count, mult="0.85")]
    make_sweep(client, jobs)
    assert quick("--out", "here").code == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        for width in (1280, 375):
            tab = browser.new_page(viewport={"width": width, "height": 800})
            tab.goto((tmp_path / "here" / "report.html").as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") == width
            verdict = tab.locator(".scroll td", has_text=re.compile("no claim|worse")).first.bounding_box()
            assert verdict is not None
            assert verdict["x"] + verdict["width"] <= width
            if width == 1280:
                assert tab.evaluate("(e => e.scrollWidth <= e.clientWidth)(document.querySelector('.scroll'))")
        browser.close()


def test_no_interval_that_is_written_leaves_what_is_possible(
    quick: Report, client: MlflowClient, tmp_path: Path
) -> None:
    make_sweep(client, [*seeds([0.99, 0.93], True, mult="1.0"), *seeds([0.91, 0.97], mult="0.9")])
    assert quick("--out", "here").code == 0
    for row in rows(tmp_path / "here" / "report.csv").values():
        assert 0 <= float(row["test_low"]) < float(row["test_high"]) <= 1
    row = rows(tmp_path / "here" / "report.csv")["mult=0.9"]
    assert -1 <= float(row["test_difference_low_all"]) < float(row["test_difference_high_all"]) <= 1
    for file in ("report.md", "report.html"):
        text = (tmp_path / "here" / file).read_text(encoding="utf-8")
        ends = re.findall(r"([+-]?\d+\.\d+) to ([+-]?\d+\.\d+)", text)
        assert ends
        assert all(-100 <= float(end) <= 100 for pair in ends for end in pair)
