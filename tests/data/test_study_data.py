"""The study's controls: shifted photographs are the same each time, shuffled labels keep the sizes of all classes."""

from __future__ import annotations

import runpy
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "study_data.py"
COLOURS = {"blue": (20, 60, 200), "red": (250, 10, 30)}


@pytest.fixture
def main() -> Callable[[list[str]], None]:
    found: Callable[[list[str]], None] = runpy.run_path(str(SCRIPT))["main"]
    return found


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for split, count in {"train": 12, "validation": 8, "test": 6}.items():
        for name, colour in COLOURS.items():
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count // (1 if name == "red" else 2)):
                Image.new("RGB", (32, 24), colour).save(tmp_path / "photos" / split / name / f"{number}.png")
    return tmp_path / "photos"


def pixels(path: Path) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(Image.open(path), dtype=float)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.glob("*/*/*"))}


@pytest.mark.parametrize("shift", ["blur", "noise", "inverted"])
def test_each_image_is_there_under_its_shift_the_same_each_time(
    shift: str, main: Callable[[list[str]], None], photographs: Path, tmp_path: Path
) -> None:
    for target in ("one", "other"):
        main(["images", str(photographs), str(tmp_path / target), "--shift", shift])
    one = files(tmp_path / "one")
    assert one == files(tmp_path / "other")
    assert one.keys() == files(photographs).keys()
    first, second = (pixels(tmp_path / "one" / "train" / "red" / f"{number}.png") for number in range(2))
    if shift == "inverted":
        assert (first == 255 - np.array(COLOURS["red"])).all()
    elif shift == "noise":
        assert not (first == second).all(), "each image has noise of its own"
        main(["images", str(photographs), str(tmp_path / "less"), "--shift", shift, "--amount", "10"])
        noise = pixels(tmp_path / "less" / "train" / "blue" / "0.png")[..., 1] - COLOURS["blue"][1]
        assert (abs(noise.mean()), noise.std()) == (pytest.approx(0, abs=1.5), pytest.approx(10, rel=0.1))
    else:
        assert (abs(first - COLOURS["red"]) <= 1).all(), "an even surface stays as it is"


@pytest.mark.parametrize("test", [False, True])
def test_shuffled_labels_keep_the_images_and_the_sizes_of_the_classes(
    test: bool, main: Callable[[list[str]], None], photographs: Path, tmp_path: Path
) -> None:
    more = ["--test"] if test else []
    main(["images", str(photographs), str(tmp_path / "mixed"), "--shift", "shuffled", *more])
    found = files(tmp_path / "mixed")
    assert sorted(found.values()) == sorted(files(photographs).values())
    for split in ("train", "validation", "test"):
        own = [name.split("/") for name in found if name.startswith(split)]
        before = Counter(path.parent.name for path in photographs.glob(f"{split}/*/*"))
        assert Counter(label for _, label, _ in own) == before
        moved = sum(not file.startswith(label) for _, label, file in own)
        assert (moved > 0) is (test or split != "test"), split


def test_the_labels_of_a_table_are_shuffled_but_for_those_of_the_test(
    main: Callable[[list[str]], None], tmp_path: Path
) -> None:
    rows = ["text,label", *(f'"a text, {number}",{number % 3}' for number in range(30))]
    (tmp_path / "texts").mkdir()
    for split in ("train", "test"):
        (tmp_path / "texts" / f"{split}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    main(["text", str(tmp_path / "texts"), str(tmp_path / "mixed")])
    mixed = (tmp_path / "mixed" / "train.csv").read_text(encoding="utf-8").splitlines()
    assert [row.rpartition(",")[0] for row in mixed] == [row.rpartition(",")[0] for row in rows]
    assert mixed != rows
    assert Counter(row.rpartition(",")[2] for row in mixed) == Counter(row.rpartition(",")[2] for row in rows)
    assert (tmp_path / "mixed" / "test.csv").read_text(encoding="utf-8").splitlines() == rows


def test_mistakes_are_one_line(main: Callable[[list[str]], None], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,class\nx,1\n", encoding="utf-8")
    for arguments, words in (
        (["images", str(tmp_path), str(tmp_path / "b"), "--shift", "blur"], "has no images"),
        (["images", str(tmp_path), str(tmp_path), "--shift", "blur"], "exists"),
        (["text", str(tmp_path / "a.csv"), str(tmp_path / "b.csv")], "has no column 'label': text, class"),
    ):
        with pytest.raises(SystemExit, match=words):
            main(arguments)
