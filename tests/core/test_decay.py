from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwexp.core.decay import DECAYS, make_decay, with_ends
from lwexp.errors import ConfigError

FALLING = {
    "linear": {"mult": 0.9},
    "arithmetic": {},
    "polynomial": {},
    "cosine": {},
    "none": {},
    "explicit": {"rates": {}},
}


def test_every_decay_is_tested() -> None:
    assert set(FALLING) == set(DECAYS)


@pytest.mark.parametrize("name", FALLING)
@given(count=st.integers(1, 200))
def test_scale_starts_at_one_and_never_rises_with_the_index(name: str, count: int) -> None:
    decay = make_decay(name, FALLING[name])
    scales = [decay(index, count) for index in range(count)]
    assert scales[0] == 1
    assert all(a >= b for a, b in itertools.pairwise(scales))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("linear", {"mult": 0.5}, [1, 0.5, 0.25, 0.125, 0.0625]),
        ("arithmetic", {"min_scale": 0.2}, [1, 0.8, 0.6, 0.4, 0.2]),
        ("polynomial", {"power": 2, "min_scale": 0}, [1, 0.5625, 0.25, 0.0625, 0]),
        ("cosine", {"min_scale": 0}, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
        ("none", {}, [1, 1, 1, 1, 1]),
    ],
)
def test_scales_of_five_groups(name: str, options: dict[str, float], expected: list[float]) -> None:
    decay = make_decay(name, options)
    assert [decay(i, 5) for i in range(5)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("liner", {}, "decay=liner: no such decay; did you mean linear"),
        ("linear", {"mult": 0}, "mult=0.0: must be above 0"),
        ("cosine", {"min_scale": 1.5}, r"decay\.min_scale=1\.5: must be from 0 to 1"),
        ("cosine", {"min_scal": 0.5}, r"decay\.min_scal=0\.5: unknown option; did you mean min_scale"),
        ("cosine", {"min_scale": "x"}, r"decay\.min_scale=x: must be a number"),
        ("cosine", {"min_scale": math.nan}, r"decay\.min_scale=nan: must be finite"),
        ("polynomial", {"power": -1}, r"decay\.power=-1\.0: must be above 0"),
        ("explicit", {}, r"decay\.rates=\?\?\?: must be given"),
    ],
)
def test_mistakes_name_the_key_and_the_nearest_choice(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        make_decay(name, options)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_own_function_may_not_give_scales_no_rate_can_have(value: float) -> None:
    with pytest.raises(ConfigError, match="scale of group 1 of 3"):
        make_decay(lambda index, count: value, {})(1, 3)


@pytest.mark.parametrize(
    ("head_steps", "scales"), [(0, [1, 1, 0.5, 0.25]), (1, [1, 0.5, 0.25, 0.125]), (2, [1, 0.25, 0.125, 0.0625])]
)
def test_steps_from_the_head_to_the_next_group(head_steps: int, scales: list[float]) -> None:
    decay = make_decay("linear", {"mult": 0.5, "head_steps": head_steps})
    assert [decay(i, 4) for i in range(4)] == scales
    ends = with_ends("linear", {"stem_lr": scales[-1], "head_steps": head_steps}, lr=1.0, count=4)
    assert ends == {"mult": pytest.approx(0.5), "head_steps": head_steps}
