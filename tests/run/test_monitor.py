"""`monitor`: one metric decides on the best weights, on plateaus, and on what a sweep compares."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lwexp.config.monitored import with_monitor
from tests.helpers.commands import RunHere
from tests.run.runs import SMALL, UNTRACKED, Store, folders, weights

# learns for one epoch of 19 steps; then a huge rate of the head makes it sure of what it gets wrong
SURE = [*SMALL, "max_steps=null", "batch_size=64", "lr=0.02", "lr_events=[{step: 24, group: 0, lr: 99}]"]


def evaluations(store: Store, name: str) -> list[float]:
    return [value for _, value in store.history(store.runs()[-1], f"val/{name}")]


@pytest.mark.usefixtures("no_pictures")
def test_the_best_weights_are_those_of_the_lowest_loss_when_it_is_monitored(
    lwexp_here: RunHere, store: Store, tmp_path: Path
) -> None:
    outcome = lwexp_here("run", *SURE, "epochs=2")
    assert outcome.code == 0, outcome.err
    accuracy, loss = evaluations(store, "accuracy"), evaluations(store, "loss")
    assert accuracy[1] > accuracy[0], loss[1] > loss[0]
    outcome = lwexp_here("run", *SURE, "epochs=2", "monitor=val/loss")
    assert outcome.code == 0, outcome.err
    assert (evaluations(store, "accuracy"), evaluations(store, "loss")) == (accuracy, loss)
    assert f"best val/loss {loss[0]:.4g}, validation accuracy {accuracy[0]:.2%} there, test accuracy" in outcome.out
    by_accuracy, by_loss = folders(tmp_path)
    last = weights(by_loss)
    assert all(torch.equal(last[name], tensor) for name, tensor in weights(by_accuracy, "best").items())
    assert not all(torch.equal(last[name], tensor) for name, tensor in weights(by_loss, "best").items())
    run = store.runs()[-1]
    assert run.data.metrics["best/loss"] == loss[0]
    assert (run.data.params["monitor"], run.data.params["monitor_mode"]) == ("val/loss", "min")
    result = json.loads((by_loss / "result.json").read_text())
    assert (result["monitor"], result["val/loss"], result["val/accuracy"]) == ("val/loss", loss[0], accuracy[0])
    outcome = lwexp_here("run", f"resume={by_loss}")
    assert f"is finished, with a best val/loss of {loss[0]:.4g}" in outcome.out


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("options", "metric", "mode", "falls"), [
    ([], "val/loss", "min", True),  # as it has always been
    (["monitor=val/accuracy"], "val/accuracy", "max", False),
    (["policy.metric=val/accuracy"], "val/accuracy", "max", False),
    (["monitor=val/accuracy", "policy.metric=val/loss"], "val/loss", "min", True),
    (["monitor=val/loss", "monitor_mode=max"], "val/loss", "max", True),
])  # fmt: skip
def test_a_plateau_observes_what_is_monitored_unless_it_says_otherwise(
    options: list[str], metric: str, mode: str, falls: bool, lwexp_here: RunHere, store: Store, tmp_path: Path
) -> None:
    arguments = [*SURE, "epochs=3", "lr_events=[]", "lr=0.02", "policy=plateau", "policy.patience=0", "mult=1"]
    # in the third epoch the rate has fallen where the second was no better than the first, by a factor of 3
    outcome = lwexp_here("run", *arguments, "policy.threshold=0.3", *options)
    assert outcome.code == 0, outcome.err
    saved = OmegaConf.load(folders(tmp_path)[-1] / "config.yaml")
    assert (saved.policy.metric, saved.policy.mode) == (metric, mode)
    values = evaluations(store, metric.removeprefix("val/"))[:2]
    improved = values[1] < values[0] * 0.7 if mode == "min" else values[1] > values[0] * 1.3
    rates = store.history(store.run(), "lr/00_head")
    assert rates[-1][1] == (0.02 if improved else pytest.approx(0.002))
    assert improved is not falls


@pytest.mark.parametrize(("given", "filled"), [
    ({}, {}),
    ({"policies": {"head": "plateau"}}, {"policies": {"head": {"name": "plateau", "metric": "val/f1", "mode": "max"}}}),
    (
        {"policies": {"head": {"name": "plateau", "metric": "val/loss"}}},
        {"policies": {"head": {"name": "plateau", "metric": "val/loss"}}},  # min is the function's default
    ),
    ({"policies": {"head": "cosine"}}, {"policies": {"head": "cosine"}}),
    (
        {"phases": [{"steps": 3}, {"policy": {"name": "reduce_lr_on_plateau"}, "policies": {"head": "plateau"}}]},
        {"phases": [{"steps": 3}, {
            "policy": {"name": "reduce_lr_on_plateau", "metric": "val/f1", "mode": "max"},
            "policies": {"head": {"name": "plateau", "metric": "val/f1", "mode": "max"}},
        }]},
    ),
    (
        {"policy": {"kind": "torch", "name": "ReduceLROnPlateau", "metric": None, "options": {"patience": 1}}},
        {"policy": {"kind": "torch", "name": "ReduceLROnPlateau", "metric": "val/f1",
                    "options": {"patience": 1, "mode": "max"}}},
    ),
    (
        {"policy": {"kind": "torch", "name": "StepLR", "metric": None, "options": {}}},
        {"policy": {"kind": "torch", "name": "StepLR", "metric": "val/loss", "options": {}}},
    ),
])  # fmt: skip
def test_plateaus_of_patterns_and_phases_follow_too(given: dict[str, Any], filled: dict[str, Any]) -> None:
    assert with_monitor({**given, "monitor": "val/f1"}) == {**filled, "monitor": "val/f1"}
    kept = {key: value for key, value in given.items() if key != "policy"}
    assert with_monitor(kept) == kept  # nothing is monitored but the default


@pytest.mark.usefixtures("no_pictures")
def test_a_sweep_compares_by_what_is_monitored(lwexp_here: RunHere, tmp_path: Path) -> None:
    sweep = ["-m", "lr=0.02,1e-6", "sweep.isolate=false", "sweep.baseline=false", "monitor=val/loss"]
    outcome = lwexp_here("run", *SMALL, *UNTRACKED, *sweep)
    assert outcome.code == 0, outcome.err
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    with (folder / "jobs.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [json.loads((folder / str(number) / "result.json").read_text())["val/loss"] for number in range(2)]
    assert [float(row["val/loss"]) for row in rows] == losses
    assert f"lr=1e-06: finished, val/loss {losses[1]:.4g}, " in outcome.out
    (titles,) = [line.split() for line in outcome.out.splitlines() if line.startswith("job ")]
    assert titles == ["job", "point", "status", "val/loss", "time"]
