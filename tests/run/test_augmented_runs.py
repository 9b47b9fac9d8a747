"""Runs with augmented, mixed and balanced batches, and evaluations of several views: options, results, mistakes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from lwexp.data import Views
from lwexp.training.loss import BatchWeight, make_loss, part_of_mean, takes_soft_labels
from tests.helpers.commands import RunHere
from tests.run.runs import FAKE, SMALL, UNTRACKED, folders, weights

pytestmark = pytest.mark.usefixtures("no_pictures")
PHOTOS = ["model=lstm", "model.hidden_size=8", *(option for option in FAKE if "augment" not in option), *UNTRACKED]
GRAY = [*SMALL, *UNTRACKED, "max_steps=2", "batch_size=64", "data.workers=0"]
TEXTS = [
    "data=text", "data.path=words.csv", "model=huggingface", "model.config_class=BertConfig", "batch_size=4",
    "model.config={hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 8}", "max_steps=2",
    "progress=false", *UNTRACKED,
]  # fmt: skip
OWN = """
import random
from PIL import ImageOps

class Solarized:
    def __init__(self, below):
        self.below = below

    def __call__(self, image):
        return ImageOps.solarize(image, random.randint(0, self.below))

def mirrored(image):
    return ImageOps.mirror(image)

def broken(image):
    raise RuntimeError("no film")

def number(image):
    return 3
"""


@pytest.fixture
def own(tmp_path: Path) -> None:
    (tmp_path / "film.py").write_text(OWN, encoding="utf-8")
    words = "\n".join(["text,label", *(["a red one,colour"] * 12), *(["the cat sat,animal"] * 6)])
    (tmp_path / "words.csv").write_text(words, encoding="utf-8")


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("options", [
    ["data.augment=light"], ["data.augment=standard", "data.augment_options={scale: [0.5, 1], flip: 0}"],
    ["data.augment=randaugment", "data.augment_options.magnitude=5"],
    ["data.augment=autoaugment", "data.augment_options.policy=cifar10"],
    ["data.augment=trivialaugment", "data.erasing=0.5", "data.workers=1"],
    ["data.augment=none", "data.transforms=[{_target_: film.Solarized, below: 99}, {_target_: film.mirrored}]"],
    ["data.mixup=0.2", "data.cutmix=1", "accumulate=2", "loss.class_weights=balanced", "loss.label_smoothing=0.1"],
    ["data.mixup=0.2", "loss.name=BCEWithLogitsLoss"],
    ["data.sampler=balanced"],
], ids=lambda options: options[0] if options[0] != "data.augment=none" else "own")  # fmt: skip
def test_each_option_trains_and_changes_the_training(options: list[str], lwexp_here: RunHere, tmp_path: Path) -> None:
    for more in ([], options):
        outcome = lwexp_here("run", *PHOTOS, "data.augment=true", *more)
        assert outcome.code == 0, outcome.err
    plain, other = (weights(folder) for folder in folders(tmp_path))
    assert any(not torch.equal(plain[name], other[name]) for name in plain)


@pytest.mark.usefixtures("own")
def test_texts_can_be_balanced(lwexp_here: RunHere) -> None:
    outcome = lwexp_here("run", *TEXTS, "data.sampler=balanced")
    assert outcome.code == 0, outcome.err


@pytest.mark.usefixtures("own")
def test_standard_is_true_and_none_is_false(lwexp_here: RunHere, tmp_path: Path) -> None:
    for word in ("true", "standard", "false", "none"):
        assert lwexp_here("run", *PHOTOS, f"data.augment={word}").code == 0
    found = [weights(folder) for folder in folders(tmp_path)]
    for first, second in (found[:2], found[2:]):
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("own")
def test_code_that_a_runs_config_names_is_executed_only_if_allowed(lwexp_here: RunHere, tmp_path: Path) -> None:
    options = ["data.transforms=[{_target_: film.mirrored}]", "checkpoint.every_steps=1"]
    assert lwexp_here("run", *PHOTOS, *options).code == 0
    (folder,) = folders(tmp_path)
    resume = [f"resume={folder.relative_to(tmp_path)}", "max_steps=4"]
    outcome = lwexp_here("run", *resume)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "checkpoint.allow_targets=[film.mirrored]" in outcome.err
    outcome = lwexp_here("run", *resume, "checkpoint.allow_targets=[film.mirrored]")
    assert outcome.code == 0, outcome.err


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(("options", "why"), [
    (["data.augment=randaugmnt"], "data.augment=randaugmnt: no such augmentation; did you mean randaugment"),
    (["data.augment=randaugment", "data.augment_options.magnitud=5"],
     "data.augment_options.magnitud=5: unknown option; did you mean magnitude"),
    (["data.augment=randaugment", "data.augment_options.magnitude=31"],
     "data.augment_options.magnitude=31: must be below num_magnitude_bins=31"),
    (["data.augment=autoaugment", "data.augment_options.policy=cifar"],
     "data.augment_options.policy=cifar: no such policy; did you mean cifar10?"),
    (["data.augment_options.scale=[0.5,2]"], "data.augment_options.scale=[0.5, 2]: must be [smallest, largest] with"),
    (["data.augment_options.degrees=5"], "data.augment_options.degrees=5: unknown option; "),
    (["data.augment=false", "data.augment_options.flip=0"],
     "data.augment_options.flip=0: data.augment=False has no options"),
    (["data.erasing=2"], "data.erasing=2: should be less than or equal to 1"),
    (["data.transforms=[{_target_: film.mirorred}]"],
     "data.transforms.0._target_=film.mirorred: film has no mirorred; did you mean mirrored?"),
    (["data.transforms=[{_target_: film.Solarized, bellow: 1}]"],
     "data.transforms.0.bellow=1: film.Solarized has no such argument; did you mean below?"),
    (["data.transforms=[{_target_: film.broken}]"],
     "data.transforms.0._target_=film.broken: fails on a black image of 32 x 32 pixels: RuntimeError: no film"),
    (["data.transforms=[{_target_: film.number}]"],
     "data.transforms.0._target_=film.number: must return a PIL image, returns int"),
    (["data.mixup=-1"], "data.mixup=-1: should be greater than or equal to 0"),
    (["data.mixup=0.2", "loss.name=MultiMarginLoss"],
     "data.mixup=0.2: mixes labels, which MultiMarginLoss with these options does not take; CrossEntropyLoss does"),
    (["data.cutmix=1", "loss.options={ignore_index: 1}"], "data.cutmix=1.0: mixes labels, which CrossEntropyLoss with"),
    (["data.sampler=balance"], "data.sampler=balance: should be 'shuffle' or 'balanced'"),
    (["tta=flipped"], "tta=flipped: should be 'none', 'flip', 'five_crop' or 'ten_crop'"),
    (["tta=five_crop"], "tta=five_crop: cuts parts out of larger images; set data.crop below 1, e.g. 0.875"),
])  # fmt: skip
def test_mistakes_are_one_line(options: list[str], why: str, lwexp_here: RunHere) -> None:
    outcome = lwexp_here("run", *PHOTOS, "data.augment=true", *options)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert outcome.err.startswith(f"error: {why}")


@pytest.mark.usefixtures("own")
def test_what_other_data_have_not_is_refused(lwexp_here: RunHere) -> None:
    for given, options, why in (
        (TEXTS, ["data.mixup=0.2"], "data.mixup=0.2: unknown option"),
        (TEXTS, ["data.augment=light"], "data.augment=light: unknown option"),
        (TEXTS, ["tta=flip"], "tta=flip: is for images"),
        (GRAY, ["tta=flip"], "tta=flip: is for photographs; a character that is flipped or cut is another one"),
        (GRAY, ["data.augment_options.flip=1"], "data.augment_options.flip=1: unknown option"),
    ):
        outcome = lwexp_here("run", *given, *options)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
        assert why in outcome.err


@pytest.mark.parametrize("tta", ["flip", "five_crop", "ten_crop"])
def test_views_change_the_evaluation_and_not_the_training(tta: str, lwexp_here: RunHere, tmp_path: Path) -> None:
    shown = []
    for more in ([], [f"tta={tta}"]):
        outcome = lwexp_here("run", *PHOTOS, "data.crop=0.5", "data.augment=false", *more)
        assert outcome.code == 0, outcome.err
        shown += re.findall(r"val loss (\S+)", outcome.out)
    assert len(shown) == 2
    assert shown[0] != shown[1]
    plain, other = (weights(folder) for folder in folders(tmp_path))
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_views_are_averaged() -> None:
    images = torch.rand(2, 3, 12, 12)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4))
    assert torch.allclose(Views("flip", 12)(net, images), (net(images) + net(images.flip(-1))) / 2)
    assert torch.equal(Views("none", 12)(net, images), net(images))
    views = Views("five_crop", 8).of(images)
    assert torch.equal(torch.stack(views), torch.stack([
        images[..., :8, :8], images[..., :8, 4:], images[..., 4:, :8], images[..., 4:, 4:], images[..., 2:10, 2:10],
    ]))  # fmt: skip
    assert [view.shape[-1] for view in Views("ten_crop", 8).of(images)] == [8] * 10


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "BCEWithLogitsLoss", "MSELoss", "KLDivLoss", "HuberLoss"])
def test_parts_of_a_mixed_batch_add_up_to_its_mean_loss(name: str) -> None:
    scores, targets = torch.randn(6, 3), torch.rand(6, 3).softmax(dim=1)
    more = {"class_weights": [1.0, 2.0, 0.5], "label_smoothing": 0.1} if name == "CrossEntropyLoss" else {}
    loss = make_loss(name, 3, **more)  # type: ignore[arg-type]
    assert takes_soft_labels(loss)
    weigh = BatchWeight(loss)
    total = weigh(targets)
    parts = [part_of_mean(loss, scores[rows], targets[rows], weigh(targets[rows]), total)
             for rows in (slice(0, 1), slice(1, 6))]  # fmt: skip
    assert torch.allclose(torch.stack(parts).sum(), loss(scores, targets))


def test_a_mixed_label_without_mixture_is_the_label() -> None:
    scores, labels = torch.randn(6, 3), torch.tensor([0, 2, 1, 1, 0, 2])
    for name in ("CrossEntropyLoss", "BCEWithLogitsLoss", "MSELoss", "MultiLabelSoftMarginLoss"):
        loss = make_loss(name, 3)
        assert torch.allclose(loss(scores, torch.eye(3)[labels]), loss(scores, labels))
