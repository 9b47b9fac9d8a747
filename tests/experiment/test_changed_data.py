"""A run whose data have changed is not resumed without a word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lwexp.tracking import run_status
from tests.experiment.resumed_runs import one_line, only_run
from tests.helpers.commands import RunHere
from tests.helpers.data_sources import torchvision_set, write_images
from tests.helpers.torchvision_files import eurosat, mnist

Stop = Callable[[int | None], None]
SMALL = ["batch_size=4", "epochs=2", "progress=false", "tracking=none"]
LSTM = ["model=lstm", "model.hidden_size=8", "data.image_size=8"]
PHOTOS = [*LSTM, "data=image_folder", "data.path=photos"]
WORDS = f"{__name__}.Words"


class Words(nn.Module):
    def __init__(self, vocab_size: int, num_classes: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocab_size, 4), nn.Linear(4, num_classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(input_ids).mean(1))


def stopped(lwexp_here: RunHere, stop_after: Stop, tmp_path: Path, *options: str) -> Path:
    """The folder of a run that ended after its second step."""
    stop_after(2)
    outcome = lwexp_here("run", *SMALL, *options)
    assert outcome.code == 130, outcome.err
    stop_after(None)
    return only_run(tmp_path)


def test_a_folder_of_images_with_others(lwexp_here: RunHere, stop_after: Stop, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_images(tmp_path / "photos" / name, 8)
    run = stopped(lwexp_here, stop_after, tmp_path, *PHOTOS)
    (tmp_path / "photos" / "cat" / "000.png").unlink()
    write_images(tmp_path / "photos" / "dog" / "new", 5)
    write_images(tmp_path / "photos" / "cat" / "2", 1, size=(9, 9))
    (tmp_path / "photos" / "cat" / "2" / "000.png").replace(tmp_path / "photos" / "cat" / "001.png")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lwexp.log"}
    line = one_line(lwexp_here("run", f"resume={run}"))
    assert line == (
        "data.path=photos: the data have changed since the run began: 5 added (dog/new/000.png, dog/new/001.png, "
        "dog/new/002.png, …), 1 removed (cat/000.png), 1 of another size (cat/001.png); "
        "checkpoint.remap=true resumes with them as they are"
    )
    assert run_status(run) == "KILLED"
    assert before == {path: path.read_bytes() for path in before}
    outcome = lwexp_here("run", f"resume={run}", "checkpoint.remap=true")
    assert outcome.code == 0, outcome.err
    (noted,) = json.loads((run / "resumed.json").read_text())
    assert "data: 5 added (dog/new/000.png" in noted
    assert run_status(run) == "FINISHED"


def test_the_same_data_go_on_also_from_an_earlier_version(
    lwexp_here: RunHere, stop_after: Stop, tmp_path: Path
) -> None:
    for name in ("cat", "dog"):
        write_images(tmp_path / "photos" / name, 8)
    run = stopped(lwexp_here, stop_after, tmp_path, *PHOTOS)
    shutil.copytree(tmp_path / "photos", tmp_path / "copy")  # with other times of modification
    shutil.rmtree(tmp_path / "photos")
    (tmp_path / "copy").rename(tmp_path / "photos")
    stop_after(1)
    assert lwexp_here("run", f"resume={run}").code == 130
    stop_after(None)
    write_images(tmp_path / "photos" / "dog" / "new", 1)
    (run / "data.json.gz").unlink()  # as an earlier version left it
    outcome = lwexp_here("run", f"resume={run}")
    assert outcome.code == 0, outcome.err
    assert json.loads((run / "resumed.json").read_text()) == ["step 0", "step 0"]


def test_texts_with_another_row(lwexp_here: RunHere, stop_after: Stop, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    rows = [f"a {'red' if i % 2 else 'blue'} thing,{i % 2}" for i in range(24)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    run = stopped(
        lwexp_here, stop_after, tmp_path, "data=text", "data.path=t.csv", "model=custom", f"model._target_={WORDS}"
    )
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows[1:], "a new thing,0"]) + "\n")
    line = one_line(lwexp_here("run", f"resume={run}", f"checkpoint.allow_targets=[{WORDS}]"))
    assert line.startswith("data.path=t.csv: the data have changed since the run began: train was 24 texts (checksum ")


def test_a_set_of_torchvision_with_another_image(lwexp_here: RunHere, stop_after: Stop, tmp_path: Path) -> None:
    eurosat(tmp_path / "sets")
    options = [*LSTM, "data=torchvision", "data.dataset=EuroSAT", "data.root=sets"]
    run = stopped(lwexp_here, stop_after, tmp_path, *options)
    mnist(tmp_path / "sets")  # another set in the same folder
    stop_after(1)
    assert lwexp_here("run", f"resume={run}").code == 130
    stop_after(None)
    write_images(tmp_path / "sets" / "eurosat" / "2750" / "Forest" / "more", 1, suffix=".jpg")
    line = one_line(lwexp_here("run", f"resume={run}"))
    expected = "data.dataset=EuroSAT: the data have changed since the run began: 1 added "
    assert line.startswith(f"{expected}(eurosat/2750/Forest/more/000.jpg); ")


def test_images_in_one_file_are_told_by_their_labels(tmp_path: Path) -> None:
    mnist(tmp_path)
    contents = torchvision_set("MNIST", tmp_path).contents
    assert list(contents) == ["train", "test"]
    assert str(contents["train"]).startswith("40 images (checksum ")
