"""Stores and runs for the tests of tracking."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwexp.config.schema import MLflowConfig
from lwexp.tracking import JournalTracker
from tests.helpers.fake_mlflow import FakeMLflow
from tests.helpers.tracked_runs import (
    Begin,
    begin_in,
    mlflow_config,
)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to make."""
    folder = tmp_path_factory.mktemp("store")
    config = mlflow_config(f"sqlite:///{folder}/mlflow.db")
    begin_in(config, folder / "first", run_name="first").finish("FINISHED")
    return folder / "mlflow.db"


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> MLflowConfig:
    """A store of the test's own, with one run in experiment lwexp."""
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    return mlflow_config(f"sqlite:///{tmp_path}/outputs/mlflow.db", experiment="mine")


@pytest.fixture
def begin(store: MLflowConfig, tmp_path: Path) -> Iterator[Begin]:
    """Starts runs in `store`, and ends those that a test leaves open."""
    started: list[JournalTracker] = []

    def begin_run(*, flush_timeout: float = 60.0, folder: str | None = None, **changes: Any) -> JournalTracker:
        config = store.model_copy(update={"flush_timeout": flush_timeout})
        started.append(begin_in(config, tmp_path / (folder or f"run{len(started)}"), **changes))
        return started[-1]

    yield begin_run
    for tracker in started:
        tracker.finish("FAILED")


@pytest.fixture
def server() -> Iterator[FakeMLflow]:
    with FakeMLflow() as fake:
        yield fake
