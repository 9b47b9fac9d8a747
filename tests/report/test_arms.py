"""Which runs a report calls uniform, and which uniform run it compares a layer-wise one with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lwexp.report.analysis import analyze
from lwexp.report.arms import arm_of, bases_of, planned_rates
from lwexp.tracking.reader import StoredRun
from tests.helpers.report_sweeps import as_sweep, seeds

HEADER = "index,name,depth,scale,lr\n"


class Store:
    """Plans by run, as the store keeps them."""

    def __init__(self, plans: dict[str, str]) -> None:
        self.plans = plans

    def texts(self, runs: Sequence[str], name: str) -> list[str | None]:
        return [self.plans.get(run) for run in runs]


def stored(number: int = 0, tags: dict[str, str] | None = None, **params: str) -> StoredRun:
    return StoredRun(
        id=str(number), name="", status="FINISHED", started=number, experiment_id="0", metrics={},
        params={key.replace("__", "."): value for key, value in params.items()}, tags=tags or {},
    )  # fmt: skip


def rates(head: str, stem: str) -> dict[str, str]:
    return {"lwexp.lr.head": head, "lwexp.lr.stem": stem}


def arm(run: StoredRun, plan: str | None = None) -> str:
    store: Any = Store({} if plan is None else {run.id: plan})
    return arm_of(run, planned_rates(store, [run])[run.id])


UNIFORM, LAYERWISE = {"lwexp.arm": "uniform"}, {"lwexp.arm": "layerwise"}
FLAT = f"{HEADER}0,head,2,1,0.01\n1,middle,1,1,0.01\n2,stem,0,1,0.01\n"
BENT = f"{HEADER}0,head,2,1,0.01\n1,middle,1,1,0.3\n2,stem,0,1,0.01\n"


@pytest.mark.parametrize(("tags", "plan", "params", "expected"), [
    ({**LAYERWISE, "lwexp.lr.uniform": "true"}, BENT, {}, "uniform"),  # the plan has said so itself
    ({**UNIFORM, **rates("0.01", "0.00015625")}, None, {}, "layerwise"),  # as `decay.mult=0.5 mult=1` before
    ({**UNIFORM, **rates("0.01", "0.01")}, None, {}, "uniform"),
    ({**UNIFORM, **rates("0.01", "0.01")}, BENT, {}, "layerwise"),  # a rate of a part in the middle
    ({**LAYERWISE, **rates("0.01", "0.01")}, FLAT, {}, "uniform"),  # decay.min_scale=1
    ({**LAYERWISE, **rates("0.01", "0.01")}, None, {}, "layerwise"),
    (UNIFORM, FLAT, {}, "uniform"),
    (UNIFORM, BENT, {}, "layerwise"),
    ({**UNIFORM, **rates("0.01", "0.01")}, FLAT, {"freeze": '["conv1"]'}, "layerwise"),
    ({**UNIFORM, **rates("0.01", "0.01")}, FLAT, {"unfreeze__every_epochs": "1"}, "layerwise"),
    ({**UNIFORM, **rates("0.01", "0.01")}, FLAT, {"lr_events": '[{"step": 1}]'}, "layerwise"),
    ({**UNIFORM, **rates("0.01", "0.01")}, FLAT, {"lr": "0.02"}, "layerwise"),  # all at another than the base rate
    ({}, None, {}, ""),
])  # fmt: skip
def test_uniform_is_what_the_rates_of_the_plan_say(
    tags: dict[str, str], plan: str | None, params: dict[str, str], expected: str
) -> None:
    assert arm(stored(tags=tags, **{"lr": "0.01", **params}), plan) == expected


def test_runs_pair_by_all_that_is_not_layer_wise_whichever_keys_set_it() -> None:
    settings = {"seed": "0", "lr": "0.01", "decay__name": "linear", "freeze": "[]", "threads": "1"}
    runs = [
        stored(0, **settings | {"mult": "0.5"}),
        stored(1, **settings | {"mult": "1", "lr": "1e-2", "seed": "1", "decay__name": "none", "threads": "2"}),
        stored(2, **settings | {"mult": "1", "lr": "0.1", "freeze": '["fc"]'}),
        stored(3, **settings | {"clip_grad_norm": "None"}),  # of a version that had the option
        stored(4, **settings | {"epochs": "9"}),
        replace(stored(5), status="FAILED"),
    ]
    bases = bases_of(runs)
    assert bases["0"] == bases["1"] == bases["3"]
    assert len({bases[key] for key in "0124"}) == 3
    assert {key for key, _ in bases["0"]} == {"epochs", "lr"}
    assert "5" not in bases


def test_without_a_run_of_uniform_rates_nothing_is_compared(tmp_path: Path) -> None:
    sweep = as_sweep([*seeds([0.5, 0.6], uniform=False, mult="1"), *seeds([0.7, 0.8], mult="0.5")])
    found = analyze(sweep)
    assert not found.uniform
    assert all(setting.test_difference is None for setting in found.settings)


def test_a_uniform_setting_is_named_by_what_sets_it_apart_from_others() -> None:
    sweep = as_sweep([*seeds([0.5, 0.6], uniform=True, recipe="a", lr="0.1"), *seeds([0.7, 0.8], recipe="b", lr="0.1")])
    runs = [replace(run, base=(("lr", "0.1"),)) for run in sweep.runs]
    found = analyze(replace(sweep, runs=runs))
    assert [setting.label for setting in found.settings] == ["uniform lr=0.1", "recipe=b lr=0.1"]
    assert found.twin(found.settings[1]) is found.settings[0]
