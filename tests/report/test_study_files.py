"""`python -m lwexp.report study.csv`: what is accepted, printed and written."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lwexp.report import files as pictures
from lwexp.report.studies import files, report_study
from tests.helpers.commands import GOLDEN, Outcome
from tests.helpers.report_sweeps import report_here
from tests.helpers.study_results import HEADER, Row, study_rows, write_study
from tests.report.test_studies import DEPTH, HEAD, LP_FT, UNIFORM, changed

ROWS = study_rows([UNIFORM, DEPTH, HEAD, LP_FT])
Command = Callable[..., Outcome]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`lwexp.report` in an empty folder, without pictures, which take most of the time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(files, "DRAWINGS", {})
    monkeypatch.setattr(pictures, "DPI", 40)

    return report_here(capsys)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_text_for_a_terminal_is_the_golden_one(
    command: Command, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    write_study(tmp_path / "study.csv", ROWS)
    outcome = command("study.csv")
    assert outcome.code == 0, outcome.err
    text = "\n".join(outcome.out.splitlines()[:-1]) + "\n"  # the last line names the folder
    assert max(map(len, text.splitlines())) <= 100
    golden = GOLDEN / "study_report.txt"
    if request.config.getoption("--rewrite-golden"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_another_arm_can_be_the_reference_and_then_all_is_exploratory(command: Command, tmp_path: Path) -> None:
    write_study(tmp_path / "study.csv", ROWS)
    planned = command("study.csv", "-o", "planned", "--reference", "uniform")
    assert planned.out.replace("planned", "") == command("study.csv", "-o", "plain").out.replace("plain", "")
    outcome = command("study.csv", "--reference", "depth", "-o", "other")
    assert outcome.code == 0, outcome.err
    assert "Planned was uniform as reference; with another one all comparisons are exploratory." in outcome.out
    one = {row["arm"]: row for row in rows_of(tmp_path / "planned" / "study_arms.csv")}
    other = {row["arm"]: row for row in rows_of(tmp_path / "other" / "study_arms.csv")}
    assert {arm: row["role"] for arm, row in other.items() if row["role"]} == {"depth": "reference"}
    assert float(other["uniform"]["difference_mean"]) == -float(one["depth"]["difference_mean"])
    assert other["uniform"]["difference_compared"] == str(len(other) - 1)


def test_a_folder_of_a_study_is_reported_on_and_everything_is_written(command: Command, tmp_path: Path) -> None:
    write_study(tmp_path / "sweeps" / "first" / "study.csv", study_rows([UNIFORM, DEPTH, HEAD], every_setting=True))
    outcome = command("sweeps/first")
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "outputs" / "reports" / "study_first"
    assert outcome.out.endswith("report: outputs/reports/study_first/study_report.md\n")
    assert {path.name for path in folder.iterdir()} == {"study_report.md", "study_arms.csv", "study_settings.csv"}
    arms = {row["arm"]: row for row in rows_of(folder / "study_arms.csv")}
    assert list(arms) == ["uniform", "depth", "head_only"]
    depth = arms["depth"]
    assert (depth["role"], depth["setting"], depth["lr"], depth["search_runs"]) == (
        "primary",
        "mult=0.7",
        "0.003",
        "18",
    )
    assert (depth["verdict"], depth["difference_n"], depth["difference_p_adjusted"]) == ("better", "8", "0.0078125")
    assert float(depth["difference_mean"]) == pytest.approx(0.1, abs=0.01)
    assert float(arms["head_only"]["relative_time"]) == pytest.approx(0.4, abs=0.01)
    settings = rows_of(folder / "study_settings.csv")
    assert [row["setting"] for row in settings if row["arm"] == "depth"] == ["mult=0.5", "mult=0.7", "mult=0.85"]
    assert all(row["test_n"] == "8" for row in settings)
    # all that the text says is in the Markdown file, which has the table of the CSV
    words = (folder / "study_report.md").read_text(encoding="utf-8")
    assert "| depth mult=0.7 |" in words
    assert "is better than uniform" in words


def test_several_studies_have_an_overview_and_each_its_sentence(command: Command, tmp_path: Path) -> None:
    first, second = study_rows([UNIFORM, DEPTH], study="b_400"), study_rows([UNIFORM, HEAD], study="a_100")
    write_study(tmp_path / "both.csv", [*first, *second])
    write_study(tmp_path / "more" / "study.csv", study_rows([UNIFORM, DEPTH], 3, study="quick"))
    outcome = command("both.csv", "more", "-o", "out")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == "3 studies"
    assert [line.split()[0] for line in lines[4:7]] == ["a_100", "b_400", "quick"]  # by file, then by name
    text = " ".join(outcome.out.split())
    assert "b_400: depth (mult=0.7, lr=0.003) is better than uniform" in text
    assert "a_100: uniform (lr=0.001) is better than head_only" in text
    assert "quick: depth (mult=0.7, lr=0.003) leads uniform" in text
    assert max(map(len, lines)) <= 100
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "study_report.md", "study_arms.csv", "study_settings.csv", "overview.png", "overview_arms.png",
        "overview_multiplier.png",
    }  # fmt: skip
    assert {row["study"] for row in rows_of(tmp_path / "out" / "study_arms.csv")} == {"a_100", "b_400", "quick"}


def test_a_study_in_several_files_is_one_and_joined_files_may_repeat_their_titles(tmp_path: Path) -> None:
    whole = write_study(tmp_path / "whole.csv", ROWS)
    parts = [write_study(tmp_path / f"{k}.csv", ROWS[k::2]) for k in (0, 1)]
    joined = tmp_path / "joined.csv"
    joined.write_text("".join(path.read_text(encoding="utf-8") for path in (*parts, parts[0])), encoding="utf-8")
    texts = {report_study(paths, tmp_path / "out") for paths in ([whole], parts, [joined], [whole, *parts])}
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        pytest.param([], "study=study.csv: holds no run yet", id="no rows"),
        pytest.param(changed(ROWS, {"lr": "fast"}, arm="depth"), "lr is 'fast', but must be a number", id="number"),
        pytest.param(changed(ROWS, {"lr": 0}, arm="depth"), "lr is '0', but must be above 0", id="lr"),
        pytest.param(changed(ROWS, {"status": "done"}, arm="depth"), "status is 'done'", id="status"),
        pytest.param(changed(ROWS, {"phase": "repeat"}, arm="depth"), "line 16: phase is 'repeat'", id="phase"),
        pytest.param(changed(ROWS, {"chosen": ""}, phase="final"), "chosen must be given in final runs", id="chosen"),
        pytest.param(changed(ROWS, {"arm": ""}, arm="depth"), "line 16 has no arm", id="arm"),
        pytest.param(changed(ROWS, {"study": ""}, arm="depth"), "has no study", id="name"),
        pytest.param(changed(ROWS, {"role": "reference"}, arm="depth"), "several reference arms: depth, uni", id="two"),
        pytest.param(changed(ROWS, {"role": ""}, arm="depth", seed=2), "the arm depth has several roles", id="roles"),
        pytest.param(changed(ROWS, {"mode": ""}, arm="depth"), "finished run must have metric and mode", id="mode"),
        pytest.param(changed(ROWS, {"metric": "loss"}, arm="depth"), "are measured differently", id="metric"),
        pytest.param(
            [*ROWS, *changed(ROWS, {"val": 0.5}, arm="depth", seed=2)],
            "a second result of depth mult=0.7 with lr=0.003 seed=2 differs from the first", id="conflict",
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_a_study_is_one_line(command: Command, tmp_path: Path, rows: list[Row], words: str) -> None:
    write_study(tmp_path / "study.csv", rows)
    outcome = command("study.csv")
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "is empty; a study is the study.csv that lwexp.study writes", id="empty"),
        pytest.param(b"a,b\n1,2\n", "has no column study, arm, setting and 10 more", id="another file"),
        pytest.param(f"{HEADER}\n{'x,' * 30}\n".encode(), "line 2 has more cells than titles", id="cells"),
        pytest.param(f"{HEADER},test\nx\n".encode(), "has several columns test", id="twice"),
        pytest.param(b"\xff\xfe\x00", "is not a CSV file", id="binary"),
    ],
)
def test_a_file_that_is_no_study_is_one_line(command: Command, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    outcome = command("x.csv")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert words in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("study.csv", "latest"),
            "study=latest: is no study, as study.csv is; report on studies and on runs separately",
        ),
        (("study.csv", "none.csv"), "study=none.csv: cannot be read: No such file or directory"),
        (("study.csv", "--metric", "loss"), "--metric=loss: is for runs in MLflow"),
        (("study.csv", "--reference", "depht"), "--reference=depht: "),
        (("runs", "--reference", "depth"), "--reference=depth: is for studies"),
        (("study.csv", "--experiment", "a"), "tracking.experiment=a: is for runs in MLflow"),
        (("study.csv", "-o", "study.csv"), "--out=study.csv: cannot be written"),
    ],
)
def test_what_does_not_go_with_a_study_is_one_line(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    write_study(tmp_path / "study.csv", ROWS)
    outcome = command(*arguments)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert words in outcome.err


def test_a_folder_without_a_study_is_reported_on_as_before(command: Command, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    shutil.copy(write_study(tmp_path / "study.csv", ROWS), tmp_path / "sweep" / "other.csv")
    outcome = command("sweep")
    assert "there are no runs here" in outcome.err  # in the store of MLflow


def test_runs_that_failed_early_need_no_metric_but_some_run_must_finish(command: Command, tmp_path: Path) -> None:
    early = {"status": "failed", "val": "", "test": "", "metric": "", "mode": ""}
    write_study(tmp_path / "study.csv", changed(ROWS, early, arm="lp_ft"))
    assert command("study.csv").code == 0
    write_study(tmp_path / "study.csv", changed(ROWS, early))
    outcome = command("study.csv")
    assert (outcome.code, outcome.err) == (1, "lwexp-report: the study quick has no finished run to report on\n")


def test_confidence_is_that_of_intervals_and_claims(command: Command, tmp_path: Path) -> None:
    write_study(tmp_path / "study.csv", ROWS)
    outcome = command("study.csv", "--confidence", "0.995")
    assert "99.5 % interval" in " ".join(outcome.out.split())
    assert "but nothing can be claimed from 8 seeds: it takes 9." in " ".join(outcome.out.split())
