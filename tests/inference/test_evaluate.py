"""`python -m lwexp.evaluate`: a run on its own test split, and on other data whose classes are matched by name."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image

from lwexp.evaluate import main
from tests.helpers.commands import RunHere
from tests.run.runs import SMALL, UNTRACKED

FOLDER = Path("outputs/runs/mine")
COLORS = {"blue": (20, 20, 200), "green": (20, 200, 20), "red": (200, 20, 20)}
PHOTOS = ["data=image_folder", "data.path=photos", "data.image_size=16", "data.workers=0", "model=lstm",
          "model.hidden_size=8", "batch_size=8", "epochs=4", "lr=0.01", "progress=false"]  # fmt: skip
TEXTS = ["data=text", "data.path=reviews.csv", "data.max_length=16", "data.workers=0", "model=huggingface",
         "model.config_class=BertConfig",
         "model.config={hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16}",
         "batch_size=8", "max_steps=3", "progress=false", "grouping=depth_index"]  # fmt: skip


def photographs(folder: Path, classes: tuple[str, ...], count: int) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (24 + i, 24), COLORS.get(name, (99, 99, 99))).save(folder / name / f"{i}.png")


def run(lwexp_here: RunHere, *options: str) -> None:
    ended = lwexp_here("run", *options, "hydra.run.dir=outputs/runs/mine")
    assert ended.code == 0, ended.err


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def metrics(path: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    return found


def one_line(lwexp_here: RunHere, *arguments: str) -> str:
    assert main(arguments) == 2
    outcome = lwexp_here("evaluate", *arguments)
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.startswith("lwexp-evaluate: ")
    return outcome.err


def test_a_run_evaluated_again_gives_its_own_test(lwexp_here: RunHere) -> None:
    run(lwexp_here, *SMALL)
    outcome = lwexp_here("evaluate", str(FOLDER), "batch_size=100")
    assert outcome.code == 0, outcome.err
    result = json.loads((FOLDER / "result.json").read_text(encoding="utf-8"))
    again, own = metrics(FOLDER / "evaluation" / "test"), metrics(FOLDER / "evaluation")
    assert again == pytest.approx(own, abs=1e-6)
    assert again["ece"] == pytest.approx(result["test/ece"], abs=1e-6)
    assert f"accuracy {result['test/accuracy']:.2%}" in outcome.out
    assert max(map(len, outcome.out.splitlines()[:-1])) <= 80
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines if line[:2].strip().isdigit()] == [str(digit) for digit in range(10)]
    val = lwexp_here("evaluate", "latest", "--split", "val", "--out", "there")
    assert val.code == 0, val.err
    assert metrics(Path("there"))["accuracy"] == pytest.approx(result["val/accuracy"], abs=1e-6)


def test_files_are_attached_to_the_run_in_mlflow_when_asked(lwexp_here: RunHere) -> None:
    run(lwexp_here, *SMALL)
    outcome = lwexp_here("evaluate", "latest", "--split", "val", "--attach")
    assert outcome.code == 0, outcome.err
    client = MlflowClient(tracking_uri="sqlite:///outputs/mlflow.db")
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert f"attached to run {found.info.run_id}" in outcome.out
    place = Path(found.info.artifact_uri.removeprefix("file://")) / "evaluation" / "val"
    assert {"confusion.png", "predictions.csv", "metrics.json"} <= {path.name for path in place.iterdir()}


def test_other_photographs_are_matched_by_the_names_of_their_classes(lwexp_here: RunHere) -> None:
    photographs(Path("photos"), ("blue", "green", "red"), 9)
    run(lwexp_here, *PHOTOS, *UNTRACKED)
    shutil.rmtree("photos")
    photographs(Path("others"), ("green", "red"), 5)
    outcome = lwexp_here("evaluate", str(FOLDER), "data.path=others")
    assert outcome.code == 0, outcome.err
    assert "no sample of blue" in outcome.out
    rows = table(FOLDER / "evaluation" / "others" / "predictions.csv")
    assert [row["file"] for row in rows] == [f"{name}/{i}.png" for name in ("green", "red") for i in range(5)]
    assert {row["true"] for row in rows} == {"green", "red"}, "all of them, not a fifth cut off"
    assert metrics(FOLDER / "evaluation" / "others")["accuracy"] == sum(row["correct"] == "1" for row in rows) / 10
    classes = {row["class"]: row["support"] for row in table(FOLDER / "evaluation" / "others" / "per_class.csv")}
    assert classes == {"blue": "0", "green": "5", "red": "5"}

    photographs(Path("more/test"), ("redd", "red"), 4)
    said = one_line(lwexp_here, str(FOLDER), "data.path=more")
    assert "data.path=more: the model does not know the class redd; did you mean red?" in said
    skipped = lwexp_here("evaluate", str(FOLDER), "data.path=more", "--skip-unknown", "--out", "out")
    assert skipped.code == 0, skipped.err
    assert "ignored, of classes that the model does not know: 4" in skipped.out
    assert len(table(Path("out/predictions.csv"))) == 4
    photographs(Path("alone"), ("cat",), 2)
    assert "no sample is of a class that the model knows" in one_line(
        lwexp_here, str(FOLDER), "data.path=alone", "--skip-unknown"
    )
    assert "--split=train: the data have test only" in one_line(
        lwexp_here, str(FOLDER), "data.path=more", "--split", "train", "--skip-unknown"
    )
    Image.new("RGB", (9, 9)).save("alone/1.png")
    shutil.rmtree("alone/cat")
    assert "images without classes are for lwexp.predict" in one_line(lwexp_here, str(FOLDER), "data.path=alone")


def test_other_texts_are_read_with_the_tokenizer_of_the_run(lwexp_here: RunHere) -> None:
    rows = [("a fine film", "good"), ("a dull film", "bad"), ("fine and warm", "good"), ("dull and cold", "bad")] * 8
    Path("reviews.csv").write_text("text,label\n" + "".join(f"{t},{c}\n" for t, c in rows), encoding="utf-8")
    run(lwexp_here, *TEXTS, *UNTRACKED)
    Path("reviews.csv").unlink()
    Path("new.csv").write_text("text,label\na fine cold film,good\nfine,good\nunknown words,good\n", encoding="utf-8")
    outcome = lwexp_here("evaluate", str(FOLDER), "data.path=new.csv")
    assert outcome.code == 0, outcome.err
    folder = FOLDER / "evaluation" / "new.csv"
    found = table(folder / "predictions.csv")
    assert [row["text"] for row in found] == ["a fine cold film", "fine", "unknown words"]
    assert {row["true"] for row in found} == {"good"}
    assert not (folder / "mistakes.png").exists()
    assert ("most confident mistakes" in outcome.out) == (metrics(folder)["accuracy"] < 1)


def test_only_the_files_of_an_evaluation_are_replaced(lwexp_here: RunHere) -> None:
    run(lwexp_here, *SMALL, *UNTRACKED)
    Path("there").mkdir()
    Path("there/mine.csv").write_text("mine")
    for _ in range(2):  # the second replaces the first
        outcome = lwexp_here("evaluate", str(FOLDER), "--out", "there")
        assert outcome.code == 0, outcome.err
        assert "mine.csv" not in outcome.out
    assert Path("there/mine.csv").read_text() == "mine"
    Path("there/metrics.json").unlink()
    assert "--out=there: holds confusion.csv, which is not of an evaluation" in one_line(
        lwexp_here, str(FOLDER), "--out", "there"
    )
    Path("link").symlink_to("there")
    assert "--out=link: is a link" in one_line(lwexp_here, str(FOLDER), "--out", "link")
    assert "--out=there/mine.csv: is a file" in one_line(lwexp_here, str(FOLDER), "--out", "there/mine.csv")
    shutil.rmtree(FOLDER / "evaluation")
    (FOLDER / "evaluation").symlink_to(Path("there").absolute())
    outcome = lwexp_here("evaluate", str(FOLDER))
    assert outcome.code == 1
    assert "is a link to another place" in outcome.err
    assert not Path("there/test").exists()


def test_the_folder_is_named_by_the_data_and_the_weights(lwexp_here: RunHere) -> None:
    photographs(Path("photos/test"), ("blue", "red"), 4)
    photographs(Path("photos/train"), ("blue", "red"), 9)
    run(lwexp_here, *PHOTOS, *UNTRACKED)

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in FOLDER.glob("*.*") if path.is_file() and path.suffix != ".log"}

    before = files()
    (Path("photos") / "inner").mkdir()
    for data, more, name in [
        ("photos/inner/..", (), "photos_test"), ("photos/test", (), "photos-test"),
        ("photos/test", ("--weights", "last"), "photos-test_last"),
    ]:  # fmt: skip
        outcome = lwexp_here("evaluate", str(FOLDER), f"data.path={data}", *more)
        assert outcome.code == 0, outcome.err
        assert f"outputs/runs/mine/evaluation/{name}: " in outcome.out
        assert (FOLDER / "evaluation" / name / "metrics.json").is_file()
    assert files() == before


def test_code_that_only_the_run_names_is_not_executed(lwexp_here: RunHere) -> None:
    marker = Path("executed").absolute()
    Path("evil.py").write_text(f"def make(**_):\n    open({str(marker)!r}, 'w').close()\n", encoding="utf-8")
    run(lwexp_here, *SMALL, *UNTRACKED)
    config = FOLDER / "config.yaml"
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    mine = {"name": "custom", "_target_": "evil.make", "options": {}, "task": "auto"}
    for data in (mine, {**values["data"], "transforms": [{"_target_": "evil.make"}]}):
        config.write_text(yaml.safe_dump({**values, "data": data}), encoding="utf-8")
        for options in ((), ("data.split_seed=3",), ("data.workers=0",)):
            assert "would execute evil.make" in one_line(lwexp_here, str(FOLDER), *options)
    record = json.loads((FOLDER / "inference.json").read_text(encoding="utf-8"))
    forged = {"options": {"source": "custom", "target": "evil.make", "transform_input": False}}
    (FOLDER / "inference.json").write_text(json.dumps({**record, "network": forged}), encoding="utf-8")
    lwexp_here("predict", str(FOLDER), "photos")
    assert not marker.exists()
    (FOLDER / "inference.json").write_text(json.dumps(record), encoding="utf-8")
    config.write_text(yaml.safe_dump({**values, "data": mine}), encoding="utf-8")
    assert lwexp_here("evaluate", str(FOLDER), "data._target_=evil.make").code != 0
    assert marker.exists(), "the command itself names it"


def test_mistakes_are_one_line_with_what_is_possible(lwexp_here: RunHere) -> None:
    run(lwexp_here, *SMALL, *UNTRACKED)
    said = [
        (("lr=0.1",), "lr=0.1: is not an option of an evaluation"),
        (("data.image_size=9",), "data.image_size=9: an evaluation takes the run's own"),
        (("data=digit",), "data=digit: no such data; did you mean digits?"),
        (("data.pth=x",), "data.pth=x: unknown option"),
        (("data=image_folder",), "data.path=???: must be given"),
        (("data=image_folder", "data.path=nowhere"), "there is no such folder"),
        (("data=text", "data.path=x.csv"), "the run reads images, not texts"),
        (("photos",), "data are named data.path=…"),
        (("--split", "tset"), "--split=tset: no such split; did you mean test?"),
        (("batch_size=0",), "batch_size=0: must be a whole number above 0"),
        (("data.path=[",), "cannot be read"),
        (("--attach",), "the run is not in MLflow"),
    ]
    for arguments, expected in said:
        assert expected in one_line(lwexp_here, str(FOLDER), *arguments), arguments
    assert "holds no run" in one_line(lwexp_here, ".")
    assert "run=: give a run first" in one_line(lwexp_here)
    assert "run=data.path=x: give a run first" in one_line(lwexp_here, "data.path=x")
