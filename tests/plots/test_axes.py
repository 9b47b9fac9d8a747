"""Labels on axes: printable, short, in plain characters."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwexp.plots.axes import rate_text, readable


@given(st.text(max_size=400), st.integers(5, 60))
@settings(deadline=None)
def test_readable_is_printable_and_no_longer_than_asked(name: str, at_most: int) -> None:
    shown = readable(name, at_most)
    assert len(shown) <= at_most
    assert not re.search(r"[\x00-\x1f\ud800-\udfff]", shown)


@pytest.mark.parametrize(
    ("rate", "text"),
    [(1.0, "10⁰"), (0.01, "10⁻²"), (1e-10, "10⁻¹⁰"), (2e-4, "2\u00d710⁻⁴"), (0.00025, "2.5\u00d710⁻⁴")],
)
def test_rates_on_an_axis_are_plain_characters(rate: float, text: str) -> None:
    assert rate_text(rate) == text
