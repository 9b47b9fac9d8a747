"""MLflow holds the best evaluation: what the runs list sorts by is what the run printed as its best."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.helpers.commands import RunHere
from tests.run.runs import SMALL, Store, folders

# learns for one epoch of 19 steps, and forgets it all in the second
FALLING = [*SMALL, "max_steps=null", "batch_size=64", "lr=0.02", "lr_events=[{step: 30, group: lstm, lr: 99}]"]


@pytest.mark.usefixtures("no_pictures")
def test_the_best_evaluation_is_what_sorting_runs_compares(lwexp_here: RunHere, store: Store, tmp_path: Path) -> None:
    outcome = lwexp_here("run", *FALLING, "epochs=3")
    assert outcome.code == 0, outcome.err
    run = store.run()
    accuracy, losses = (dict(store.history(run, f"val/{name}")) for name in ("accuracy", "loss"))
    step = max(accuracy, key=lambda step: (accuracy[step], -losses[step]))
    assert step < max(accuracy), "the last evaluation is the best one: the test shows nothing"
    (shown,) = re.findall(r"best validation accuracy ([\d.]+)%", outcome.out)
    latest = run.data.metrics
    assert f"{latest['best/accuracy']:.2%}" == f"{shown}%" != f"{latest['val/accuracy']:.2%}"
    expected = {
        f"best/{name}": dict(store.history(run, f"val/{name}"))[step] for name in ("accuracy", "loss", "macro_f1")
    }
    expected |= {"best/step": step, "best/epoch": sorted(accuracy).index(step) + 1}
    assert {key: value for key, value in latest.items() if key.startswith("best/")} == pytest.approx(expected)
    result = json.loads((folders(tmp_path)[0] / "result.json").read_text())
    assert result["val/accuracy"] == latest["best/accuracy"]
    assert (result["best/step"], result["best/epoch"]) == (latest["best/step"], latest["best/epoch"])


@pytest.mark.usefixtures("no_pictures")
def test_a_longer_training_that_finds_nothing_better_keeps_the_best(lwexp_here: RunHere, store: Store) -> None:
    assert lwexp_here("run", *FALLING, "epochs=2").code == 0
    before = store.run()
    outcome = lwexp_here("run", f"resume={before.info.run_id}", "epochs=3")
    assert outcome.code == 0, outcome.err
    after = store.run()
    assert after.data.metrics["val/accuracy"] < before.data.metrics["best/accuracy"]
    best = {key for key in before.data.metrics if key.startswith("best/")}
    assert best == {"best/accuracy", "best/loss", "best/macro_f1", "best/epoch", "best/step"}
    assert {key: after.data.metrics[key] for key in best} == {key: before.data.metrics[key] for key in best}
