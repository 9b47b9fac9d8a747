"""The bar and the lines of a training fit the terminal."""

from __future__ import annotations

import pytest

from lwexp.training.console import Pace, bar_format, fitting


@pytest.mark.parametrize("title", ["epoch 1/5", "mult=0.9 lr=0.01 seed=1: epoch 10/30"])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_has_room_for_loss_and_rates(title: str, width: int) -> None:
    form = bar_format(len(title), 1000, width)
    texts = {
        "desc": title, "bar": "b" * 8, "n_fmt": "1000", "total_fmt": "1000", "elapsed": "00:00", "remaining": "00:00",
        "rate_fmt": "12.34step/s", "percentage": 100.0, "postfix": "",
    }  # fmt: skip
    left = width - len(form.format(**texts))
    assert left >= len(", loss 2.310, stem 5.3e-04, head 1.0e-03") or width - len(title) < 50
    assert "{postfix}" in form


def test_a_wide_terminal_shows_more_than_a_narrow_one() -> None:
    assert "{rate_fmt}" in bar_format(9, 100, 120)
    assert "{bar}" in bar_format(9, 100, 80)
    assert "{bar}" not in bar_format(33, 100, 80)


def test_time_left_is_that_of_the_steps_and_evaluations_so_far() -> None:
    now = iter([0.0, 0.0, 2.0, 4.0, 7.0])
    pace = Pace(lambda: next(now))
    assert pace.left(5, 1) is None
    pace.epoch_start()
    pace.step(1.0)
    pace.step(float("nan"))
    pace.evaluation()
    assert pace.left(10, 2) == 10 * 2.0 + 2 * 3.0
    assert pace.losses == [1.0]


def test_lines_in_a_pipe_have_all_their_parts() -> None:
    assert fitting(["a" * 80, "b" * 80], keep=[0]) == f"{'a' * 80}  {'b' * 80}"
