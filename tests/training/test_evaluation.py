"""Judging: macro F1 is scikit-learn's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from lwexp.training.evaluation import class_counts
from lwexp.training.measures import mean_f1


@given(pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60))
def test_macro_f1_is_the_one_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    answer, guess = (torch.tensor(column) for column in zip(*pairs, strict=True))
    expected = f1_score(answer.numpy(), guess.numpy(), average="macro", zero_division=0)
    assert mean_f1(class_counts(answer, guess, 10)) == pytest.approx(expected, rel=1e-14)
