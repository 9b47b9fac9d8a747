"""Options of small runs, and how to read what they leave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import load_file
from torch import Tensor, nn

from lwexp import Plan
from lwexp.models.lstm import LSTMClassifier

PICTURES = {"rates_heatmap.png", "rates_by_depth.png", "rates_by_step.png", "rates.html"}
# 1,078 training images: 4 steps in an epoch, the sixth in the middle of the second
SMALL = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256", "epochs=2", "max_steps=6",
         "progress=false"]  # fmt: skip
# 32 images of noise at 32×32, in colour
FAKE = [
    "data=torchvision", "data.dataset=FakeData", "data.options={size: 32, image_size: [3, 32, 32], num_classes: 3}",
    "data.workers=0", "data.augment=false", "batch_size=8", "max_steps=2", "progress=false",
]  # fmt: skip
UNTRACKED = ["tracking=none"]


def small_lstm() -> nn.Module:
    return LSTMClassifier(in_chans=1, img_size=8, num_classes=10, hidden_size=8)


@dataclass
class Start:
    """A run as it was when its optimizer had been built, before the first step."""

    plan: Plan
    weights: dict[str, Tensor]


def folders(base: Path) -> list[Path]:
    return sorted((base / "outputs" / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def weights(folder: Path, name: str = "model") -> dict[str, Tensor]:
    return load_file(folder / f"{name}.safetensors")


def moved(start: Start, folder: Path) -> set[str]:
    """Names of the parameters whose values are not those of the start."""
    end = weights(folder)
    return {name for name, before in start.weights.items() if not torch.equal(before, end[name])}


@dataclass
class Store:
    """The store that runs of a test write to by default, read through MLflow's client."""

    client: MlflowClient

    def runs(self) -> list[Run]:
        """Runs of all experiments, the oldest first."""
        ids = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return list(self.client.search_runs(ids, order_by=["attributes.start_time"]))

    def run(self) -> Run:
        """The only run."""
        (run,) = self.runs()
        return run

    def history(self, run: Run, key: str) -> list[tuple[int, float]]:
        """Step and value of every row of a metric, in the order of steps."""
        return sorted((row.step, row.value) for row in self.client.get_metric_history(run.info.run_id, key))

    def files(self, run: Run) -> set[str]:
        return {file.path for file in self.client.list_artifacts(run.info.run_id)}

    def text(self, run: Run, name: str) -> str:
        path = Path(run.info.artifact_uri.removeprefix("file://")) / name
        return path.read_text(encoding="utf-8")
