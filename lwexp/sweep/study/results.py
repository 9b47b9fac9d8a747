"""`study.csv` in the folder of a study: a row for each of its runs, from which reports are made."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lwexp.errors import RunError
from lwexp.experiment.folder import read_result
from lwexp.experiment.manifest import Point
from lwexp.host.files import atomic_write
from lwexp.sweep.outcome import outcome_of

FILE = "study.csv"
_TITLES = (
    "study", "arm", "setting", "role", "phase", "chosen", "lr", "seed", "status", "metric", "mode", "val", "test",
    "steps", "train_samples", "seconds", "peak_mb",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What a run is in its study.

    `role` of its arm: reference, primary or empty. `phase`: search or final. `chosen`, of final ones: whether its arm
    or only its setting has chosen this rate.
    """

    study: str
    arm: str
    setting: str
    role: str
    phase: str
    chosen: str
    lr: str
    seed: int
    train_samples: str  # that the config asks for; empty: all there are


def write_rows(path: Path, rows: Iterable[tuple[Row, Point]]) -> None:
    """Write the runs that have ended: failed ones without results. Raises `RunError`."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _TITLES, lineterminator="\n", restval="")
    writer.writeheader()
    for row, point in rows:
        folder = point.folder_in(path.parent)
        outcome = outcome_of(folder)
        if outcome.status == "FINISHED":
            writer.writerow({**vars(row), **_results(folder), "status": "finished"})
        elif outcome.failed:
            writer.writerow(
                {**vars(row), "status": "failed", "metric": outcome.metric.partition("/")[2], "mode": outcome.mode}
            )
    try:
        atomic_write(path, file.getvalue(), durable=False)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error


def _results(folder: Path) -> Mapping[str, str]:
    found = read_result(folder)
    monitor, metrics, cost = found.monitor, found.metrics, found.cost
    name = monitor.metric.partition("/")[2]
    values = {
        "val": metrics.get(monitor.metric),
        "test": metrics.get(f"test/{name}"),
        "steps": cost.get("steps"),
        "seconds": cost.get("train_seconds"),
        "peak_mb": cost.get("peak_memory_mb"),
    }
    return {
        "metric": name,
        "mode": monitor.mode,
        **{key: f"{value:.6g}" for key, value in values.items() if value is not None},
    }
