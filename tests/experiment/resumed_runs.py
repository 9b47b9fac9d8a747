"""A small run for the tests of `resume`, and what they read of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from lwexp.tracking.journal import Reader
from tests.helpers.commands import Outcome, RunHere
from tests.helpers.results import metrics_in

# 4 steps in an epoch, the sixth in the middle of the second
RUN = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256", "epochs=2", "max_steps=6",
       "progress=false", "tracking=none"]  # fmt: skip


def only_run(base: Path) -> Path:
    (folder,) = (base / "outputs" / "runs").iterdir()
    return folder


def written(folder: Path, values: dict[str, Any]) -> Path:
    """A folder with `values` as the config of a run that had not started."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)), encoding="utf-8")
    return folder


def composed(lwexp_here: RunHere, *arguments: str) -> dict[str, Any]:
    outcome = lwexp_here("run", *arguments, "--cfg", "job")
    assert outcome.code == 0, outcome.err
    values = OmegaConf.to_container(OmegaConf.create(outcome.out))
    assert isinstance(values, dict)
    return values


def one_line(outcome: Outcome, code: int = 2) -> str:
    """The only line on standard error."""
    assert outcome.code == code, outcome.err
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def rows(folder: Path) -> dict[tuple[str, int], float]:
    """Every metric's value at every step in the journal; each is there once."""
    found: dict[tuple[str, int], float] = {}
    for entry in Reader(folder / "journal.lwexp").entries():
        if entry.kind == "rows":
            for key, value in zip(entry.value.keys, entry.value.values, strict=True):
                assert (key, entry.value.step) not in found
                found[key, entry.value.step] = value
    return found


def same(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "best.safetensors"):
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert rows(one) == rows(other)
    assert metrics_in(one) == metrics_in(other)
