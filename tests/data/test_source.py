"""Half of the classes as a data source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from lwexp.data import DataSource, half_of_classes
from tests.helpers.data_sources import GRAY, digits, error_of, folder


def test_the_halves_of_the_classes_are_disjoint_and_follow_the_seed() -> None:
    source = digits()
    halves: Iterator[tuple[DataSource, DataSource]] = (
        (half_of_classes(source, "source", seed), half_of_classes(source, "target", seed)) for seed in (0, 0, 1)
    )
    chosen = []
    for first, second in halves:
        assert sorted(first.info.classes + second.info.classes) == list("0123456789")
        assert len(first.info.classes) == 5
        for split, size in source.info.sizes.items():
            assert first.info.sizes[split] + second.info.sizes[split] == size
        chosen.append(first.info.classes)
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_half_has_the_same_images_under_new_labels() -> None:
    source = digits()
    half = half_of_classes(source, "target", 0)
    names = [source.info.classes[label] for label in source.labels("val")]
    kept = [i for i, name in enumerate(names) if name in half.info.classes]
    whole = source.datasets(GRAY, augment=False, seed=0).val
    part = half.datasets(GRAY, augment=False, seed=0).val
    assert [half.info.classes[label] for label in half.labels("val")] == [names[i] for i in kept]
    assert [part[k][1] for k in range(len(part))] == half.labels("val").tolist()
    assert all(torch.equal(part[k][0], whole[i][0]) for k, i in enumerate(kept))
    assert set(half.labels("train").tolist()) == set(range(5))


def test_fewer_than_four_classes_cannot_be_halved(photos: Path) -> None:
    assert error_of(lambda: half_of_classes(folder(photos), "source", 0)) == (
        "weights=source_task: needs at least 4 classes to halve, the data has 3"
    )


def test_a_smaller_training_set_leaves_all_else_as_it_is() -> None:
    whole = digits()
    part, again, other = whole.with_train(50, 3), whole.with_train(50, 3), whole.with_train(50, 4)
    assert torch.equal(part.split("train").positions, again.split("train").positions)
    assert not torch.equal(part.split("train").positions, other.split("train").positions)
    assert torch.bincount(part.labels("train")).tolist() == [5] * 10
    assert set(part.split("train").positions.tolist()) <= set(whole.split("train").positions.tolist())
    assert part.info == replace(whole.info, sizes={**whole.info.sizes, "train": 50})
    assert part.split("test") is whole.split("test")
    assert len(part.datasets(GRAY, False, 0).train) == 50
    half = half_of_classes(whole, "target", 0).with_train(20, 0)
    assert torch.bincount(half.labels("train")).tolist() == [4] * 5
