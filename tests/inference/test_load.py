"""`lwexp.load`: the network of a run gives what the run's own evaluation gave, without its data and its code."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import lwexp
from lwexp.data.transforms import Preprocessing
from tests.helpers.commands import RunHere
from tests.run.runs import SMALL, UNTRACKED

TEXTS = ["data=text", "data.path=reviews.csv", "data.max_length=16", "data.workers=0", "model=huggingface",
         "model.config_class=BertConfig",
         "model.config={hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16}",
         "batch_size=8", "max_steps=3", "progress=false", "grouping=depth_index"]  # fmt: skip


def run(lwexp_here: RunHere, *options: str) -> Path:
    """The folder of a run that has ended well."""
    ended = lwexp_here("run", *options, *UNTRACKED, "hydra.run.dir=outputs/runs/mine")
    assert ended.code == 0, ended.err
    return Path("outputs/runs/mine")


def photographs(folder: Path, size: int = 24) -> None:
    """Two classes of colored squares, in train and test."""
    for split, count in (("train", 12), ("test", 4)):
        for name, color in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (size + i, size), color).save(folder / split / name / f"{i}.png")


def reviews(path: Path) -> None:
    rows = [("a fine film", "good"), ("a dull film", "bad"), ("fine and warm", "good"), ("dull and cold", "bad")] * 8
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")


def result(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def test_a_loaded_run_classifies_as_its_own_test_did_when_its_data_are_gone(lwexp_here: RunHere) -> None:
    photographs(Path("photos"))
    folder = run(
        lwexp_here, "data=image_folder", "data.path=photos", "data.image_size=16", "data.workers=0", "model=lstm",
        "model.hidden_size=8", "batch_size=8", "epochs=4", "lr=0.01", "progress=false",
    )  # fmt: skip
    images = [(path.parent.name, Image.open(path).copy()) for path in sorted(Path("photos/test").rglob("*.png"))]
    shutil.rmtree("photos")
    model, transform, classes = lwexp.load(folder)
    assert classes == ("blue", "red")
    assert not model.training
    logits = model(torch.stack([transform(image) for _, image in images]))
    found = [classes[i] for i in logits.argmax(dim=1)]
    right = sum(name == label for name, (label, _) in zip(found, images, strict=True))
    assert right / len(images) == pytest.approx(result(folder)["test/accuracy"])
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([classes.index(label) for label, _ in images]))
    assert loss.item() == pytest.approx(result(folder)["test/loss"], rel=1e-5)


def test_best_and_last_weights_are_those_of_the_files(lwexp_here: RunHere) -> None:
    from safetensors.torch import load_file

    folder = run(lwexp_here, *SMALL)
    for weights, file in (("best", "best"), ("last", "model")):
        loaded = lwexp.load(folder, weights=weights)  # type: ignore[arg-type]
        state = loaded.model.state_dict()
        for name, tensor in load_file(folder / f"{file}.safetensors").items():
            assert torch.equal(state[name], tensor)
    assert loaded.image_size == 8
    assert loaded.kind == "image"
    assert loaded.task == "classification"


def test_texts_keep_their_tokenizer(lwexp_here: RunHere) -> None:
    reviews(Path("reviews.csv"))
    folder = run(lwexp_here, *TEXTS)
    Path("reviews.csv").unlink()
    loaded = lwexp.load(folder)
    assert loaded.kind == "text"
    assert loaded.image_size is None
    probabilities = loaded.predict(["a fine film", "dull", "fine and warm and dull and cold"], batch_size=2)
    assert probabilities.shape == (3, 2)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(3))
    alone = loaded.predict(["a fine film"])
    assert torch.allclose(alone, probabilities[:1], atol=1e-6)  # padding changes nothing


def test_the_transform_works_in_the_processes_of_a_data_loader(lwexp_here: RunHere) -> None:
    loaded = lwexp.load(run(lwexp_here, *SMALL))
    transform = pickle.loads(pickle.dumps(loaded.transform))
    gray, color = Image.new("L", (9, 5), 99), Image.new("RGB", (9, 5), (99, 99, 99))
    assert transform(gray).shape == (1, 8, 8)
    assert torch.equal(transform(gray), transform(color))
    assert isinstance(transform.preprocessing, Preprocessing)


def test_a_network_of_the_users_own_needs_leave(lwexp_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "open('imported', 'a').close()\n"
        "def tiny(num_classes, in_chans, img_size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * img_size ** 2, 4), nn.Linear(4, num_classes))\n"
    )
    custom = ["model=custom", "model._target_=my_nets.tiny", "data.image_size=8", "max_steps=2", "progress=false"]
    folder = run(lwexp_here, *custom)
    Path("imported").unlink()
    with pytest.raises(lwexp.ConfigError, match=r"would execute my_nets\.tiny"):
        lwexp.load(folder)
    assert not Path("imported").exists()
    assert lwexp.load(folder, allow_targets=["my_nets.tiny"]).classes == tuple("0123456789")


def test_a_run_that_is_not_finished_can_be_used_and_says_so(lwexp_here: RunHere) -> None:
    folder = run(lwexp_here, *SMALL)
    (folder / "model.safetensors").unlink()
    cut_the_end(folder)
    loaded = lwexp.load(folder)
    (note,) = loaded.notes
    assert "is not finished" in note
    with pytest.raises(
        lwexp.ConfigError, match=r"weights=last: .* has no model\.safetensors; it has those of weights=best"
    ):
        lwexp.load(folder, weights="last")


def cut_the_end(folder: Path) -> None:
    """Leave the journal as a killed process does."""
    from lwexp.tracking.journal import Reader

    journal = folder / "journal.lwexp"
    ends = [entry.end for entry in Reader(journal).entries() if entry.kind != "end"]
    with journal.open("r+b") as file:
        file.truncate(ends[-1])


def test_a_run_without_a_record_opens_its_data(lwexp_here: RunHere) -> None:
    photographs(Path("photos"))
    options = ["data=image_folder", "data.path=photos", "data.image_size=16", "data.workers=0", "model=lstm",
               "batch_size=8", "max_steps=2", "progress=false"]  # fmt: skip
    folder = run(lwexp_here, *options)
    before = lwexp.load(folder)
    (folder / "inference.json").unlink()
    assert lwexp.load(folder).record == before.record
    shutil.rmtree("photos")
    with pytest.raises(lwexp.ConfigError, match=r"its data cannot be opened: .*there is no such folder"):
        lwexp.load(folder)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nothing", "run=nothing: no such folder, and no MLflow run id; the newest run is outputs/runs/mine"),
        ("outputs", "run=outputs: holds no run; the newest run is outputs/runs/mine"),
        ("outputs/runs/mine/config.yaml", "is a file; give the run's folder"),
    ],
    ids=["name", "folder", "file"],
)
def test_a_run_that_is_not_there_is_named_with_the_newest(lwexp_here: RunHere, value: str, message: str) -> None:
    run(lwexp_here, *SMALL)
    with pytest.raises(lwexp.ConfigError) as error:
        lwexp.load(value)
    assert message in str(error.value)
    assert lwexp.load("latest").folder == Path("outputs/runs/mine").absolute()


def test_of_a_sweep_the_best_run_is_taken(lwexp_here: RunHere) -> None:
    ended = lwexp_here(
        "run", "-m", "lr=1e-9,0.05", *SMALL[:-2], "epochs=3", "progress=false", *UNTRACKED, "sweep.baseline=false",
        "sweep.isolate=false", "hydra.sweep.dir=outputs/sweeps/mine",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    sweep = Path("outputs/sweeps/mine")
    scores = {job.name: result(job)["val/accuracy"] for job in sweep.iterdir() if (job / "result.json").is_file()}
    best = max(scores, key=lambda name: scores[name])
    assert scores["1"] > scores["0"]
    assert lwexp.load(sweep).folder.name == best
    assert lwexp.load("latest").folder == (sweep / best).absolute()
