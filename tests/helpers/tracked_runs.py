"""Runs that tests of tracking start, the store that they look into, and faults of it.

The delivery process cannot be patched from a test: stores fail for it as they do in life (a missing table, a lock, a
server's answers).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from lwexp.config.schema import MLflowConfig, NoTrackingConfig
from lwexp.tracking import JournalTracker, start
from lwexp.tracking.journal import FILE as JOURNAL
from lwexp.tracking.journal import Reader

SECRET = "s3cr3t-Pa55"
NONE = NoTrackingConfig(name="none")
Begin = Callable[..., JournalTracker]


def mlflow_config(
    uri: str | None, experiment: str | None = "lwexp", timeout: float = 8.0, flush_timeout: float = 60.0
) -> MLflowConfig:
    return MLflowConfig(
        name="mlflow", uri=uri, experiment=experiment, timeout=timeout, flush_timeout=flush_timeout, rates_every=1
    )


def begin_in(config: MLflowConfig | NoTrackingConfig, folder: Path, **changes: Any) -> JournalTracker:
    given: dict[str, Any] = {"run_name": "run", "params": {}, "tags": {}, "description": "", **changes}
    return start(config, folder=folder, **given)


def reader(config: MLflowConfig) -> MlflowClient:
    return MlflowClient(tracking_uri=config.uri)


def steps(config: MLflowConfig, run_id: str | None, key: str) -> list[int]:
    return sorted(row.step for row in reader(config).get_metric_history(str(run_id), key))


def statement(config: MLflowConfig, sql: str) -> None:
    """Run `sql` on the store's file, past MLflow."""
    assert config.uri is not None
    connection = sqlite3.connect(config.uri.removeprefix("sqlite:///"), timeout=20)
    with connection:
        connection.execute(sql)
    connection.close()


def away(config: MLflowConfig) -> None:
    statement(config, "ALTER TABLE metrics RENAME TO away")


def back(config: MLflowConfig) -> None:
    statement(config, "ALTER TABLE away RENAME TO metrics")


def until(reached: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait for something to be so."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def journal_steps(folder: Path) -> list[int]:
    return [entry.value.step for entry in Reader(folder / JOURNAL).entries() if entry.kind == "rows"]
