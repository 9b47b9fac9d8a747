"""Metrics of several labels, of numbers and of the user's own on two processes: those of the whole split."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.distributed.test_training import TORCHRUN, environment
from tests.helpers.commands import RunHere
from tests.helpers.results import metrics_in

RUN = [
    "model=lstm", "model.hidden_size=8", "data=images", "data.path=labels.csv", "data.image_size=8", "data.workers=0",
    "data.augment=false", "data.cache=false", "data.split_seed=1", "batch_size=7", "epochs=2", "optimizer=sgd",
    "progress=false", "tracking=none", "hydra.run.dir=run",
]  # fmt: skip
EXTRA = {
    "data.label=[dark,even]": "{_target_: torchmetrics.AUROC, task: multilabel, num_labels: 2}",
    "data.label=brightness": "{_target_: torchmetrics.PearsonCorrCoef}",
}


@pytest.mark.parametrize("label", EXTRA)
def test_two_processes_measure_the_whole_split(label: str, tmp_path: Path, lwexp_here: RunHere) -> None:
    """Batches of 7 and a last one of 3 are shared out unevenly."""
    rows = ["file,brightness,dark,even"]
    for number in range(40):
        Image.fromarray(np.full((8, 8), 6 * number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{number + 0.5},{int(number < 20)},{int(number % 2 == 0)}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "two").mkdir()
    arguments = [*RUN, label, f"metrics={{mine: {EXTRA[label]}}}", "data.val_fraction=0.42"]
    outcome = lwexp_here("run", *arguments)
    assert outcome.code == 0, outcome.err
    two = subprocess.Popen(
        [*TORCHRUN, "-m", "lwexp.run", *arguments, f"data.path={tmp_path}/labels.csv"], cwd=tmp_path / "two",
        env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = two.communicate(timeout=200)
    assert two.returncode == 0, printed
    found, alone = (metrics_in(folder / "run") for folder in (tmp_path / "two", tmp_path))
    assert found.keys() == alone.keys()
    assert "val/mine" in found
    for name, value in alone.items():
        assert found[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name
