"""Stores and trainings for the tests of `lwexp.track`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lwexp.plots import process
from tests.helpers.fake_mlflow import FakeMLflow


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and nothing in the environment that would steer MLflow."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of so short a training; their tables of rates are still made."""
    monkeypatch.setattr(process, "write_plots", lambda *_, **__: [])


@pytest.fixture
def client(empty_store: Path, tmp_path: Path) -> MlflowClient:
    """The default store of `tmp_path`, which has no runs yet."""
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    return MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/outputs/mlflow.db")


@pytest.fixture
def server() -> Iterator[FakeMLflow]:
    with FakeMLflow() as fake:
        yield fake
