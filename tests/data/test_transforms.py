"""Preprocessing: the standard one, and contradictions."""

from __future__ import annotations

from typing import Any

import pytest

from lwexp.data import DataInfo, Preprocessing, standard_preprocessing


def test_standard_preprocessing_is_imagenets_for_photographs_and_centered_for_gray() -> None:
    photographs = DataInfo(3, ("a", "b"), {}, None)
    assert standard_preprocessing(photographs, 224, 3) == Preprocessing(
        224, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 0.875
    )
    assert standard_preprocessing(photographs, 32, 3).crop_pct == 1.0
    gray = DataInfo(1, ("a", "b"), {}, 32)
    assert standard_preprocessing(gray, 32, 3) == Preprocessing(32, 3, (0.5,) * 3, (0.5,) * 3, crop_pct=1.0)
    measured = DataInfo(1, ("a", "b"), {}, 32, mean=(0.3,), std=(0.4,))
    assert standard_preprocessing(measured, 32, 3) == Preprocessing(32, 3, (0.3,) * 3, (0.4,) * 3, crop_pct=1.0)


@pytest.mark.parametrize(
    "wrong", [{"mean": (0.5, 0.5)}, {"std": ()}, {"interpolation": "nearest"}, {"crop_pct": 0.0}, {"crop_pct": 87.5}]
)
def test_a_preprocessing_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    right = {"image_size": 8, "channels": 1, "mean": (0.5,), "std": (0.5,)}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Preprocessing(**{**right, **wrong})
