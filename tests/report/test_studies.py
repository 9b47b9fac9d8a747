# ruff: noqa: RUF001 (factors are written with a multiplication sign)
"""What `lwexp.report` concludes from the results of a study, with planted effects."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lwexp.report.statistics import Floats, detectable, sign_flip, t_power
from lwexp.report.studies.analysis import StudyAnalysis, analyze_study
from lwexp.report.studies.rates import Range, good_range, threshold
from lwexp.report.studies.reading import read_studies
from lwexp.report.studies.report import study_text
from lwexp.report.studies.sentences import cautions, details, main_sentence
from lwexp.report.studies.tables import arms_csv, settings_csv
from tests.helpers.study_results import RATES, Planted, Row, study_rows, write_study

MULTS = {"mult=0.5": 0.05, "mult=0.7": 0.0, "mult=0.85": 0.02}
UNIFORM = Planted("uniform", 0.62, role="reference", wide=0.8)
DEPTH = Planted("depth", 0.72, at=3e-3, wide=1.6, role="primary", settings=MULTS)
HEAD = Planted("head_only", 0.55, seconds=40.0, peak_mb=400.0)
LP_FT = Planted("lp_ft", 0.7195, at=3e-3, wide=1.2, seconds=130.0)

Study = Callable[[list[Row]], StudyAnalysis]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """The analysis of rows, by way of a file."""

    def read(rows: list[Row]) -> StudyAnalysis:
        (only,) = read_studies([write_study(tmp_path / "study.csv", rows)])
        return analyze_study(only)

    return read


def finals(rows: list[Row], arm: str) -> Floats:
    return np.array([row["test"] for row in rows if row["arm"] == arm and row["phase"] == "final"], dtype=float)


def changed(rows: list[Row], change: dict[str, object], **where: object) -> list[Row]:
    """`rows`, with `change` in those that have the values of `where`."""
    return [row | change if where.items() <= row.items() else row for row in rows]


def all_text(found: StudyAnalysis) -> str:
    return " ".join([main_sentence(found), *details(found)])


def test_a_planted_difference_is_found_with_its_sign_interval_and_exact_p(study: Study) -> None:
    rows = study_rows([UNIFORM, DEPTH, HEAD, LP_FT])
    found = study(rows)
    difference = finals(rows, "depth") - finals(rows, "uniform")
    low, high = stats.ttest_1samp(difference, 0).confidence_interval()
    assert main_sentence(found) == (
        f"depth (mult=0.7, lr=0.003) is better than uniform (lr=0.001) by {100 * difference.mean():.2f} points in test "
        f"accuracy (95 % interval {100 * low:+.2f} to {100 * high:+.2f}, 8 seeds, p = 0.00781)."
    )
    text = all_text(found)
    assert "Exploratory, corrected for 2 comparisons with uniform: better lp_ft (+" in text
    assert "worse head_only (-" in text
    assert "1 of 2 arms without such a search comes within the interval of depth mult=0.7" in text
    assert "less head_only (×0.40); more lp_ft (×1.30)" in text
    assert "Cost in memory, uniform 800 MB a run: less head_only (×0.50)." in text


def test_without_an_effect_nothing_is_claimed(study: Study) -> None:
    same = [Planted(name, 0.6, role=role) for name, role in (("uniform", "reference"), ("a", "primary"), ("b", ""))]
    claims = 0
    for number in range(40):
        found = study(study_rows(same, noise=0.02, random=number))
        claims += any(found.outcome(arm.difference) != 0 for arm in found.primary)
    assert claims <= 5  # at most 5 % of studies; more than 5 of 40 have a chance of 1 %
    assert main_sentence(study(study_rows(same, noise=0.02, random=1))).endswith("but no difference can be claimed.")


def test_a_study_in_which_uniform_rates_are_best_says_so(study: Study) -> None:
    worse = Planted("depth", 0.5, role="primary")
    found = study(study_rows([UNIFORM, worse]))
    assert main_sentence(found).startswith("uniform (lr=0.001) is better than depth (lr=0.001) by 1")


def test_primary_arms_are_corrected_among_themselves_and_all_others_among_themselves(study: Study) -> None:
    primary = [Planted(f"p{k}", 0.621 + k / 1000, role="primary") for k in range(3)]
    others = [Planted(f"o{k}", 0.621 + k / 1000) for k in range(12)]
    rows = study_rows([UNIFORM, *primary, *others], noise=0.006)
    found = study(rows)
    for family, arms in ((found.primary, primary), (found.others, others)):
        differences = np.array([finals(rows, arm.name) - finals(rows, "uniform") for arm in arms]).T
        _, corrected = sign_flip(differences)
        expected = dict(zip((arm.name for arm in arms), corrected, strict=True))
        assert len(family) == len(arms)
        for arm in family:
            assert arm.difference is not None
            assert arm.difference.p_adjusted == expected[arm.name]
            assert arm.difference.compared == len(arms)


def test_the_order_of_rows_changes_nothing(study: Study) -> None:
    rows = study_rows([UNIFORM, DEPTH, HEAD, LP_FT], every_setting=True)
    rows = changed(rows, {"status": "failed", "val": "", "test": ""}, arm="lp_ft", seed=3)
    rows += changed(rows[:1], {"status": "failed", "val": "", "test": ""})  # the same run, repeated since
    texts = set()
    for number in range(5):
        random.Random(number).shuffle(rows)
        found = study(rows)
        texts.add((study_text([found]), arms_csv([found]), settings_csv([found])))
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("values", "least", "lower", "expected"),
    [
        pytest.param([0.5, 0.8, 0.8, 0.7], 0.75, False, Range(10 ** (-4 + 5 / 6), 10**-1.5), id="interpolated"),
        pytest.param([0.8, 0.8, 0.6, 0.6], 0.7, False, Range(1e-4, 10**-2.5, (True, False)), id="cut below"),
        pytest.param([0.8, 0.8, 0.8, 0.8], 0.8, False, Range(1e-4, 1e-1, (True, True)), id="all"),
        pytest.param([0.5, 0.8, math.nan, 0.9], 0.8, False, Range(1e-3, 1e-3), id="a failure ends the range"),
        pytest.param([math.nan, 0.8, 0.8, math.nan], 0.7, False, Range(1e-3, 1e-2), id="failures are no edge"),
        pytest.param([0.9, 0.1, 0.8, 0.7], 0.7, False, Range(10 ** (-3 + 6 / 7), 1e-1, (False, True)), id="widest"),
        pytest.param([1.0, 0.4, 0.4, 0.6], 0.5, True, Range(10 ** (-3 - 1 / 6), 10**-1.5), id="low values are good"),
        pytest.param([0.5, 0.5, 0.5, 0.5], 0.6, False, None, id="none"),
    ],
)
def test_the_range_of_good_rates_is_that_of_a_calculation_by_hand(
    values: list[float], least: float, lower: bool, expected: Range | None
) -> None:
    found = good_range([1e-4, 1e-3, 1e-2, 1e-1], values, least, lower)
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.cut == expected.cut


def test_ranges_are_those_of_the_arm_and_of_the_best_of_all_arms(study: Study) -> None:
    wide = Planted("wide", 0.80, at=1e-3, wide=2.0, role="primary", rates=[10 ** (-5 + k / 10) for k in range(41)])
    narrow = Planted("uniform", 0.78, at=1e-3, wide=1.0, role="reference", rates=wide.rates)
    found = study(study_rows([narrow, wide]))
    best, reference = found.best, found.reference
    assert best is not None
    assert reference is not None
    # 95 % of the peak are reached `wide` decades apart; 0.76 of 0.78 where the parabola has lost 0.02 / 0.78 of it
    shares = [(best.chosen.own, 2.0), (best.chosen.common, 2.0), (reference.chosen.own, 1.0)]
    shares.append((reference.chosen.common, 1.0 * math.sqrt(0.02 / 0.78 / 0.05)))
    for measured, decades in shares:
        assert measured is not None
        assert math.log10(measured.factor) == pytest.approx(decades, abs=0.01)
        assert measured.cut == (False, False)
    assert "wide 0.0001 to 0.01 (×100)" in all_text(found)


@pytest.mark.parametrize(("best", "lower", "expected"), [(0.8, False, 0.76), (2.0, True, 2.1), (-1.0, False, -1.05)])
def test_close_to_the_best_is_on_its_worse_side(best: float, lower: bool, expected: float) -> None:
    assert threshold(best, lower) == pytest.approx(expected)


def test_low_values_of_an_error_are_better(study: Study) -> None:
    worse, better = Planted("uniform", 0.5, role="reference"), Planted("depth", 0.6, role="primary")
    found = study(study_rows([worse, better], metric="mae", mode="min", sd=0.001, noise=0.001))
    assert main_sentence(found).startswith("depth (lr=0.001) is better than uniform (lr=0.001) by 0.")
    part = found.primary[0].difference
    assert part is not None
    assert part.mean < 0 < found.gain(part)[0]
    assert "are within 5 % of the best validation mae of all arms" in all_text(found)


def test_the_detectable_difference_is_the_one_with_that_power(study: Study) -> None:
    for seeds in (6, 8, 20):
        size = detectable(0.01, seeds, 0.05)
        assert t_power(size / 0.01, np.array([seeds]), 0.05)[0] == pytest.approx(0.8)
    found = study(study_rows([UNIFORM, DEPTH]))
    (depth,) = found.primary
    assert depth.difference is not None
    assert depth.detectable == pytest.approx(detectable(depth.difference.sd, 8, 0.05))
    size = f"{100 * depth.detectable:.2f}"
    assert f"With 8 seeds a true difference of {size} points between primary arms and uniform would" in all_text(found)


def test_too_few_seeds_claim_nothing_and_have_no_power(study: Study) -> None:
    found = study(study_rows([UNIFORM, DEPTH], seeds=3))
    assert main_sentence(found).endswith("but nothing can be claimed from 3 seeds: it takes 6.")
    assert math.isnan(found.primary[0].detectable)
    assert "With 3 seeds the exact test cannot fall below p = 0.25" in all_text(found)


def test_failed_final_runs_are_excluded_and_reported(study: Study) -> None:
    rows = study_rows([UNIFORM, DEPTH])
    whole = study(rows)
    rows = changed(rows, {"status": "failed", "val": "", "test": ""}, arm="depth", seed=2, phase="final")
    rows = changed(rows, {"test": "nan"}, arm="uniform", seed=5, phase="final")
    found = study(rows)
    part = found.primary[0].difference
    assert part is not None
    assert part.n == 6
    assert part.mean == pytest.approx(np.delete(whole.differences(whole.primary[0].chosen), [1, 4]).mean())
    assert "Failed final runs are in no mean, which favors arms that fail: depth (1 of 8)." in list(cautions(found))


def test_a_reference_whose_final_runs_have_all_failed_is_named(study: Study) -> None:
    rows = changed(
        study_rows([UNIFORM, DEPTH]), {"status": "failed", "val": "", "test": ""}, arm="uniform", phase="final"
    )
    assert main_sentence(study(rows)) == "Nothing can be claimed: uniform has no final run that ended."


def test_of_several_studies_all_primary_arms_are_said(study: Study) -> None:
    found = study(study_rows([UNIFORM, DEPTH, Planted("worse", 0.5, role="primary")], 12))
    text = " ".join(study_text([found, found]).split())
    assert text.count("Of the primary arms also worse than uniform: worse (-1") == 2
    assert "p < 0.001" in text
    assert "1 arm," in " ".join(study_text([study(study_rows([UNIFORM]))]).split())


def test_a_search_alone_is_a_partial_report(study: Study) -> None:
    rows = [row for row in study_rows([UNIFORM, DEPTH]) if row["phase"] == "search"]
    found = study(rows)
    assert main_sentence(found).startswith("The search alone was run, so nothing can be claimed: on validation depth (")
    assert "difference" not in study_text([found])
    assert "Base rates that reach 95 % of the best validation accuracy" in all_text(found)


def test_without_a_reference_nothing_is_compared(study: Study) -> None:
    found = study(study_rows([Planted("a", 0.6), Planted("b", 0.7)]))
    assert main_sentence(found).startswith("Nothing can be compared: no arm has the role reference")
    alone = study(study_rows([UNIFORM]))
    assert main_sentence(alone) == "Only uniform was run: there is nothing to compare it with."


def test_arms_with_equal_values_are_no_difference(study: Study) -> None:
    same = [Planted("uniform", 0.6, role="reference"), Planted("depth", 0.6, role="primary")]
    found = study(study_rows(same, noise=0.0))
    assert main_sentence(found).startswith("depth (lr=0.001) and uniform (lr=0.001) have the same test accuracy")


def test_what_makes_the_comparison_unfair_is_said(study: Study) -> None:
    at_edge = Planted("edge", 0.7, at=RATES[-1])
    rows = changed(study_rows([UNIFORM, DEPTH, at_edge]), {"steps": 40}, arm="edge")
    text = " ".join(cautions(study(rows)))
    assert "edge of the rates tried, so a better one may lie beyond: edge (lr=0.03)." in text
    assert "uniform had fewer runs in its search (6) than other arms, which favors those: depth (18)." in text
    assert "Not trained for as many steps as uniform (94): edge (40)." in text


def test_without_test_values_validation_is_compared(study: Study) -> None:
    found = study(changed(study_rows([UNIFORM, DEPTH]), {"test": ""}))
    assert "points in validation accuracy" in main_sentence(found)
    assert any("No run has a test metric" in caution for caution in cautions(found))


def test_no_study_is_too_odd_to_report_on(study: Study) -> None:
    """Few arms and many, failures, missing values, ties, no reference: there is a report, and it does not say NaN."""
    for number in range(60):
        draw = random.Random(number)
        arms = [
            Planted(
                f"arm{k}", draw.uniform(0.3, 0.9), at=10 ** draw.uniform(-4, -2), role=draw.choice(["", "primary"]),
                settings=MULTS if draw.random() < 0.3 else {"": 0.0}, rates=RATES[: draw.randint(1, 6)],
                seconds=draw.choice([0.0, 50.0]),
            )
            for k in range(draw.randint(1, 5))
        ]  # fmt: skip
        arms[0].role = draw.choice(["reference", "reference", ""])
        rows = study_rows(arms, draw.choice([1, 2, 7]), noise=draw.choice([0, 0.01]), random=number)
        lost, kept = draw.choice([0, 0.3, 1]), draw.choice([1, 1, 0.4])
        rows = [
            row | ({"status": "failed", "val": "", "test": ""} if k and draw.random() < lost else {})
            for k, row in enumerate(rows)
            if not k or draw.random() < kept
        ]
        found = study(rows)
        text = study_text([found])
        assert not re.search(r"\bnan\b", text + arms_csv([found])), text
        assert main_sentence(found).endswith(".")
