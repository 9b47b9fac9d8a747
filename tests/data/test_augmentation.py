"""Augmentation, mixing and balance of training batches: functions of seed, epoch and sample alone."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from lwexp.config.augment_options import CHOICES
from lwexp.data import Augmentation, EpochSampler, Mixing, OwnTransform, SampleKey, make_augmentation, train_loader
from lwexp.data.augmentation import Erase
from lwexp.data.images import SampleDataset
from lwexp.distributed.batch_shard import BatchShard
from lwexp.errors import ConfigError
from tests.helpers.data_sources import COLOR, GRAY, digits, folder, write_images

KEYS = [SampleKey(epoch, sample) for epoch in (0, 1) for sample in range(4)]


def photographs(path: Path) -> Any:
    for name in ("a", "b"):
        write_images(path / "photos" / name, 6)
    return folder(path / "photos")


def noisy(image: Any) -> Any:
    """Draws from the generators of `random` and NumPy."""
    shift = random.randint(0, 200) + np.random.randint(0, 50)
    return image.point(lambda value: (value + shift) % 256)


OWN = OwnTransform(noisy, "data.transforms.0._target_", "noisy")
AUGMENTED: dict[str, Augmentation] = {
    **{name: Augmentation(name) for name in CHOICES if name != "none"},
    "erased": Augmentation("none", erasing=1.0),
    "own": Augmentation("none", transforms=(OWN,)),
    "all": Augmentation("randaugment", {"magnitude": 20, "num_ops": 3}, 0.5, (OWN,)),
}


@pytest.mark.parametrize("kind", ["photographs", "digits"])
@pytest.mark.parametrize("name", AUGMENTED)
def test_an_image_depends_on_seed_epoch_and_sample_alone(name: str, kind: str, tmp_path: Path) -> None:
    source, to = (photographs(tmp_path), COLOR) if kind == "photographs" else (digits(), GRAY)
    first, again, other = (source.datasets(to, AUGMENTED[name], seed).train for seed in (3, 3, 4))
    before = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())
    batch, _ = first.batch(KEYS)
    assert before[0] == random.getstate()
    assert (before[1] == np.random.get_state()[1]).all()
    assert torch.equal(before[2], torch.get_rng_state())
    assert batch.shape == (8, to.channels, to.image_size, to.image_size)
    assert batch.isfinite().all()
    reversed_, _ = again.batch(KEYS[::-1])
    assert torch.equal(reversed_.flip(0), batch)
    assert not torch.equal(batch[:4], batch[4:]), "the same in every epoch"
    assert not torch.equal(other.batch(KEYS)[0], batch)
    plain = source.datasets(to, None, 3).train.batch(KEYS)[0]
    assert not torch.equal(plain, batch)


def test_true_and_false_are_what_they_were_bit_for_bit(tmp_path: Path) -> None:
    for source, to in ((photographs(tmp_path), COLOR), (digits(), GRAY)):
        for word, name in ((True, Augmentation("standard")), (False, None)):
            old, new = (source.datasets(to, how, 5).train.batch(KEYS)[0] for how in (word, name))
            assert torch.equal(old, new)


def test_light_is_milder_than_standard(tmp_path: Path) -> None:
    """Digits are moved half as far; of a photograph at least half of the area is seen."""
    source = digits()
    plain, light, standard = (
        source.datasets(GRAY, how, 0).train.batch([SampleKey(0, i) for i in range(200)])[0]
        for how in (None, Augmentation("light"), Augmentation())
    )
    assert 0 < (light - plain).abs().mean() < 0.8 * (standard - plain).abs().mean()


def test_own_transforms_get_the_whole_photograph_where_nothing_else_augments(tmp_path: Path) -> None:
    seen: list[Any] = []

    def look(image: Any) -> Any:
        seen.append(image.size)
        return image

    source = photographs(tmp_path)
    own = (OwnTransform(look, "data.transforms.0._target_", "look"),)
    batch = source.datasets(COLOR, Augmentation("none", transforms=own), 0).train.batch(KEYS[:1])[0]
    assert seen == [(24, 18)]
    assert torch.equal(batch, source.datasets(COLOR, None, 0).train.batch(KEYS[:1])[0])
    source.datasets(COLOR, Augmentation("standard", transforms=own), 0).train.batch(KEYS[:1])
    assert seen[1:] == [(16, 16)]


@pytest.mark.parametrize(
    ("augment", "style", "refused"),
    [
        ("none", "photograph", None),
        ("standard", "photograph", "fails on a black image of 128 x 128 pixels: ValueError: Required crop size"),
        ("none", "character", "fails on a black image of 128 x 128 pixels: ValueError: Required crop size"),
    ],
)
def test_own_transforms_are_tried_in_turn_on_images_as_they_get_them(
    augment: str, style: Any, refused: str | None
) -> None:
    config: Any = SimpleNamespace(augment=augment, augment_options={}, erasing=0.0)
    own = [
        OwnTransform(step, f"data.transforms.{i}._target_", "own") for i, step in enumerate((noisy, v2.RandomCrop(224)))
    ]
    in_turn = [OwnTransform(v2.Resize(256), "data.transforms.0._target_", "own"), own[1]]
    before = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())
    assert make_augmentation(config, style, in_turn, 128) is not None
    if refused is None:
        assert make_augmentation(config, style, own, 128) is not None
    else:
        with pytest.raises(ConfigError, match=f"^data.transforms.1._target_=own: {refused}"):
            make_augmentation(config, style, own, 128)
    assert before[0] == random.getstate()
    assert (before[1] == np.random.get_state()[1]).all()
    assert torch.equal(before[2], torch.get_rng_state())


def test_erased_parts_have_the_mean_color() -> None:
    torch.manual_seed(0)
    image = Image.new("RGB", (40, 40), (255, 255, 255))
    pixels = np.array(Erase(1.0, (0.2, 0.4, 0.6))(image)).reshape(-1, 3)
    found = {tuple(pixel) for pixel in pixels.tolist()}
    assert found == {(255, 255, 255), (51, 102, 153)}


class Numbered(SampleDataset):
    """Image number i is i everywhere."""

    def inputs(self, keys: Any) -> Tensor:
        return torch.tensor([float(key.sample) for key in keys]).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()


def loader(mixing: Mixing | None, shard: BatchShard | None = None, balance: Tensor | None = None, **how: Any) -> Any:
    given: dict[str, Any] = {} if shard is None else {"shard": shard}
    dataset = Numbered(torch.arange(24) % 3)
    return train_loader(dataset, batch_size=7, seed=1, workers=0, device="cpu", mixing=mixing, balance=balance, **given)


def batches(made: Any, epoch: int = 0, start: int = 0) -> list[Any]:
    made.set_epoch(epoch, start)
    return list(made)


@pytest.mark.parametrize("mixing", [Mixing(0.4, 0.0, 3, 9), Mixing(0.0, 1.0, 3, 9), Mixing(0.4, 1.0, 3, 9)], ids=str)
def test_images_are_mixed_as_their_labels_say(mixing: Mixing) -> None:
    plain = batches(loader(None))
    shares = []
    for (images, labels), (before, classes) in zip(batches(loader(mixing)), plain, strict=True):
        assert labels.shape == (7, 3)
        assert torch.allclose(labels.sum(dim=1), torch.ones(7))
        partner = before.roll(1, 0)
        share = ((images - partner) / (before - partner))[:, 0].mean(dim=(1, 2))  # of the image itself, in each
        assert torch.allclose(share, share[0].expand(7), atol=1e-4)
        expected = share[0] * torch.eye(3)[classes] + (1 - share[0]) * torch.eye(3)[classes.roll(1, 0)]
        assert torch.allclose(labels, expected, atol=1e-4)
        shares.append(round(float(share[0]), 4))
    assert len(set(shares)) == 3, "every batch is mixed in another way"


@pytest.mark.parametrize("mixing", [Mixing(0.4, 0.0, 3, 9), Mixing(0.4, 1.0, 3, 9)], ids=str)
@pytest.mark.parametrize("size", [2, 3])
def test_processes_mix_a_batch_as_one_would(mixing: Mixing, size: int) -> None:
    whole = batches(loader(mixing), epoch=2)
    parts = [batches(loader(mixing, BatchShard(rank, size)), epoch=2) for rank in range(size)]
    for number, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[number][0] for part in parts]), images)
        assert torch.equal(torch.cat([part[number][1] for part in parts]), labels)


def test_mixing_starts_anywhere_in_an_epoch() -> None:
    mixing = Mixing(0.4, 1.0, 3, 9)
    for (images, labels), (again, same) in zip(
        batches(loader(mixing), 3)[1:], batches(loader(mixing), 3, start=1), strict=True
    ):
        assert torch.equal(images, again)
        assert torch.equal(labels, same)


@pytest.mark.parametrize("counts", [(40, 3, 7), (5, 5), (1, 30)], ids=str)
def test_balanced_epochs_have_all_classes_equally_often(counts: tuple[int, ...]) -> None:
    labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])

    def drawn(epoch: int, seed: int) -> list[SampleKey]:
        sampler = EpochSampler(len(labels), 1, seed, balance=labels)
        sampler.set_epoch(epoch)
        return [key for (key,) in sampler]

    keys = drawn(0, 0)
    frequency = Counter(int(labels[key.sample]) for key in keys)
    assert len(keys) == len(labels)
    assert max(frequency.values()) - min(frequency.values()) <= 1
    times = Counter(key.sample for key in keys)
    for label in range(len(counts)):
        of_class = [times[int(i)] for i in (labels == label).nonzero()]
        assert max(of_class) - min(of_class) <= 1, "drawn without replacement"
    assert len(set(keys)) == len(keys), "a sample drawn again is augmented in another way"
    assert keys == drawn(0, 0)
    assert keys != drawn(1, 0)
    assert keys != drawn(0, 1)
