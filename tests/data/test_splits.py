"""Stratified cuts: scikit-learn's choice, by the seed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from lwexp.data.splits import stratified_cut, stratified_part
from tests.helpers.data_sources import error_of


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_a_stratified_cut_keeps_every_class_on_both_sides_and_single_images_in_train(fraction: float) -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20 + [3])
    kept, cut = stratified_cut(labels, fraction, seed=0)
    assert sorted(torch.cat((kept, cut)).tolist()) == list(range(101))
    assert set(labels[kept].tolist()) == {0, 1, 2, 3}
    assert set(labels[cut].tolist()) == {0, 1, 2}
    assert len(cut) == min(max(round(fraction * 100), 3), 97)


@given(
    counts=st.lists(st.integers(min_value=2, max_value=40), min_size=1, max_size=8),
    fraction=st.floats(min_value=0.01, max_value=0.9),
    seed=st.integers(min_value=0, max_value=2**32 - 1),
)
def test_a_stratified_cut_is_the_one_of_scikit_learn(counts: list[int], fraction: float, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)) * 3, torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed % 1000))]
    kept, cut = stratified_cut(labels, fraction, seed)
    positions = range(len(labels))
    expected = train_test_split(positions, test_size=len(cut), random_state=seed, stratify=labels.numpy())
    assert [kept.tolist(), cut.tolist()] == [sorted(part) for part in expected]


def test_a_stratified_cut_follows_its_seed() -> None:
    labels = torch.arange(100) % 4
    assert torch.equal(stratified_cut(labels, 0.2, 7)[1], stratified_cut(labels, 0.2, 7)[1])
    assert not torch.equal(stratified_cut(labels, 0.2, 7)[1], stratified_cut(labels, 0.2, 8)[1])
    assert "data.split_seed" in error_of(lambda: stratified_cut(labels, 0.2, 2**32))


@given(
    counts=st.lists(st.integers(min_value=1, max_value=60), min_size=1, max_size=8),
    share=st.floats(min_value=0, max_value=1), seed=st.integers(min_value=0, max_value=2**32 - 1),
)  # fmt: skip
def test_a_part_has_every_class_in_proportion(counts: list[int], share: float, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed % 1000))]
    size = max(round(share * len(labels)), len(counts))
    part = stratified_part(labels, size, seed)
    assert part.tolist() == sorted(set(part.tolist()))
    assert len(part) == size
    assert torch.equal(part, stratified_part(labels, size, seed))
    for label, count in enumerate(counts):
        own = int((labels[part] == label).sum())
        exact = size * count / len(labels)
        assert own >= 1
        assert own <= exact + 1
        if exact >= 2 * len(counts):  # else the rare classes take theirs from the others
            assert own > exact - len(counts)


@pytest.mark.parametrize(("size", "why"), [(2, "there are 3 classes"), (11, "there are 10 training samples")])
def test_a_part_of_too_few_or_too_many_is_refused(size: int, why: str) -> None:
    assert why in error_of(lambda: stratified_part(torch.tensor([0] * 5 + [1] * 4 + [2]), size, 0))
