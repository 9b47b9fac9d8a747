"""The pictures of a study are readable and show what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lwexp.report.studies import report_study
from lwexp.report.studies.across import draw_arms_across, draw_multiplier_across
from lwexp.report.studies.analysis import StudyAnalysis, analyze_study
from lwexp.report.studies.figures import draw_arms, draw_multiplier
from lwexp.report.studies.overview import draw_overview
from lwexp.report.studies.rate_figures import draw_curves, draw_rates
from lwexp.report.studies.reading import read_studies
from lwexp.report.studies.tables import across_table
from tests.helpers.study_results import RATES, Planted, Row, study_rows, write_study
from tests.report.test_figures import assert_readable
from tests.report.test_studies import HEAD, UNIFORM, changed

MULTS = {f"mult={mult}": loss for mult, loss in ((0.5, 0.06), (0.6, 0.02), (0.7, 0.0), (0.85, 0.01), (1.1, 0.2))}
FINE = tuple(float(f"{rate:.3g}") for rate in np.geomspace(RATES[0], RATES[-1], 16))
REFERENCE = Planted("uniform", 0.62, role="reference", rates=FINE)
DEPTH = Planted("depth", 0.72, wide=1.5, role="primary", settings=MULTS)
BOTH = {f"grouping={grouping} mult={mult}": 0.01 for grouping in ("depth_index", "top_module") for mult in (0.7, 0.9)}


def analyzed(tmp_path: Path, rows: list[Row]) -> StudyAnalysis:
    (study,) = read_studies([write_study(tmp_path / "study.csv", rows)])
    return analyze_study(study)


def assert_titled(figure: Figure) -> None:
    """The title is within the picture, and no label covers another."""
    assert_readable(figure)
    box = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]
    assert box.x1 <= figure.get_size_inches()[0] * figure.dpi


def texts(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels() if label.get_text()]


@pytest.mark.parametrize("others", [0, 3, 45])
def test_pictures_of_few_and_many_arms_are_readable(tmp_path: Path, others: int) -> None:
    draw = np.random.default_rng(0)
    many = [
        Planted(f"recipe_with_a_long_name_{k}", draw.uniform(0.4, 0.7), draw.uniform(1e-3, 1e-2)) for k in range(others)
    ]
    found = analyzed(tmp_path, study_rows([REFERENCE, DEPTH, *many], every_setting=True))
    figures = {draw: draw(found) for draw in (draw_arms, draw_multiplier, draw_rates, draw_curves)}
    assert [draw for draw, figure in figures.items() if figure is None] == ([] if others else [draw_curves])
    for figure in figures.values():
        if figure is not None:
            assert_titled(figure)
            figure.savefig(tmp_path / "x.png", dpi=30)


@pytest.mark.parametrize("level", [0.49, 0.62, 0.83])
def test_no_label_of_a_picture_with_one_panel_or_a_long_metric_is_cut(tmp_path: Path, level: float) -> None:
    rows = study_rows([Planted("uniform", level, role="reference"), Planted("head_only", level + 0.1)])
    found = analyzed(tmp_path, [row | {"metric": "mean_squared_log_error"} for row in rows])
    for draw in (draw_curves, draw_arms):
        figure = draw(found)
        assert figure is not None
        figure.savefig(tmp_path / "x.png")  # ticks may be others after the layout than before
        assert_titled(figure)
        assert all(label.get_window_extent().x0 >= 0 for axes in figure.axes for label in axes.get_yticklabels())


def test_primary_arms_are_on_top_each_at_its_difference(tmp_path: Path) -> None:
    found = analyzed(tmp_path, study_rows([REFERENCE, DEPTH, HEAD, Planted("ulmfit", 0.9)]))
    figure = draw_arms(found)
    assert figure is not None
    (axes,) = figure.axes
    assert texts(axes) == ["uniform", "primary", "depth mult=0.7", "exploratory", "ulmfit", "head_only"]
    means = {
        float(line.get_ydata()[0]): float(line.get_xdata()[0])
        for line in axes.lines
        if line.get_markeredgewidth() == 0.8
    }
    for place, arm in ((2, found.primary[0]), (4, found.others[0]), (5, found.others[1])):
        assert arm.difference is not None
        assert means[place] == pytest.approx(100 * arm.difference.mean)


def test_the_multiplier_has_the_reference_at_1_and_needs_final_runs_of_all_for_test(tmp_path: Path) -> None:
    rows = study_rows([REFERENCE, DEPTH], every_setting=True)
    figure = draw_multiplier(analyzed(tmp_path, rows))
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_ylabel() == "test accuracy, %"
    curve = max(axes.lines, key=lambda line: len(line.get_xdata()))
    assert list(curve.get_xdata()) == [0.5, 0.6, 0.7, 0.85, 1.1], "an arm may differ from the reference in more"
    values = [row["test"] for row in rows if row["arm"] == "uniform" and row["phase"] == "final"]
    (reference,) = [line for line in axes.lines if list(line.get_xdata()) == [1.0] and line.get_marker() == "D"]
    assert reference.get_ydata()[0] == pytest.approx(100 * np.mean(values))  # type: ignore[arg-type]
    figure = draw_multiplier(analyzed(tmp_path, study_rows([REFERENCE, DEPTH])))
    assert figure is not None
    assert figure.axes[0].get_ylabel() == "validation accuracy, %"


def test_groupings_have_panels_of_their_own_and_every_rate_is_a_cell(tmp_path: Path) -> None:
    rows = study_rows([REFERENCE, Planted("depth", 0.7, settings=BOTH), HEAD])
    rows = changed(rows, {"status": "failed", "val": ""}, setting="grouping=top_module mult=0.9", lr=RATES[-1])
    figure = draw_rates(analyzed(tmp_path, rows))
    assert figure is not None
    first, second, _ = figure.axes
    assert [axes.get_title() for axes in (first, second)] == ["depth grouping=depth_index", "depth grouping=top_module"]
    assert texts(first) == ["uniform, 1", "0.9", "0.7"]
    for axes in (first, second):
        cells = {(cell.xy[1], cell.xy[0]) for cell in axes.patches if isinstance(cell, Rectangle)}
        assert len(cells) == len(FINE) + 2 * len(RATES)
    assert [text.get_text() for text in second.texts].count("\u00d7") == 1
    assert [text.get_text() for text in first.texts].count("\u00d7") == 0


def test_an_overview_has_gains_also_of_metrics_that_are_not_shares(tmp_path: Path) -> None:
    better, worse = Planted("depth", 0.6, role="primary"), Planted("depth", 0.5, role="primary")
    studies = [
        analyzed(tmp_path, study_rows([UNIFORM, better], study="a")),
        analyzed(
            tmp_path,
            study_rows([Planted("uniform", 0.55, role="reference"), worse], study="b", metric="mae", mode="min"),
        ),
    ]
    figure = draw_overview(studies)
    assert figure is not None
    assert_titled(figure)
    left, right = figure.axes
    assert texts(left) == ["a\ndepth", "b\ndepth"]
    assert left.get_xlabel() == "gain, % of the reference"
    means = [float(line.get_xdata()[0]) for line in left.lines if line.get_markeredgewidth() == 0.8]
    expected = [(0.60 - 0.62) / 0.62, (0.45 - 0.5) / 0.45]  # an error of 0.5 in place of 0.45 is a loss
    assert means == pytest.approx([100 * gain for gain in expected], abs=0.6)
    assert any("\u00d7" in text.get_text() for text in right.texts)
    assert draw_overview(studies[:1]) is None


def test_across_studies_every_arm_and_multiplier_has_its_gain(tmp_path: Path) -> None:
    poor = Planted("depth", 0.55, role="primary", settings=MULTS)
    lines = {
        "helps": [REFERENCE, DEPTH, HEAD],
        "harms": [REFERENCE, poor, HEAD],
        "alone": [REFERENCE, Planted("other", 0.6)],
    }
    studies = [
        analyzed(tmp_path, study_rows(arms, study=name, every_setting=name != "harms")) for name, arms in lines.items()
    ]
    table = across_table(studies)
    assert table.titles == ["arm", *lines]
    (depth,) = [row for row in table.rows if row[0] == "depth"]
    assert [text[:1] + text[-1:] for text in depth[1:]] == ["+\u25b2", "-\u25bc", ""]
    assert [row[0] for row in table.rows] == ["depth", "head_only"]  # what one study alone has is no comparison
    figure = draw_arms_across(studies)
    assert figure is not None
    assert_titled(figure)
    cells = {text.get_position(): (text.get_text(), text.get_fontweight()) for text in figure.axes[0].texts}
    assert cells[0, 0][1] == "bold"
    assert float(cells[0, 0][0]) == pytest.approx(
        100 * studies[0].differences(studies[0].primary[0].chosen).mean(), abs=0.06
    )
    assert len(cells) == 4
    figure = draw_multiplier_across(studies)
    assert figure is not None
    assert_titled(figure)
    (axes,) = figure.axes
    curves = [line for line in axes.lines if len(line.get_xdata()) == len(MULTS)]
    assert [line.get_linestyle() for line in curves] == ["-", "--"]  # the second has no final runs of all multipliers
    (reference,) = [line for line in axes.lines if line.get_marker() == "D"]
    assert (list(reference.get_xdata()), list(reference.get_ydata())) == ([1], [0])
    best = [setting for setting in studies[0].primary[0].settings if setting.name == "mult=0.6"]
    assert curves[0].get_ydata()[1] == pytest.approx(100 * studies[0].differences(best[0]).mean())
    assert draw_arms_across(studies[:1]) is None
    assert draw_multiplier_across(studies[:1]) is None


def test_pictures_of_an_earlier_report_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwexp.report.files.DPI", 30)
    out = tmp_path / "out"
    whole = write_study(tmp_path / "whole.csv", study_rows([REFERENCE, DEPTH, HEAD]))
    report_study([whole], out)
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures == {"arms.png", "multiplier.png", "rates.png", "curves.png"}
    words = (out / "study_report.md").read_text(encoding="utf-8")
    assert all(f"]({name})" in words for name in pictures)
    small = write_study(tmp_path / "small.csv", study_rows([REFERENCE, HEAD]))
    report_study([small], out)
    assert {path.name for path in out.glob("*.png")} == {"arms.png", "curves.png"}
    other = write_study(tmp_path / "other.csv", study_rows([REFERENCE, HEAD], study="../x y"))
    report_study([small, other], out)
    assert {str(path.relative_to(out)) for path in out.rglob("*.png")} == {
        "overview.png", "overview_arms.png",
        *(f"{folder}/{name}" for folder in ("quick", "_x_y") for name in ("arms.png", "curves.png")),
    }  # fmt: skip


def test_pictures_that_are_no_report_s_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwexp.report.files.DPI", 30)
    (tmp_path / "rates.png").write_text("mine", encoding="utf-8")
    report_study([write_study(tmp_path / "small.csv", study_rows([REFERENCE, HEAD]))], tmp_path)
    assert (tmp_path / "rates.png").read_text(encoding="utf-8") == "mine"
