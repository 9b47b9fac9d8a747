"""`lwexp.report study.csv`: what is read, concluded and written, on results with planted effects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lwexp.report.studies.analysis import StudyAnalysis, analyze_study
from lwexp.report.studies.reading import read_studies
from lwexp.report.studies.sentences import details, main_sentence
from tests.helpers.study_results import Planted, Row, study_rows, write_study

MULTS = {"mult=0.5": 0.05, "mult=0.7": 0.0, "mult=0.85": 0.02}
UNIFORM = Planted("uniform", 0.62, role="reference", wide=0.8)
DEPTH = Planted("depth", 0.72, at=3e-3, wide=1.6, role="primary", settings=MULTS)
HEAD = Planted("head_only", 0.55, seconds=40.0, peak_mb=400.0)
LP_FT = Planted("lp_ft", 0.7195, at=3e-3, wide=1.2)

Study = Callable[[list[Row]], StudyAnalysis]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """The analysis of rows, by way of a file."""

    def read(rows: list[Row]) -> StudyAnalysis:
        (only,) = read_studies([write_study(tmp_path / "study.csv", rows)])
        return analyze_study(only)

    return read


def finals(rows: list[Row], arm: str, key: str = "test") -> np.ndarray:
    return np.array([row[key] for row in rows if row["arm"] == arm and row["phase"] == "final"], dtype=float)


def test_a_planted_difference_is_found_with_its_sign_interval_and_exact_p(study: Study) -> None:
    rows = study_rows([UNIFORM, DEPTH, HEAD, LP_FT])
    found = study(rows)
    difference = finals(rows, "depth") - finals(rows, "uniform")
    low, high = stats.ttest_1samp(difference, 0).confidence_interval()
    assert main_sentence(found) == (
        f"depth (mult=0.7, lr=0.003) is better than uniform (lr=0.001) by {100 * difference.mean():.2f} points in test "
        f"accuracy (95 % interval {100 * low:+.2f} to {100 * high:+.2f}, 8 seeds, p = 0.00781)."
    )
    text = " ".join(details(found))
    assert "corrected for 2 comparisons with uniform: better lp_ft" in text
    assert "worse head_only (-" in text
    assert "1 of 2 arms without such a search come within the interval of depth mult=0.7" in text


def test_without_an_effect_nothing_is_claimed(study: Study) -> None:
    same = [Planted(name, 0.6, role=role) for name, role in (("uniform", "reference"), ("a", "primary"), ("b", ""))]
    claims = 0
    for number in range(40):
        found = study(study_rows(same, noise=0.02, random=number))
        claims += any(found.outcome(arm.difference) != 0 for arm in found.primary)
    assert claims <= 5  # at most 5 % of studies; more than 5 of 40 have a chance of 1 %
    text = main_sentence(study(study_rows(same, noise=0.02, random=1)))
    assert text.endswith("but no difference can be claimed.")
