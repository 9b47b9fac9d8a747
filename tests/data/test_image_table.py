"""data=images data.path=…: classes, several labels and numbers from a table; its mistakes in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lwexp.config.data_schema import ImageTableConfig
from lwexp.data import DataSource, SampleKey, open_data
from lwexp.data.labeled import open_labeled
from tests.helpers.data_sources import COLOR, error_of, write_images

DEFAULTS: dict[str, Any] = {
    "path": None, "dataset": None, "subset": None, "image": None, "label": "label", "delimiter": None, "task": "auto",
    "root": None, "suffix": "", "split": None, "cache": False, "val_fraction": 0.25, "test_fraction": 0.0,
    "image_size": None, "split_seed": 0, "augment": False, "workers": 0,
}  # fmt: skip


def table(path: Path | str, **changes: Any) -> DataSource:
    return open_data(ImageTableConfig(name="images", **{**DEFAULTS, "path": str(path), **changes}))


def write(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """`photos/000.png` to `photos/019.png`."""
    write_images(tmp_path / "photos", 20)
    return tmp_path


def rows(*cells: str) -> list[str]:
    """One line for each of the images, the cells in turn."""
    return [f"photos/{number:03d}.png,{cells[number % len(cells)]}" for number in range(20)]


def test_a_column_of_names_is_a_classification(images: Path) -> None:
    source = table(write(images / "labels.csv", "file,label", *rows("dog", "cat")))
    info = source.info
    assert (info.task, info.classes, info.channels, info.scale) == ("classification", ("cat", "dog"), 3, None)
    assert dict(info.sizes) == {"train": 15, "val": 5}
    assert source.labels("train").dtype == torch.int64
    assert sorted(torch.bincount(source.labels("val")).tolist()) == [2, 3], "stratified"


@pytest.mark.parametrize(("cells", "classes"), [(["dog"], ("dog",)), (["dog", "cat", "owl"], ("cat", "dog", "owl"))])
@pytest.mark.parametrize("name", ["labels.csv", "test.csv"])
def test_data_to_evaluate_on_may_have_one_class_or_one_image_of_each(
    images: Path, cells: list[str], classes: tuple[str, ...], name: str
) -> None:
    (images / "new").mkdir()
    write(images / "new" / name, "file,label", *rows(*cells)[: len(cells)])
    path = images / "new" / (name if name == "labels.csv" else "")
    config = ImageTableConfig(name="images", **{**DEFAULTS, "path": str(path), "root": str(images)})
    data = open_labeled(config, None)
    assert data.classes == classes
    assert {split: len(own.labels) for split, own in data.splits.items()} == {
        "train" if name == "labels.csv" else "test": len(cells)
    }


def test_whole_numbers_are_classes_unless_the_task_says_otherwise(images: Path) -> None:
    path = write(images / "labels.csv", "file,label", *rows("10", "9"))
    assert table(path).info.classes == ("9", "10")
    source = table(path, task="regression")
    assert (source.info.task, source.info.classes) == ("regression", ("label",))
    assert set(source.labels("train").flatten().tolist()) == {9.0, 10.0}


def test_a_delimiter_makes_several_labels(images: Path) -> None:
    cells = ("sea sky", "sky", "", "sea  sky")
    source = table(write(images / "labels.csv", "file,label", *rows(*cells)), delimiter=" ")
    assert (source.info.task, source.info.classes) == ("multilabel", ("sea", "sky"))
    data = source.datasets(COLOR, None, seed=0)
    inputs, labels = data.train.batch([SampleKey(0, i) for i in range(len(data.train))])
    assert inputs.shape == (15, 3, 16, 16)  # type: ignore[union-attr]
    assert labels.dtype == torch.float32
    assert torch.equal(labels, source.labels("train"))
    whole = torch.cat([source.labels("train"), source.labels("val")])
    assert whole.sum(dim=0).tolist() == [10, 15]
    assert data.train[0][1].tolist() == labels[0].tolist()


def test_columns_of_0_and_1_are_several_labels(images: Path) -> None:
    source = table(write(images / "labels.csv", "file,sea,sky", *rows("1,0", "0,true")), label=["sky", "sea"])
    assert (source.info.task, source.info.classes) == ("multilabel", ("sky", "sea"))
    assert {tuple(row) for row in source.labels("train").tolist()} == {(0, 1), (1, 0)}


def test_a_list_in_jsonl_is_several_labels(images: Path) -> None:
    lines = [f'{{"image": "photos/{i:03d}.png", "label": {["[]", "[1, 2]"][i % 2]}}}' for i in range(20)]
    (images / "labels.jsonl").write_text("\n".join(lines))
    assert table(images / "labels.jsonl").info.classes == ("1", "2")


def test_numbers_are_a_regression_with_the_scale_of_the_training_set(images: Path) -> None:
    source = table(write(images / "labels.csv", "file,label", *rows("1.5", "3", "4.5e1")))
    info, train = source.info, source.labels("train")
    assert (info.task, info.classes) == ("regression", ("label",))
    assert info.scale is not None
    assert info.scale.mean == pytest.approx(train.mean(dim=0).tolist())
    assert info.scale.std == pytest.approx(train.std(dim=0, correction=0).tolist())
    scores = torch.zeros(1, 1)
    assert info.predictions(scores).item() == pytest.approx(info.scale.mean[0])


def test_several_columns_of_numbers_are_a_regression(images: Path) -> None:
    path = write(images / "labels.csv", "file,x,y", *rows("1.5,2", "3,9"))
    source = table(path, label=["x", "y"])
    assert (source.info.task, source.info.classes) == ("regression", ("x", "y"))
    assert source.labels("train").shape == (15, 2)


def test_one_number_is_split_over_its_whole_range(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    path = write(tmp_path / "labels.csv", "file,label", *(f"000.png,{number + 0.5}" for number in range(200)))
    held = table(path, val_fraction=0.2).labels("val").flatten()
    tenths = torch.bincount((held / 20).long(), minlength=10)
    assert tenths.tolist() == [4] * 10


def test_the_rarest_label_is_in_both_parts(images: Path) -> None:
    source = table(write(images / "l.csv", "file,label", *rows("a", "a", "a", "a b")), delimiter=" ", val_fraction=0.4)
    assert source.labels("val")[:, 1].sum() == 2
    assert source.labels("train")[:, 1].sum() == 3


def test_a_column_says_which_split(images: Path) -> None:
    path = write(images / "labels.csv", "file,label,part", *rows("a,train", "b,train", "b,valid", "a,Test"))
    source = table(path, split="part")
    assert dict(source.info.sizes) == {"train": 10, "val": 5, "test": 5}
    assert source.labels("test").tolist() == [0] * 5


def test_a_folder_of_tables_has_a_file_for_each_split(images: Path) -> None:
    (images / "tables").mkdir()
    for name in ("train", "dev"):
        write(images / "tables" / f"{name}.csv", "file,label", *rows("a", "b"))
    source = table(images / "tables", root=str(images))
    assert dict(source.info.sizes) == {"train": 20, "val": 20}


def test_fractions_of_all_are_cut_by_split_seed(images: Path) -> None:
    path = write(images / "labels.csv", "file,label", *rows("a", "b"))
    first, again, other = (table(path, test_fraction=0.25, split_seed=seed) for seed in (1, 1, 2))
    assert dict(first.info.sizes) == {"train": 10, "val": 5, "test": 5}
    assert torch.equal(first._splits["val"].positions, again._splits["val"].positions)
    assert not torch.equal(first._splits["val"].positions, other._splits["val"].positions)


def test_names_without_an_ending_and_images_elsewhere(images: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = write(tmp_path / "elsewhere" / "labels.csv", "id,breed", *(f"{i:03d},{'ab'[i % 2]}" for i in range(20)))
    source = table(path, image="id", label="breed", suffix=".png", root=str(images / "photos"))
    assert source.datasets(COLOR, None, seed=0).train[0][0].shape == (3, 16, 16)


def test_the_contents_change_with_the_labels(images: Path) -> None:
    path = write(images / "labels.csv", "file,label", *rows("a", "b"))
    before = table(path).contents
    assert before["photos/000.png"] == (images / "photos" / "000.png").stat().st_size
    write(path, "file,label", *rows("b", "a"))
    after = table(path).contents
    assert {name for name in after if after[name] != before[name]} == {"labels of train"}


MISTAKES: dict[str, tuple[str, list[str], dict[str, Any], str]] = {
    "label": (
        "file,kind", ["a", "b"], {"label": "kinds"},
        "data.label=kinds: no such column in labels.csv, line 2; did you mean kind?",
    ),
    "image": (
        "picture,label", ["a", "b"], {},
        "data.image=null: labels.csv has no column image, file, ",
    ),
    "number": (
        "file,label", ["1.5", "much"], {"task": "regression"},
        "data.label=label: 'much' is not a finite number (labels.csv, line 3)",
    ),
    "infinite": (
        "file,label", ["1.5", "inf"], {"task": "regression"},
        "data.label=label: 'inf' is not a finite number (labels.csv, line 3)",
    ),
    "flag": (
        "file,a,b", ["1,0", "2,1"], {"label": ["a", "b"], "task": "multilabel"},
        "data.label=a: '2' is neither 0 nor 1 (labels.csv, line 3)",
    ),
    "mixed columns": (
        "file,a,b", ["1,0", "x,1"], {"label": ["a", "b"]},
        "data.label=x: of several columns, each must hold 0 and 1",
    ),
    "two classes": (
        "file,a,b", ["1,0", "0,1"], {"label": ["a", "b"], "task": "classification"},
        "data.label=['a', 'b']: a classification has one column",
    ),
    "no delimiter": (
        "file,label", ["a b", "a"], {"task": "multilabel"},
        "data.label=a b: 'a b' is one text (labels.csv, line 2); data.delimiter says",
    ),
    "delimiter of one": (
        "file,label", ["a", "b"], {"task": "classification", "delimiter": ";"},
        "data.delimiter=;: separates several labels, data.task=classification has one",
    ),
    "split": (
        "file,label,part", ["a,train", "b,trian"], {"split": "part"},
        "data.split=part: 'trian' is no split (labels.csv, line 3); did you mean train?",
    ),
    "no train": (
        "file,label,part", ["a,val", "b,test"], {"split": "part"},
        "data.split=part: no row is of train, only of val, test",
    ),
    "single class": (
        "file,label", ["a"], {},
        "a single class only (a); there is nothing to classify",
    ),
    "no labels": (
        "file,label", [""], {"delimiter": ";"},
        "no training sample has a label",
    ),
    "fractions": (
        "file,label", ["a", "b"], {"val_fraction": 0.6, "test_fraction": 0.5},
        "data.val_fraction=0.6: leaves nothing to train on",
    ),
    "no column": (
        "file,label", ["a", "b"], {"label": []},
        "data.label=[]: must name a column",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_its_place(images: Path, name: str) -> None:
    header, cells, options, line = MISTAKES[name]
    path = write(images / "labels.csv", header, *rows(*cells))
    assert line in error_of(lambda: table(path, **options))


def test_a_missing_table_an_empty_one_and_one_that_is_none(images: Path) -> None:
    assert "there is no such file or folder" in error_of(lambda: table(images / "none.csv"))
    path = write(images / "labels.csv", "file,label")
    assert error_of(lambda: table(path)).endswith("labels.csv lists no images")
    assert "must end in .csv" in error_of(lambda: table(images / "photos" / "000.png"))
    assert "give either data.path or data.dataset" in error_of(lambda: table(path, dataset="x"))


def test_missing_images_are_counted_and_named(images: Path) -> None:
    path = write(images / "labels.csv", "file,label", *rows("a", "b"), "photos/cat.png,a", "photos/dog.png,b")
    said = error_of(lambda: table(path))
    assert f"2 of 22 images are not in {images}: photos/cat.png (labels.csv, line 22), photos/dog.png" in said


@pytest.mark.parametrize("name", ["../outside.png", "/etc/hostname", "photos/../../outside.png"])
def test_a_table_cannot_reach_outside_of_its_folder(images: Path, name: str) -> None:
    write_images(images / "below", 1)
    path = write(images / "below" / "labels.csv", "file,label", "000.png,b", f"{name},a")
    assert f"{name} (labels.csv, line 3) is outside of the folder {images / 'below'}" in error_of(lambda: table(path))


def test_absolute_names_are_read_where_the_root_allows_it(images: Path) -> None:
    path = write(images / "labels.csv", "file,label", *(f"{images}/{row}" for row in rows("a", "b")))
    assert table(path, root="/").info.sizes["train"] == 15
