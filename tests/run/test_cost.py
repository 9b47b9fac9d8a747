"""A run's result and its tags in MLflow have what its training has cost; metrics and their charts do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lwexp.experiment.folder import read_result
from tests.helpers.commands import RunHere
from tests.run.runs import SMALL, Store, folders


@pytest.mark.usefixtures("no_pictures")
def test_a_run_keeps_what_it_has_cost(lwexp_here: RunHere, store: Store, tmp_path: Path) -> None:
    assert lwexp_here("run", *SMALL).code == 0
    (folder,) = folders(tmp_path)
    result, written = read_result(folder), json.loads((folder / "result.json").read_text())
    assert result.cost == {key: written[key] for key in ("steps", "train_seconds", "peak_memory_mb")}
    assert result.cost["steps"] == 6
    assert 0 < result.cost["train_seconds"] < 60
    assert 50 < result.cost["peak_memory_mb"] < 16_000
    assert not result.metrics.keys() & result.cost.keys()
    run = store.run()
    assert not any("seconds" in key or "memory" in key for key in run.data.metrics)
    assert float(run.data.tags["lwexp.train_seconds"]) == pytest.approx(result.cost["train_seconds"], rel=1e-3)
    assert float(run.data.tags["lwexp.peak_memory_mb"]) == pytest.approx(result.cost["peak_memory_mb"], rel=1e-3)
