"""A table of rates: its parts fit together, and fewer rows keep the ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwexp.plots.rate_table import RateTable, subsample, thin
from tests.helpers.rate_tables import cosine, table


@given(count=st.integers(1, 5000), at_most=st.integers(2, 500), start=st.integers(0, 10**6))
def test_subsample_keeps_first_and_last_and_even_distances(count: int, at_most: int, start: int) -> None:
    steps = np.arange(start, start + count)
    kept = subsample(steps, at_most)
    assert len(kept) == min(count, at_most)
    assert (kept[0], kept[-1]) == (steps[0], steps[-1])
    gaps = np.diff(kept)
    assert not len(gaps) or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_thinned_keeps_each_step_with_its_rates() -> None:
    rates = cosine(3, 100)
    few = thin(table(rates), 10)
    assert len(few.steps) == 10
    np.testing.assert_array_equal(few.rates, rates[few.steps])


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["a"]},
        {"depths": [0]},
        {"frozen": [False] * 3},
        {"rates": np.ones((2, 2))},
        {"rates": np.full((3, 2), np.nan)},
        {"rates": np.full((3, 2), np.inf)},
        {"rates": np.full((3, 2), -1.0)},
        {"steps": np.array([0, 2, 1])},
        {"rates": np.ones((0, 2)), "steps": np.arange(0)},
        {"names": [], "depths": [], "frozen": [], "rates": np.ones((3, 0))},
    ],
)
def test_parts_that_do_not_fit_together_are_refused(change: dict) -> None:
    parts = {"names": ["a", "b"], "depths": [1, 0], "frozen": [False] * 2}
    parts |= {"rates": np.ones((3, 2)), "steps": np.arange(3)}
    RateTable("", **parts)
    with pytest.raises(ValueError, match=r"rates|names"):
        RateTable("", **{**parts, **change})
