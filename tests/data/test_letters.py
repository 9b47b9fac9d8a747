"""Printed letters: what there is of each, drawn by the seed alone, and told apart by their shapes."""

from __future__ import annotations

import string

import pytest
import torch

from lwexp.data import DataSource, Preprocessing, letters, open_letters
from lwexp.data.letters import FONTS, VARIANTS
from lwexp.errors import ConfigError
from tests.helpers.data_sources import digits


def pixels(source: DataSource) -> dict[str, torch.Tensor]:
    """The images of each split as they are, float32 [n, 64], 0 to 1."""
    made = source.datasets(Preprocessing(8, 1, (0.0,), (1.0,)), augment=False, seed=0)
    found = {"train": made.train, "val": made.val}
    return {
        name: torch.stack([dataset[i][0].flatten() for i in range(len(dataset))]) for name, dataset in found.items()
    }


def test_every_letter_is_there_in_every_font_and_a_tenth_is_for_validation() -> None:
    source = open_letters(0)
    assert source.info.classes == tuple(string.ascii_letters)
    of_each = len(FONTS) * VARIANTS
    assert torch.equal(torch.bincount(source.labels("train")), torch.full((52,), of_each * 9 // 10))
    assert torch.equal(torch.bincount(source.labels("val")), torch.full((52,), of_each // 10))
    own = digits().info
    assert (source.info.channels, source.info.image_size) == (own.channels, own.image_size)


def test_letters_depend_on_their_seed_alone_and_none_is_blank() -> None:
    one, same, other = (pixels(open_letters(seed)) for seed in (0, 0, 1))
    for split in ("train", "val"):
        assert torch.equal(one[split], same[split])
        assert not torch.equal(one[split], other[split])
        brightest = one[split].amax(dim=1)
        assert brightest.min() > 0.2
        assert brightest.mean() > 0.6


def test_the_nearest_mean_letter_is_often_the_right_one() -> None:
    """Of 52 by chance: 2 %. Many capitals are like their small letters."""
    source = open_letters(0)
    images, labels = pixels(source), {split: source.labels(split) for split in ("train", "val")}  # type: ignore[arg-type]
    means = torch.stack([images["train"][labels["train"] == label].mean(dim=0) for label in range(52)])
    nearest = torch.cdist(images["val"], means).argmin(dim=1)
    assert (nearest == labels["val"]).float().mean() > 0.4


def test_missing_fonts_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="weights=letters: needs the fonts of matplotlib"):
        open_letters(0)
