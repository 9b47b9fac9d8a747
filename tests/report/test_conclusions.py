"""What a report concludes from runs, without a store: `tests/test_report.py` has the way there and back."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from lwexp.report.analysis import Analysis, analyze
from lwexp.report.conclusions import conclusions, main_sentence, progress
from lwexp.report.tables import terminal_table
from tests.helpers.report_sweeps import Job, as_sweep, seeds

UNIFORM = [0.90, 0.93, 0.91, 0.88, 0.92, 0.90]
BETTER = [0.92, 0.94, 0.93, 0.91, 0.93, 0.92]


def concluded(jobs: list[Job]) -> tuple[Analysis, str]:
    found = analyze(as_sweep(jobs))
    return found, "\n".join([progress(found), *conclusions(found)])


def untested(jobs: list[Job]) -> list[Job]:
    return [replace(job, test=math.nan) for job in jobs]


def test_three_seeds_can_claim_nothing_and_the_report_says_what_would() -> None:
    _, text = concluded(
        [*seeds(UNIFORM[:3], True, mult="1"), *seeds(BETTER[:3], mult="0.9"), *seeds([0.9] * 3, mult="0.8")]
    )
    assert (
        "mult=0.9 leads uniform rates by 1.67 points in test accuracy (95 % interval +0.23 to +3.10, 3 seeds, p = 0.25 "
        "corrected for 2 comparisons), but nothing can be claimed from 3 seeds: it takes 6." in text
    )
    assert "With 3 seeds the exact test cannot fall below p = 0.25" in text
    assert re.search(r"about \d+ seeds would find it with 80 % chance", text)


@pytest.mark.parametrize(("jobs", "said"), [
    ([*seeds([0.9], True, mult="1.0"), *seeds([0.92], mult="0.9")],
     "mult=0.9 leads uniform rates by 2.00 points in test accuracy (1 seed), but nothing can be claimed from 1 seed: "
     "it takes 6."),
    (seeds(BETTER, mult="0.9"),
     "mult=0.9 was run, with accuracy 92.50 % on validation and 92.50 % on test, but no run has uniform rates: nothing "
     "can be claimed of layer-wise rates (sweep.baseline=true adds a uniform run for each seed)."),
    (seeds(UNIFORM, True, lr="0.1"),
     "Only uniform rates were run, with accuracy 90.67 % on validation and 90.67 % on test: there is nothing to "
     "compare them with."),
    ([*seeds(UNIFORM, True, mult="1"), *seeds(UNIFORM, mult="0.9")],
     "mult=0.9 and uniform rates have the same test accuracy (6 seeds, p = 1), but no difference can be claimed."),
    ([*seeds(UNIFORM, True, lr="1"), *seeds(BETTER, mult="0.9", lr="2")],
     "Nothing can be claimed: mult=0.9 lr=2 and uniform rates differ in lr as well. It takes a uniform run with the "
     "same values (sweep.baseline=true adds one for each seed)."),
    ([*seeds([math.nan] * 3, True, mult="1.0"), *seeds([0.9] * 3, mult="0.9")],
     "Nothing can be claimed: no run with uniform rates has a finite metric; mult=0.9 has accuracy 90.00 % on "
     "validation and 90.00 % on test."),
    ([*seeds([0.9, 0.8, math.nan], True, mult="1"), *untested(seeds([0.9] * 2, mult="0.9")),
      *seeds([math.nan] * 2 + [0.8], mult="0.9")],
     "Nothing can be claimed: mult=0.9 and uniform rates share no seed with a metric on test."),
], ids=["one seed", "no uniform", "uniform alone", "no difference", "other base", "no metric", "no test"])  # fmt: skip
def test_where_nothing_can_be_claimed_the_first_sentence_says_why(jobs: list[Job], said: str) -> None:
    assert main_sentence(analyze(as_sweep(jobs))) == said


def test_the_first_sentence_says_that_uniform_rates_lead_or_are_better() -> None:
    worse = [value - 0.05 for value in UNIFORM]
    found, _ = concluded([*seeds(UNIFORM, True, mult="1"), *seeds(worse, mult="0.9"), *seeds([0.7] * 6, mult="0.5")])
    assert main_sentence(found) == (
        "Uniform rates are better than mult=0.9, the best layer-wise setting, by 5.00 points in test accuracy "
        "(6 seeds, p = 0.0312 corrected for 2 comparisons)."
    )
    found, _ = concluded([*seeds(UNIFORM[:2], True, mult="1"), *seeds([0.89, 0.9], mult="0.9")])
    assert main_sentence(found).startswith(
        "Uniform rates lead mult=0.9 by 2.00 points in test accuracy (95 % interval -"
    )
    assert main_sentence(found).endswith("2 seeds, p = 0.5), but nothing can be claimed from 2 seeds: it takes 6.")
    noise = [0.9, 0.92, 0.92, 0.87, 0.92, 0.9]
    found, _ = concluded([*seeds(UNIFORM, True, mult="1"), *seeds(noise, mult="0.9")])
    assert main_sentence(found).startswith(
        "Uniform rates lead mult=0.9 by 0.17 points in test accuracy (95 % interval "
    )
    assert main_sentence(found).endswith("), but no difference can be claimed.")


def test_only_what_was_done_is_said() -> None:
    """No base rate was swept: none is said to be the best. What was chosen with the rates is named."""
    tail = {"policy": "none"}
    jobs = [*seeds(UNIFORM, True, mult="1", policy="cosine"), *seeds(BETTER, mult="0.9", policy="cosine")]
    _, text = concluded([*jobs, *seeds([0.8] * 6, True, mult="1", **tail), *seeds([0.7] * 6, mult="0.9", **tail)])
    assert "base rate" not in text
    assert "Chosen on validation, policy chosen for both of 2 layer-wise settings and 2 uniform: " in text
    _, text = concluded([*seeds(UNIFORM, True, mult="1"), *seeds(BETTER, mult="0.9")])
    assert "hosen" not in text
    assert "The best of several" not in text


def test_a_worse_setting_is_reported_as_such() -> None:
    worse = [value - 0.05 for value in UNIFORM]
    _, text = concluded([*seeds(UNIFORM, True, mult="1"), *seeds(BETTER, mult="0.9"), *seeds(worse, mult="0.5")])
    assert "mult=0.9 is better than uniform rates by 1.83 points in test accuracy" in text
    assert "Worse than uniform rates on test: mult=0.5 (-5.00)." in text


def test_a_job_that_failed_and_was_done_again_counts_once() -> None:
    jobs = [*seeds(UNIFORM, True, mult="1.0"), *seeds(BETTER, mult="0.9")]
    _, text = concluded([Job(jobs[6].point, status="FAILED"), *jobs])
    assert "12 of 13 runs compared, 1 failed, repeated since" in text
    assert "favors" not in text
    assert "6 seeds, p = 0.0312)" in text


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
    assert main_sentence(found).startswith(
        "mult=0.9 lr=0.1 is better than uniform lr=0.01 by 1.83 points in test accuracy"
    )
    assert main_sentence(found).endswith("corrected for 4 comparisons).")
    assert "Chosen on validation, lr chosen for both of 2 layer-wise settings and 2 uniform: mult=0.9 lr=0.1 " in text
    assert "At the same lr: mult=0.9 lr=0.1 is better than uniform lr=0.1 by 6.83 points" in text
    assert found.best_difference is not None
    assert found.best_difference.p_adjusted == 0.03125


def test_a_setting_with_few_seeds_is_not_chosen_for_its_luck() -> None:
    found, text = concluded([*seeds(UNIFORM, True, mult="1"), *seeds(BETTER, mult="0.9"), *seeds([0.99], mult="0.7")])
    assert found.best is not None
    assert found.best.label == "mult=0.9"
    assert "1 setting with less than half of the seeds of others could not be chosen" in text
    assert terminal_table(found, 80, 40).splitlines()[-1].startswith("mult=0.7 ")


def test_the_order_of_the_runs_changes_no_word() -> None:
    jobs = [*seeds(UNIFORM, True, mult="1"), *seeds(BETTER, mult="0.9"), *seeds(UNIFORM[::-1], mult="0.8")]
    assert concluded(jobs)[1] == concluded(jobs[::-1])[1]
