from __future__ import annotations

import pytest

from lwexp.core.patterns import first_matches, matches
from lwexp.errors import UnknownNameError

NAMES = ["layer4.0.conv1.weight", "layer4.1.bn1.bias", "layer40.weight", "fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("pattern", "covered"),
    [
        ("layer4", ["layer4.0.conv1.weight", "layer4.1.bn1.bias"]),
        ("layer4.0", ["layer4.0.conv1.weight"]),
        ("fc.bias", ["fc.bias"]),
        ("*.bias", ["layer4.1.bn1.bias", "fc.bias"]),
        ("layer4.*.bn?.*", ["layer4.1.bn1.bias"]),
        ("*", NAMES),
        ("layer", []),
    ],
)
def test_pattern_covers_dotted_prefix_or_glob(pattern: str, covered: list[str]) -> None:
    assert [name for name in NAMES if matches(pattern, name)] == covered


def test_first_match_wins_in_the_order_written() -> None:
    assert first_matches(["fc.bias", "fc"], NAMES, "k") == {"fc.bias": "fc.bias", "fc.weight": "fc"}
    assert first_matches(["fc", "fc.bias"], NAMES, "k") == {"fc.bias": "fc", "fc.weight": "fc"}


def test_pattern_without_match_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"^lr_overrides=layer5: .*did you mean layer4"):
        first_matches(["layer5"], NAMES, "lr_overrides")
