"""data=custom: the user's own datasets, read as documented, reproducible whatever they draw at random."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset

from lwexp.config.data_schema import CustomDataConfig
from lwexp.data import DataSource, SampleKey, open_data
from lwexp.data.labeled import open_labeled
from tests.helpers.data_sources import COLOR, GRAY, error_of

HERE = "tests.data.test_custom"


def own(name: str, task: Any = "auto", image_size: int | None = None, **options: Any) -> DataSource:
    values: dict[str, Any] = {
        "val_fraction": 0.25, "test_fraction": 0.0, "split_seed": 0, "augment": False, "workers": 0,
    }  # fmt: skip
    target = f"{HERE}.{name}"
    return open_data(
        CustomDataConfig(name="custom", target=target, options=options, task=task, image_size=image_size, **values)
    )


class Pictures(Dataset[Any]):
    """PIL images of one color, with labels in turn; `reads` counts what was made."""

    reads = 0

    def __init__(self, labels: Any, count: int = 12, mode: str = "RGB", keep: bool = False) -> None:
        self.labels, self.count, self.mode = labels, count, mode
        if keep:
            self.targets = [labels[index % len(labels)] for index in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        Pictures.reads += 1
        shade = 10 * index
        color = shade if self.mode == "L" else (shade, shade, shade)
        return Image.new(self.mode, (9, 7), color), self.labels[index % len(self.labels)]


class Noise(Dataset[Any]):
    """Tensors that differ at every read: each library's global generator adds to them."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return torch.rand(3, 8, 8) + random.random() + np.random.rand(), index % 2


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from ()


class Splits:
    def __init__(self) -> None:
        self.train, self.val = Pictures([0, 1]), Pictures([0, 1], count=4)


def pictures(labels: Any, **options: Any) -> Any:
    return Pictures(labels, **options)


def named(labels: Any) -> Any:
    return {"train": Pictures(labels), "validation": Pictures(labels, count=4), "test": Pictures(labels, count=2)}


def pair(labels: Any) -> Any:
    return Pictures(labels), Pictures(labels, count=4)


def splits() -> Any:
    return Splits()


def subsets() -> Any:
    whole = Pictures([0, 1, 2], keep=True)
    return Subset(whole, [0, 1, 2, 3, 4, 5, 6]), Subset(whole, [7, 8, 9])


def mapped(declared: bool, as_subset: bool) -> Any:
    """Sorted by class, with classes 1 and 2 exchanged after class 0."""
    stored = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]

    class Mapped(Pictures):
        target_transform = staticmethod(lambda label: -label % 3) if declared else None

    train = Mapped([-label % 3 for label in stored], mode="RGB")
    train.targets = stored
    return (Subset(train, range(12)) if as_subset else train), Pictures([0, 1, 2])


def scaled(count: int, changed: int) -> Any:
    """Numbers of which the last `changed` are twice the stored ones."""
    stored = [float(number) for number in range(count)]

    class Same(Pictures):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            Pictures.reads += 1
            return Image.new("RGB", (4, 4)), stored[index] * (2 if index >= count - changed else 1)

    train = Same([0], count)
    train.targets = stored
    return train, Pictures([0.5, 2.0])


def gray_first() -> Any:
    return [(Image.new("L" if index < 3 else "RGB", (9, 7)), index % 2) for index in range(12)]


def too_many() -> Any:
    return tuple(Pictures([0, 1]) for _ in range(4))


def doubled() -> Any:
    return {"train": Pictures([0, 1]), "val": Pictures([0, 1]), "valid": Pictures([0, 1])}


def noise() -> Any:
    return {"train": Noise(), "val": Noise()}


def stream() -> Any:
    return Stream()


def fails() -> Any:
    raise OSError("no such disk")


def plain_list(samples: Any) -> Any:
    kinds = {
        "array": np.zeros((4, 4, 3)),
        "bytes": torch.zeros(3, 4, 4, dtype=torch.uint8),
        "wide": torch.zeros(3, 4, 5),
    }
    return [(kinds[samples], 0), (kinds[samples], 1)]


def no_pairs() -> Any:
    return [{"image": 1}]


def breaks_later() -> Any:
    class Breaks(Pictures):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            if index == 3:
                raise ValueError("a damaged file")
            return super().__getitem__(index)

    return Breaks([0, 1], keep=True)


@pytest.mark.parametrize(
    ("name", "options", "sizes"),
    [
        ("pictures", {"labels": [0, 1]}, {"train": 9, "val": 3}),
        ("named", {"labels": [0, 1]}, {"train": 12, "val": 4, "test": 2}),
        ("pair", {"labels": [0, 1]}, {"train": 12, "val": 4}),
        ("splits", {}, {"train": 12, "val": 4}),
    ],
)
def test_datasets_come_in_several_forms(name: str, options: dict[str, Any], sizes: dict[str, int]) -> None:
    source = own(name, **options)
    assert dict(source.info.sizes) == sizes
    assert (source.info.task, source.info.classes, source.info.ready) == ("classification", ("0", "1"), False)
    data = source.datasets(COLOR, None, seed=0)
    images, labels = data.train.batch([SampleKey(0, 0), SampleKey(0, 1)])
    assert images.shape == (2, 3, 16, 16)  # type: ignore[union-attr]
    assert labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("labels", "task", "classes"),
    [
        (["dog", "cat"], "classification", ("cat", "dog")),
        ([7, 5], "classification", ("5", "7")),
        ([torch.tensor(1), torch.tensor(0)], "classification", ("0", "1")),
        ([0.5, 2.0], "regression", ("0",)),
        ([torch.tensor([1.5, 2.0]), torch.tensor([0.0, 1.0])], "regression", ("0", "1")),
        ([[1, 0, 1], [0, 0, 1]], "multilabel", ("0", "1", "2")),
        ([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])], "multilabel", ("0", "1")),
        ([["sea", "sky"], []], "multilabel", ("sea", "sky")),
    ],
    ids=str,
)
def test_labels_say_the_task(labels: Any, task: str, classes: tuple[str, ...]) -> None:
    info = own("pictures", labels=labels).info
    assert (info.task, info.classes) == (task, classes)


def test_targets_that_are_there_save_reading_all_samples() -> None:
    Pictures.reads = 0
    source = own("pictures", labels=[0, 1], keep=True)
    assert Pictures.reads <= 4, "one of each label, and those that show the channels"
    Pictures.reads = 0
    assert own("pictures", labels=[0, 1]).contents == source.contents
    assert Pictures.reads >= 12


@pytest.mark.parametrize("as_subset", [False, True])
@pytest.mark.parametrize("declared", [False, True], ids=["in __getitem__", "by target_transform"])
def test_mapped_labels_of_a_sorted_set_are_those_of_its_samples(declared: bool, as_subset: bool) -> None:
    source = own("mapped", declared=declared, as_subset=as_subset)
    assert source.labels("train").tolist() == [0, 0, 0, 0, 2, 2, 2, 2, 1, 1, 1, 1]


def test_a_set_with_many_numbers_is_checked_at_positions_of_all_of_it() -> None:
    Pictures.reads = 0
    own("scaled", count=5000, changed=0)
    assert Pictures.reads < 200
    assert own("scaled", count=5000, changed=2000).labels("train")[-1] == 2 * 4999


def test_a_set_of_color_may_start_with_gray_pictures() -> None:
    assert own("gray_first").info.channels == 3


def test_own_datasets_to_evaluate_on_may_have_a_single_class() -> None:
    values: dict[str, Any] = {
        "val_fraction": 0.25,
        "test_fraction": 0.0,
        "split_seed": 0,
        "augment": False,
        "workers": 0,
    }
    made: Any = {**values, "options": {"labels": ["cat"], "count": 1}, "task": "auto", "image_size": None}
    data = open_labeled(CustomDataConfig(name="custom", target=f"{HERE}.pictures", **made), None)
    assert (data.classes, data.splits["train"].labels.tolist()) == (("cat",), [0])


def test_a_subset_has_the_labels_of_its_part() -> None:
    source = own("subsets")
    assert source.labels("train").tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert source.labels("val").tolist() == [1, 2, 0]


def test_images_are_those_of_their_split() -> None:
    data = own("named", labels=[0, 1]).datasets(COLOR, None, seed=0)
    expected = (torch.tensor([0.0, 10.0]) / 255 - 0.5) / 0.5
    assert data.test is not None
    for dataset in (data.train, data.val, data.test):
        shades = torch.stack([dataset[i][0][0, 0, 0] for i in range(2)])
        assert shades.tolist() == pytest.approx(expected.tolist())


def test_gray_pictures_have_one_channel() -> None:
    source = own("pictures", labels=[0, 1], mode="L")
    assert source.info.channels == 1
    assert source.datasets(GRAY, None, seed=0).train[0][0].shape == (1, 32, 32)


def test_tensors_are_used_as_they_are() -> None:
    info = own("noise").info
    assert (info.ready, info.channels, info.image_size) == (True, 3, 8)
    images, _ = own("noise").datasets(None, None, seed=0).train.batch([SampleKey(0, 0), SampleKey(0, 1)])
    assert images.shape == (2, 3, 8, 8)  # type: ignore[union-attr]


def test_what_a_dataset_draws_depends_on_seed_epoch_and_sample_alone() -> None:
    train = own("noise").datasets(None, None, seed=5).train
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), random.getstate()
    first = train[SampleKey(0, 2)][0]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    torch.manual_seed(2)
    random.seed(2)
    np.random.seed(2)
    assert torch.equal(train[SampleKey(0, 2)][0], first)
    again = own("noise").datasets(None, None, seed=5).train
    assert torch.equal(again.batch([SampleKey(0, 1), SampleKey(0, 2)])[0][1], first)  # type: ignore[index]
    for other in (SampleKey(1, 2), SampleKey(0, 3)):
        assert not torch.equal(train[other][0], first)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: own("nothing"), "_target_=tests.data.test_custom.nothing: tests.data.test_custom has no nothing"),
        (
            lambda: own("named", labels=[0, 1], colour=1),
            "data.options.colour=1: tests.data.test_custom.named has no such",
        ),
        (lambda: own("fails"), "data=tests.data.test_custom.fails: cannot be made: OSError: no such disk"),
        (lambda: own("stream"), "its train is a Stream without len() and [index]"),
        (lambda: own("pictures", labels=[0, 1], count=0), "its train dataset is empty"),
        (lambda: own("pictures", labels=[0]), "a single class only (0)"),
        (lambda: own("plain_list", samples="array"), "its sample 0 has a ndarray; samples must be (PIL image or float"),
        (
            lambda: own("plain_list", samples="bytes"),
            "its sample 0 has a torch.uint8 tensor [3, 4, 4]; samples must be",
        ),
        (lambda: own("plain_list", samples="wide"), "its sample 0 has a torch.float32 tensor [3, 4, 5]; samples must"),
        (lambda: own("no_pairs"), "its sample 0 is a dict; samples must be"),
        (lambda: own("noise", image_size=32), "data.image_size=32: the samples are tensors of 8 pixels; omit it"),
        (
            lambda: own("too_many"),
            "returns a tuple of 4; the order is train, val, test, and it must give train, and may",
        ),
        (lambda: own("doubled"), "gives val twice (train, val, valid); it must give train, and may give val and test"),
        (lambda: own("pictures", labels=["a", "b"], task="regression"), "'a' is not a finite number (train, sample 0)"),
    ],
    ids=[str(number) for number in range(14)],
)
def test_a_mistake_is_one_line(call: Any, line: str) -> None:
    assert line in error_of(call)


def test_a_sample_that_fails_later_is_named() -> None:
    data = own("breaks_later").datasets(COLOR, None, seed=0)
    for dataset in (data.train, data.val):
        for index in range(len(dataset)):
            if dataset._positions[index] == 3:  # type: ignore[attr-defined]
                said = error_of(lambda: dataset[index])  # noqa: B023
                assert said.endswith("cannot read the image number 3: a damaged file")
                return
    raise AssertionError("no dataset has sample 3")


def test_the_folder_of_a_module_is_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_sets.py").write_text(
        "import torch\nmade = lambda: [(torch.zeros(1, 8, 8), i % 2) for i in range(8)]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = {"val_fraction": 0.5, "test_fraction": 0.0, "split_seed": 0, "augment": False, "workers": 0}
    made: Any = {**config, "options": {}, "task": "auto", "image_size": None}
    assert open_data(CustomDataConfig(name="custom", target="their_sets.made", **made)).info.channels == 1
