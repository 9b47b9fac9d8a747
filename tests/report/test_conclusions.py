"""What a report concludes from runs, without a store: `tests/test_report.py` has the way there and back."""

from __future__ import annotations

import math
import re

import pytest

from lwexp.report.analysis import Analysis, analyze
from lwexp.report.conclusions import conclusions, progress
from lwexp.report.tables import settings_table
from tests.helpers.report_sweeps import Job, as_sweep, seeds

UNIFORM = [0.90, 0.93, 0.91, 0.88, 0.92, 0.90]
BETTER = [0.92, 0.94, 0.93, 0.91, 0.93, 0.92]


def concluded(jobs: list[Job]) -> tuple[Analysis, str]:
    found = analyze(as_sweep(jobs))
    return found, "\n".join([progress(found), *conclusions(found)])


def test_three_seeds_can_claim_nothing_and_the_report_says_what_would() -> None:
    _, text = concluded(
        [*seeds(UNIFORM[:3], True, mult="1"), *seeds(BETTER[:3], mult="0.9"), *seeds([0.9] * 3, mult="0.8")]
    )
    assert "No difference to uniform can be claimed: +1.67 points on test" in text
    assert "corrected for 2 comparisons" in text
    assert "With 3 seeds the exact test cannot fall below p = 0.25" in text
    assert "at least 6 seeds" in text
    assert re.search(r"about \d+ seeds would find it with 80 % chance", text)


@pytest.mark.parametrize(("jobs", "said"), [
    ([*seeds([0.9], True, mult="1.0"), *seeds([0.92], mult="0.9")], "with one seed (+2.00 on test against uniform)"),
    (seeds(BETTER, mult="0.9"), "there is no uniform run to compare with (sweep.baseline=true"),
    (seeds(UNIFORM, True, lr="0.1"), "the sweep has no layer-wise run to compare"),
    ([*seeds(UNIFORM, True, mult="1"), *seeds(UNIFORM, mult="0.9")], "No difference to uniform can be claimed: +0.00"),
    ([*seeds(UNIFORM, True, lr="1"), *seeds(BETTER, mult="0.9", lr="2")], "there is no uniform run to compare with"),
    ([*seeds([math.nan] * 3, True, mult="1.0"), *seeds([0.9] * 3, mult="0.9")], "share no seed with a test metric"),
], ids=["one seed", "no uniform", "uniform alone", "no difference", "other base", "no test"])  # fmt: skip
def test_where_nothing_can_be_claimed_the_reason_is_given(jobs: list[Job], said: str) -> None:
    _, text = concluded(jobs)
    assert "No difference" in text
    assert said in text


def test_a_worse_setting_is_reported_as_such() -> None:
    worse = [value - 0.05 for value in UNIFORM]
    _, text = concluded([*seeds(UNIFORM, True, mult="1"), *seeds(BETTER, mult="0.9"), *seeds(worse, mult="0.5")])
    assert "It is better than uniform" in text
    assert "Also worse than uniform rates on test: mult=0.5 (-5.00)." in text


def test_a_job_that_failed_and_was_done_again_counts_once() -> None:
    jobs = [*seeds(UNIFORM, True, mult="1.0"), *seeds(BETTER, mult="0.9")]
    _, text = concluded([Job(jobs[6].point, status="FAILED"), *jobs])
    assert "12 of 13 runs compared, 1 failed, repeated since" in text
    assert "favors" not in text
    assert "exact test p = 0.0312" in text


def test_twins_are_found_whatever_makes_rates_uniform_and_however_numbers_are_typed() -> None:
    found, text = concluded([
        *seeds(UNIFORM, True, mult="1.0", grouping="top_module", lr="1e-3"),
        *seeds(UNIFORM, True, mult="1.0", grouping="depth_index", lr="1e-3"),
        *seeds(BETTER, mult="0.9", grouping="top_module", lr="0.001"),
        *seeds(UNIFORM[::-1], mult="0.9", grouping="depth_index", lr="0.0010"),
    ])  # fmt: skip
    assert "18 of 24 runs compared, 6 redundant" in text
    assert [setting.label for setting in found.uniform] == ["uniform lr=1e-3"]
    assert [setting.test_difference and setting.test_difference.n for setting in found.settings] == [None, 6, 6]


def test_with_several_base_rates_the_best_of_both_arms_are_compared() -> None:
    lower = [value - 0.05 for value in UNIFORM]
    found, text = concluded([
        *seeds(lower, True, mult="1.0", lr="0.1"), *seeds(UNIFORM, True, mult="1.0", lr="0.01"),
        *seeds(BETTER, mult="0.9", lr="0.1"), *seeds(lower, mult="0.9", lr="0.01"),
    ])  # fmt: skip
    assert "It is better than uniform lr=0.1: +6.83 points" in text
    assert "With the base rate tuned for both arms (2 layer-wise settings and 2 uniform ones were tried)" in text
    assert "mult=0.9 lr=0.1 differs from uniform lr=0.01, the best uniform setting on validation, by +1.83" in text
    assert "corrected for 4 comparisons" in text
    assert found.best_difference is not None
    assert found.best_difference.p_adjusted == 0.03125


def test_a_setting_with_few_seeds_is_not_chosen_for_its_luck() -> None:
    found, text = concluded([*seeds(UNIFORM, True, mult="1"), *seeds(BETTER, mult="0.9"), *seeds([0.99], mult="0.7")])
    assert found.best is not None
    assert found.best.label == "mult=0.9"
    assert "1 setting with less than half of the seeds of others could not be chosen" in text
    assert settings_table(found, short=True).rows[-1][0] == "mult=0.7"


def test_the_order_of_the_runs_changes_no_word() -> None:
    jobs = [*seeds(UNIFORM, True, mult="1"), *seeds(BETTER, mult="0.9"), *seeds(UNIFORM[::-1], mult="0.8")]
    assert concluded(jobs)[1] == concluded(jobs[::-1])[1]
