"""Runs with each of the logging configurations that Hydra has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.commands import RunHere


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("logging", [
    ["hydra/job_logging=disabled"],
    ["hydra/job_logging=none", "hydra/hydra_logging=none"],
    ["hydra/job_logging=disabled", "hydra/hydra_logging=disabled"],
    ["-m", "seed=0", "sweep.isolate=false", "hydra/job_logging=disabled"],
], ids=" ".join)  # fmt: skip
def test_every_logging_of_hydras_can_be_chosen(logging: list[str], lwexp_here: RunHere, tmp_path: Path) -> None:
    small = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=512", "max_steps=1"]
    outcome = lwexp_here("run", *small, "progress=false", "tracking=none", *logging)
    assert outcome.code == 0, outcome.err
    assert "epoch 1/" not in outcome.out
    assert len(list(tmp_path.rglob("model.safetensors"))) == 1
