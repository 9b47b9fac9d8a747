from __future__ import annotations

import itertools
import math
from random import Random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from lwexp.report import statistics
from lwexp.report.statistics import Floats, compare, fewest_seeds, lowest_p, seeds_needed, sign_flip, summarize, t_power
from tests.helpers.report_truth import Truth, simulate, skewed

# differences of accuracies on 360 images: many are equal, some are 0
COUNTS = st.integers(2, 7).flatmap(
    lambda seeds: st.integers(1, 4).flatmap(
        lambda settings: arrays(np.int64, (seeds, settings), elements=st.integers(-6, 6))
    )
)
LEVEL_AND_NOISE = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)  # of 1,000 sweeps


def by_hand(counts: np.ndarray) -> tuple[list[float], list[float]]:
    """Both p values from every sign pattern, in exact arithmetic: z² = (Σ ε d)² / Σ d² as fractions."""
    from fractions import Fraction

    def z2(signs: tuple[int, ...], k: int) -> Fraction:
        squares = sum(int(d) ** 2 for d in counts[:, k])
        return Fraction(sum(s * int(d) for s, d in zip(signs, counts[:, k], strict=True)) ** 2, squares or 1)

    patterns = list(itertools.product((1, -1), repeat=len(counts)))
    settings = range(counts.shape[1])
    observed = [z2(patterns[0], k) for k in settings]
    alone = [float(np.mean([z2(signs, k) >= observed[k] for signs in patterns])) for k in settings]
    corrected, left, before = [math.nan] * len(settings), sorted(settings, key=lambda k: -observed[k]), 0.0
    while left:
        share = float(np.mean([max(z2(signs, k) for k in left) >= observed[left[0]] for signs in patterns]))
        before = corrected[left[0]] = max(before, share)
        left = left[1:]
    return alone, corrected


@given(COUNTS)
def test_p_values_are_those_of_all_sign_patterns_in_exact_arithmetic(counts: np.ndarray) -> None:
    alone, corrected = sign_flip(counts / 360)
    expected_alone, expected_corrected = by_hand(counts)
    assert alone.tolist() == pytest.approx(expected_alone)
    assert corrected.tolist() == pytest.approx(expected_corrected)


@given(COUNTS, st.randoms(use_true_random=False))
@example(np.array([[1], [4], [-1], [-1], [-1], [-1], [-1]]), Random(0))  # their sum is 0, but not that of their floats
def test_the_order_of_seeds_and_settings_and_the_unit_change_nothing(counts: np.ndarray, random: object) -> None:
    differences = counts / 360
    shuffled = np.random.default_rng(random.randint(0, 99))  # type: ignore[attr-defined]
    seeds, settings = (shuffled.permutation(n) for n in differences.shape)
    before, after = compare(differences), compare(-100 * differences[seeds][:, settings])
    for k, one in zip(settings, after, strict=True):
        other = before[k]
        assert one.mean == pytest.approx(-100 * other.mean, abs=1e-12)
        assert (one.p, one.p_sign, one.p_adjusted) == pytest.approx((other.p, other.p_sign, other.p_adjusted))
        assert (one.low, one.high) == pytest.approx((-100 * other.high, -100 * other.low), abs=1e-9, nan_ok=True)


@given(COUNTS)
def test_correction_and_simultaneity_never_help_a_claim(counts: np.ndarray) -> None:
    for part in compare(counts / 360):
        assert lowest_p(len(counts)) <= part.p <= part.p_adjusted <= 1
        if math.isnan(part.low):
            assert part.sd == pytest.approx(0, abs=1e-12)  # no spread seen
        else:
            assert part.low_all <= part.low <= part.mean <= part.high <= part.high_all


def test_a_missing_seed_takes_no_part_and_a_setting_with_one_seed_is_not_counted() -> None:
    differences = np.array([[0.01, np.nan, 0.02], [0.02, np.nan, np.nan], [0.03, 0.05, 0.01], [0.01, np.nan, 0.03]])
    whole, single, part = compare(differences)
    assert (whole.n, single.n, part.n) == (4, 1, 3)
    assert part.p == compare(differences[[0, 2, 3]][:, [2]])[0].p == 0.25
    assert single.mean == 0.05
    assert math.isnan(single.p)
    assert math.isnan(single.low)
    assert whole.compared == whole.together == 2


def test_intervals_and_power_are_those_of_the_t_distribution() -> None:
    values = np.array([0.91, 0.95, 0.94, np.nan, 0.97])
    found = summarize(values, 0.9)
    reference = stats.ttest_1samp(values[~np.isnan(values)], 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    assert math.isnan(summarize(np.array([])).mean)
    # tables of power, two-sided one-sample t test: n = 34 for a medium effect, 15 for a large one (Cohen 1988)
    assert seeds_needed(0.5, 1.0, 0.05) == 34
    assert seeds_needed(0.8, 1.0, 0.05) == 15
    assert t_power(1e6, np.array([6, 1000]), 0.05) == pytest.approx(1)


def test_no_number_of_seeds_is_given_where_none_would_do() -> None:
    assert seeds_needed(0.0, 1.0, 0.05) is None
    assert seeds_needed(0.01, 1.0, 0.05) is None
    assert seeds_needed(0.1, math.nan, 0.05) is None
    assert seeds_needed(0.1, 0.0, 0.05) == fewest_seeds(0.05) == 6
    assert lowest_p(fewest_seeds(0.05)) <= 0.05 < lowest_p(fewest_seeds(0.05) - 1)


def test_with_many_seeds_random_flips_give_nearly_the_exact_p(monkeypatch: pytest.MonkeyPatch) -> None:
    differences: Floats = np.random.default_rng(1).normal(0.5, 1, (14, 3))
    exact = np.array(sign_flip(differences))
    monkeypatch.setattr(statistics, "EXACT_SEEDS", 5)
    sampled = np.array(sign_flip(differences))
    assert sampled == pytest.approx(exact, abs=4 * math.sqrt(0.25 / statistics.RANDOM_FLIPS))
    assert (np.array(sign_flip(differences)) == sampled).all()  # the same each time


@pytest.mark.parametrize(("seeds", "images"), [(2, None), (3, 360), (5, None), (10, 360)])
def test_where_nothing_differs_intervals_cover_and_claims_keep_the_level(seeds: int, images: int | None) -> None:
    """1,000 sweeps of four settings and uniform rates."""
    found = simulate(Truth(seeds, images=images))
    for share in (found.mean, found.difference):
        assert share == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 1000))
    assert found.together >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 1000)
    assert found.false <= (LEVEL_AND_NOISE if seeds >= 6 else 0)


SHARES = st.integers(2, 7).flatmap(lambda n: arrays(np.int64, (n, 2), elements=st.integers(0, 20)))


@given(SHARES)
def test_intervals_of_shares_and_of_their_differences_stay_within_what_is_possible(counts: np.ndarray) -> None:
    ones, others = (counts[:, [k]] / 20 for k in (0, 1))
    means = [summarize(values[:, 0], limits=(0, 1)) for values in (ones, others)]
    (part,) = compare(ones, others, limits=(0, 1))
    plain = stats.ttest_1samp((ones - others)[:, 0], 0).confidence_interval() if part.sd > 1e-9 else None
    for mean, values in zip(means, (ones, others), strict=True):
        if np.ptp(values) == 0:
            assert math.isnan(mean.low)
            assert math.isnan(mean.high)
        else:
            assert 0 <= mean.low <= mean.mean <= mean.high <= 1
            assert mean.low < mean.high
    if plain is None:
        assert math.isnan(part.low)
        return
    assert -1 <= part.low <= part.mean <= part.high <= 1
    assert plain.low - 1e-9 <= part.low <= part.high <= plain.high + 1e-9
    if not any(math.isnan(mean.low) for mean in means):  # no interval says what the two means' own rule out
        assert means[0].low - means[1].high - 1e-9 <= part.low_all
        assert part.high_all <= means[0].high - means[1].low + 1e-9


def test_an_interval_near_100_percent_is_longer_to_the_far_side_and_one_of_a_loss_ends_at_0() -> None:
    share = summarize(np.array([0.96, 0.98, 0.97]), limits=(0, 1))
    assert share.mean - share.low > 1.2 * (share.high - share.mean)
    loss = summarize(np.array([0.1, 0.9]), limits=(0, math.inf))
    assert loss.low == 0
    assert loss.high == pytest.approx(stats.ttest_1samp([0.1, 0.9], 0).confidence_interval().high)


@pytest.mark.parametrize("case", [
    {"base": 0.985, "shared": 0.004, "own": 0.004, "images": 360},
    {"base": 0.985, "shared": 0.004, "own": 0.004, "images": 360, "noise": skewed},
    {"base": 0.95, "shared": 0.03, "own": 0.01},
    {"base": 0.7, "shared": 0.05, "own": 0.04, "images": 100},
    {"base": 0.95, "effects": (0.02, 0.0, -0.02)},
], ids=["near 100 %", "near 100 %, skewed", "large noise", "few images", "effects"])  # fmt: skip
@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_intervals_cover_with_few_seeds_and_near_the_end_of_the_scale(seeds: int, case: dict[str, object]) -> None:
    """Of 400 sweeps; where the noise leaves the scale, the mean of what is cut there is another than the truth."""
    found = simulate(Truth(seeds, **case), 400)  # type: ignore[arg-type]
    noise = 3 * math.sqrt(0.95 * 0.05 / 400)
    if case.get("shared") != 0.03:
        assert found.mean >= 0.95 - noise
    assert found.difference >= 0.95 - noise
    assert found.together >= 0.95 - noise


def test_a_planted_effect_is_found_with_the_power_expected() -> None:
    """Alone, with the power of the t test; among four, with no less than Bonferroni leaves of it."""
    spread = 0.006 * math.sqrt(2)  # of a difference of two runs
    expected = [float(t_power(0.01 / spread, np.array([10]), level)[0]) for level in (0.05, 0.05 / 4)]
    assert simulate(Truth(10, effects=(0.01,)), 400).planted == pytest.approx(expected[0], abs=0.06)
    among = simulate(Truth(10, effects=(0.01, 0.0, 0.0, 0.0)), 400)
    assert expected[1] - 0.05 <= among.planted <= expected[0]
    assert among.best >= 0.95 * among.planted  # validation points at it
    assert among.false <= LEVEL_AND_NOISE


@pytest.mark.slow
@pytest.mark.parametrize("case", [
    {"noise": skewed},
    {"noise": skewed, "base": 0.985, "shared": 0.004, "own": 0.004, "images": 360},
    {"rates": (0.0, 0.01, -0.02)},
    {"rates": (0.0, 0.01, -0.02), "images": 360},
    {"effects": (0.0,) * 20, "images": 360},
    {"missing": 0.15},
    {"effects": (0.01, 0.0, -0.01, 0.0), "images": 360},
])  # fmt: skip
@pytest.mark.parametrize("seeds", [6, 10])
def test_claims_keep_the_level_whatever_the_noise_is_like(seeds: int, case: dict[str, object]) -> None:
    """Also with skewed noise, several base rates, many settings, runs that failed, and true effects beside."""
    assert simulate(Truth(seeds, **case)).false <= LEVEL_AND_NOISE  # type: ignore[arg-type]
