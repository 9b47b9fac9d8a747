"""Recipes that say what moves, as short real runs; what acts on weights does so; what a network lacks is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed.test_training import TORCHRUN, environment
from tests.helpers.commands import ROOT, RunHere
from tests.run.runs import SMALL, UNTRACKED, weights

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def source(lwexp_here: RunHere, tmp_path: Path) -> list[str]:
    """Options that load weights trained before."""
    outcome = lwexp_here("run", *SMALL, *UNTRACKED, "max_steps=2", "epochs=1", "hydra.run.dir=source")
    assert outcome.code == 0, outcome.err
    return ["weights=checkpoint", f"weights.path={tmp_path / 'source' / 'best.safetensors'}", "seed=1"]


@pytest.mark.parametrize(
    ("recipe", "moved"),
    [
        ("lp_ft", "all"),
        ("surgical_first", "_l0"),
        ("surgical_last", "head"),
        ("bitfit", "bias"),
        ("head_only", "head"),
        ("fastai_fine_tune", "all"),
        ("tutorial", "all"),
    ],
)
def test_run_moves_what_the_recipe_says(
    recipe: str, moved: str, source: list[str], lwexp_here: RunHere, tmp_path: Path
) -> None:
    command = [*SMALL, *UNTRACKED, *source, f"recipe={recipe}", "lr=0.01", "hydra.run.dir=here"]
    outcome = lwexp_here("run", *command)
    assert outcome.code == 0, outcome.err
    assert f"recipe={recipe}: " in outcome.out
    start, end = weights(tmp_path / "source", "best"), weights(tmp_path / "here")
    changed = {name for name in end if not torch.equal(start[name], end[name])}
    expected = {name for name in end if moved == "all" or moved in name}
    assert changed == expected | ({"head.weight"} if recipe == "bitfit" else set())


@pytest.mark.parametrize("recipe", ["l2_sp", "wise_ft"])
def test_recipes_that_act_on_weights_do_so(recipe: str, source: list[str], lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("run", *SMALL, *UNTRACKED, *source, f"recipe={recipe}", "hydra.run.dir=here")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "here" / "start.safetensors").is_file()
    assert (tmp_path / "here" / "wise_ft.safetensors").is_file() is (recipe == "wise_ft")
    assert f"{recipe}: no parameter is new" in outcome.out
    found = json.loads((tmp_path / "here" / "result.json").read_text())
    assert ("wise_ft/test/accuracy" in found) is (recipe == "wise_ft")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("norm_tuning", "train=kind/norm: the model has none; its kinds: head, recurrent"),
        ("blockwise", "lr_mults=kind/vo: the model has none"),
        ("l2_sp", "l2_sp.alpha=0.01: needs weights to start from"),
        ("wise_ft", "wise_ft.alpha=0.5: needs weights to start from"),
    ],
)
def test_what_a_recipe_needs_is_one_line(recipe: str, words: str, lwexp_here: RunHere) -> None:
    outcome = lwexp_here("run", *SMALL, *UNTRACKED, f"recipe={recipe}")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert words in line


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_several_processes_pull_and_average_as_one(
    parallel: str, source: list[str], lwexp_here: RunHere, tmp_path: Path
) -> None:
    command = [*SMALL, *UNTRACKED, *source, "l2_sp.alpha=0.3", "l2_sp.new=[kind/head]", "wise_ft.alpha=0.5",
               "optimizer=sgd", "lr=0.1", "threads=1"]  # fmt: skip
    assert lwexp_here("run", *command, "hydra.run.dir=one").code == 0
    several = [*TORCHRUN, "-m", "lwexp.run", *command, f"parallel={parallel}", "hydra.run.dir=several"]
    assert several[0] == sys.executable
    subprocess.run(several, cwd=tmp_path, check=True, env=environment() | {"PYTHONPATH": str(ROOT)}, timeout=300)
    for name in ("model", "wise_ft"):
        one, other = weights(tmp_path / "one", name), weights(tmp_path / "several", name)
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=0, atol=1e-6)
