"""A store that the command finds by default, and the command itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lwexp.report import files
from tests.helpers.report_sweeps import Report, report_here


@pytest.fixture
def client(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """The store that the command finds by default."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/outputs/mlflow.db")
    client.create_experiment("lwexp", artifact_location=(tmp_path / "outputs" / "mlartifacts").as_uri())
    return client


@pytest.fixture
def report(client: MlflowClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Report:
    monkeypatch.setattr(files, "DPI", 40)
    monkeypatch.setenv("COLUMNS", "1000")  # each sentence on a line of its own

    return report_here(capsys)


@pytest.fixture
def quick(report: Report, monkeypatch: pytest.MonkeyPatch) -> Report:
    """Without pictures, which take most of the time."""
    monkeypatch.setattr(files, "DRAWINGS", {})
    return report
