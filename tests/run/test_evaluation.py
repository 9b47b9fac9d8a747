"""What the evaluation at the end of a run leaves: numbers, tables and pictures, in its folder and in MLflow."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.commands import RunHere
from tests.helpers.data_sources import write_images
from tests.helpers.results import metrics_in
from tests.run.runs import SMALL, UNTRACKED, Store, folders

FILES = {
    "metrics.json", "per_class.csv", "predictions.csv", "confusion.csv", "confusion.png", "mistakes.csv",
    "mistakes.png",
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("no_pictures")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_ends_with_an_evaluation_of_its_test_split(lwexp_here: RunHere, store: Store, tmp_path: Path) -> None:
    outcome = lwexp_here("run", *SMALL, "max_steps=40", "epochs=10", "lr=0.01")
    assert outcome.code == 0, outcome.err
    run, (folder,) = store.run(), folders(tmp_path)
    sent = Path(run.info.artifact_uri.removeprefix("file://")) / "evaluation"
    assert {path.name for path in sent.iterdir()} == FILES == {path.name for path in (folder / "evaluation").iterdir()}
    metrics, found = run.data.metrics, json.loads((sent / "metrics.json").read_text(encoding="utf-8"))
    for name in ("accuracy", "macro_f1", "top5", "ece"):
        assert found[name] == pytest.approx(metrics[f"test/{name}"], rel=1e-6)
    assert metrics["test/accuracy"] < metrics["test/top5"] <= 1
    assert 0 < metrics["test/ece"] < 1

    rows = table(sent / "predictions.csv")
    assert [row["sample"] for row in rows] == [str(i) for i in range(270)]
    right = [row["true"] == row["predicted"] for row in rows]
    assert np.mean(right) == pytest.approx(metrics["test/accuracy"], rel=1e-6)
    assert [row["correct"] for row in rows] == [str(int(each)) for each in right]
    five = [{row["predicted"], *(row[f"predicted_{i}"] for i in range(2, 6))} for row in rows]
    assert np.mean([row["true"] in names for row, names in zip(rows, five, strict=True)]) == metrics["test/top5"]

    matrix = [list(row.values()) for row in table(sent / "confusion.csv")]
    counts = np.array([[int(number) for number in row[1:]] for row in matrix])
    assert counts.sum() == 270
    assert counts.trace() == sum(right)
    assert counts[3, 5] == sum(row["true"] == "3" and row["predicted"] == "5" for row in rows)
    classes = table(sent / "per_class.csv")
    assert [row["class"] for row in classes] == [str(digit) for digit in range(10)]
    assert [int(row["support"]) for row in classes] == counts.sum(axis=1).tolist()

    mistakes = table(sent / "mistakes.csv")
    assert 0 < len(mistakes) == min(100, right.count(False))
    probabilities = [float(row["probability"]) for row in mistakes]
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(rows[int(row["sample"])]["predicted"] == row["predicted"] != row["true"] for row in mistakes)
    for name in ("confusion.png", "mistakes.png"):
        with Image.open(sent / name) as image:
            pixels = np.asarray(image)
        assert min(pixels.shape[:2]) > 300
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20, "more than a blank picture"


def test_test_data_can_stay_unseen(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("run", *SMALL, *UNTRACKED, "evaluate_test=false")
    assert outcome.code == 0, outcome.err
    (folder,) = folders(tmp_path)
    found = metrics_in(folder)
    assert "val/accuracy" in found
    assert not [name for name in found if name.startswith("test/")]
    evaluated = json.loads((folder / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    assert evaluated["accuracy"] == pytest.approx(found["val/accuracy"])
    assert " test " not in outcome.out.splitlines()[-1]


def test_data_without_a_test_split_are_evaluated_on_the_validation_split(
    lwexp_here: RunHere, store: Store, tmp_path: Path
) -> None:
    for name in ("=calm", "wild"):
        write_images(tmp_path / "photos" / name, 10)
    options = ["data=image_folder", "data.path=photos", "data.image_size=16", "data.workers=0", "model=lstm",
               "model.hidden_size=8", "batch_size=8", "max_steps=2", "progress=false"]  # fmt: skip
    outcome = lwexp_here("run", *options)
    assert outcome.code == 0, outcome.err
    metrics, (folder,) = store.run().data.metrics, folders(tmp_path)
    rows = table(folder / "evaluation" / "predictions.csv")
    assert {row["file"].rpartition("/")[0] for row in rows} == {"'=calm", "wild"}, "safe in a spreadsheet"
    assert np.mean([row["correct"] == "1" for row in rows]) == metrics["val/accuracy"], "of the best weights"
    assert "best/ece" in metrics
    assert not [name for name in metrics if name.startswith("test/")]
    assert "best/top5" not in metrics, "of two classes both are among five"


def test_the_most_confident_mistakes_of_texts_are_a_table(lwexp_here: RunHere, tmp_path: Path) -> None:
    rows = [("a fine film", "good"), ("a dull, long film", "bad"), ("fine", "good"), ("dull", "bad")] * 6
    lines = "".join(f'"{text}",{label}\n' for text, label in rows)
    (tmp_path / "reviews.csv").write_text(f"text,label\n{lines}", encoding="utf-8")
    sizes = "{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16}"
    options = ["data=text", "data.path=reviews.csv", "model=huggingface", "model.config_class=BertConfig",
               f"model.config={sizes}", "batch_size=8", "grouping=depth_index"]  # fmt: skip
    outcome = lwexp_here("run", *options, "max_steps=1", "lr=1e-6", "progress=false", *UNTRACKED)
    assert outcome.code == 0, outcome.err
    (folder,) = folders(tmp_path)
    files = {path.name for path in (folder / "evaluation").iterdir()}
    assert files == FILES - {"mistakes.png"}
    mistakes = table(folder / "evaluation" / "mistakes.csv")
    assert mistakes
    assert {row["text"] for row in mistakes} <= {text for text, _ in rows}


def test_an_evaluation_that_cannot_be_written_is_a_warning(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lwexp.plots import confusion

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(confusion, "draw_confusion", fail)
    outcome = lwexp_here("run", *SMALL, *UNTRACKED)
    assert outcome.code == 0, outcome.err
    assert "is not complete: OSError: [Errno 28] No space left on device" in outcome.out
    (folder,) = folders(tmp_path)
    assert "test/ece" in json.loads((folder / "result.json").read_text(encoding="utf-8"))
