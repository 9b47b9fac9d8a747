"""What tests of mistakes need on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from lwexp.training.checkpoint.weights import save_weights

MINE = """
import torch
NUMBER = 3
class Net(torch.nn.Module):
    def __init__(self, *, in_chans, num_classes):
        super().__init__()
        self.head = torch.nn.Linear(in_chans, num_classes)
    def forward(self, x):
        return self.head(x.mean(dim=(2, 3)))
def halves(index, count, base=0.5):
    return base**index
def below(index, count):
    return -1
def one(model):
    return [("one", [next(iter(dict(model.named_parameters())))])]
def falls(step):
    return 1 / (step + 1)
"""


@pytest.fixture
def materials(tmp_path: Path) -> None:
    """Folders, files and modules that the mistaken options name."""
    for split, name in (("train", "cat"), ("train", "dog"), ("val", "cat"), ("val", "cow")):
        for folder in ("photos", "extra"):
            if (folder, name) != ("photos", "cow"):
                path = tmp_path / folder / split / name
                path.mkdir(parents=True)
                for number in range(2):
                    Image.new("RGB", (8, 8), (90 * number, 0, 0)).save(path / f"{number}.png")
    (tmp_path / "notes.csv").write_text("text,label\n" + "a good day,good\na bad day,bad\n" * 10, encoding="utf-8")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mistaken.py").write_text(MINE, encoding="utf-8")
    (tmp_path / "unimportable.py").write_text("1 / 0", encoding="utf-8")
    save_weights(torch.nn.Conv2d(1, 2, 3).state_dict(), tmp_path / "other.safetensors")
