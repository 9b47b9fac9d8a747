"""`python -m lwexp.predict`: a table and a CSV file of images and texts."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import lwexp
from tests.helpers.commands import RunHere
from tests.inference.test_load import TEXTS, photographs, reviews, run
from tests.run.runs import SMALL

PHOTOS = ["data=image_folder", "data.path=photos", "data.image_size=16", "data.workers=0", "model=lstm",
          "model.hidden_size=8", "batch_size=8", "epochs=4", "lr=0.01", "progress=false"]  # fmt: skip


def rows(path: str = "predictions.csv") -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_images_becomes_a_table_and_a_file_and_what_cannot_be_read_is_named(lwexp_here: RunHere) -> None:
    photographs(Path("photos"))
    folder = run(lwexp_here, *PHOTOS)
    Path("photos/test/red/broken.png").write_text("no image")
    Path("photos/test/notes.txt").write_text("none either")
    ended = lwexp_here("predict", str(folder), "photos/test", "--top", "2", "--batch-size", "3")
    assert ended.code == 1
    assert "photos/test/red/broken.png: not an image, or a format that Pillow cannot read" in ended.err
    assert "1 .txt file (notes.txt)" in ended.err
    assert max(map(len, ended.out.splitlines())) <= 80
    assert "predictions.csv: 8 predictions" in ended.out
    found = rows()
    assert len(found) == 8
    loaded = lwexp.load(folder)
    for row in found:
        probabilities = loaded.predict([row["file"]])[0]
        best = int(probabilities.argmax())
        assert row["class"] == loaded.classes[best]
        assert float(row["probability"]) == pytest.approx(float(probabilities[best]), abs=2e-6)
        assert float(row["probability"]) + float(row["probability_2"]) == pytest.approx(1, abs=1e-5)


def test_texts_come_from_files_and_from_the_command_line(lwexp_here: RunHere) -> None:
    reviews(Path("reviews.csv"))
    folder = run(lwexp_here, *TEXTS)
    Path("new.txt").write_text("a fine film\n\ndull\n")
    Path("new.jsonl").write_text('{"review": "warm", "n": 1}\n')
    ended = lwexp_here("predict", str(folder), "new.txt", "--text", "cold, =1+1", "--out", "out/texts.csv")
    assert ended.code == 0, ended.err
    assert [(row["file"], row["text"]) for row in rows("out/texts.csv")] == [
        ("text 1", "cold, =1+1"), ("new.txt:1", "a fine film"), ("new.txt:3", "dull"),
    ]  # fmt: skip
    ended = lwexp_here("predict", str(folder), "new.jsonl", "--column", "revue")
    assert (ended.code, ended.err) == (
        2, "lwexp-predict: --column=revue: no such key in new.jsonl, line 1; did you mean review?\n",
    )  # fmt: skip
    assert lwexp_here("predict", str(folder), "new.jsonl", "--column", "review").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "run=: give a run and what to predict: lwexp-predict latest my_photos"),
        (["latest"], "path=: give a folder of images, or files"),
        (["latest", "nowhere"], "path=nowhere: there is no such file or folder"),
        (["latest", "outputs", "--top", "0"], "--top=0: must be 1 or more"),
        (["latest", "outputs", "--weights", "worst"], "weights=worst: must be best, last, wise_ft"),
        (["latest", "outputs", "--text", "a"], "reads images, not texts"),
        (["latest", "outputs", "--tops", "1"], "unrecognized arguments: --tops 1; see lwexp-predict --help"),
    ],
)
def test_a_mistake_is_one_line(lwexp_here: RunHere, words: list[str], message: str) -> None:
    run(lwexp_here, *SMALL)
    ended = lwexp_here("predict", *words)
    assert ended.code == 2
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("out", [".", "", "there"])
@pytest.mark.parametrize("command", ["predict", "export"])
def test_a_folder_in_place_of_the_file_is_one_line_before_any_work(lwexp_here: RunHere, command: str, out: str) -> None:
    Path("there").mkdir()
    ended = lwexp_here(command, "nowhere", *(["photos"] if command == "predict" else []), "--out", out)
    assert ended.code == 2
    assert ended.err == f"lwexp-{command}: --out={out or '.'}: is a folder; give the name of the file\n"
