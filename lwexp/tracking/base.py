"""What a training writes its metrics, files and tags to, and the tracker that keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from .inputs import DatasetRecord

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker(Protocol):
    """Where a run's metrics, files and tags go."""

    run_name: str
    where: str  # the store's address as shown to users, without secrets

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None without MLflow, and until the store has created the run."""

    def log(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None, *, deliver: bool = True) -> None:
        """Log metrics of the optimizer step `step`; does not wait for a store.

        `time_ms`: when they were measured, in milliseconds since the Unix epoch; None: now. `deliver`: to the stores,
        too; else they stay in the run's folder.
        """

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or a folder's files, under `folder` of the run's artifacts."""

    def model(self, package: Path, facts: Mapping[str, Any]) -> None:
        """Log the packaged network in the folder `package` as an MLflow model."""

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""

    def inputs(self, datasets: Sequence[DatasetRecord]) -> None:
        """Log the data that the run uses."""

    def position(self) -> int:
        """Sync the record to disk; returns its length in bytes."""

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Deliver everything, then set the run's status. A second call does nothing."""


class NoTracker:
    """Accepts everything and keeps nothing: for trainings inside a run."""

    run_id: str | None = None
    where = "none"

    def __init__(self, run_name: str) -> None:
        """Keep the name, which log messages show with any tracker."""
        self.run_name = run_name

    def log(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None, *, deliver: bool = True) -> None:
        """Do nothing."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Do nothing."""

    def model(self, package: Path, facts: Mapping[str, Any]) -> None:
        """Do nothing."""

    def tag(self, tags: Mapping[str, str]) -> None:
        """Do nothing."""

    def inputs(self, datasets: Sequence[DatasetRecord]) -> None:
        """Do nothing."""

    def position(self) -> int:
        """Return 0: nothing is written."""
        return 0

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Do nothing."""
