"""`diagnostics.every_steps`: one table and pictures at the end, no metric in the store, exact after a kill."""

from __future__ import annotations

import csv
import json
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lwexp.core.make_plan import make_plan
from lwexp.plots.diagnosis import Diagnosis
from lwexp.record.outliers import outliers
from lwexp.tracking import JournalTracker
from tests.helpers.commands import RunHere

from .runs import Store

SMALL = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256", "epochs=2", "progress=false"]
FILES = {"diagnostics.csv", "rates.html"} | {
    f"diagnostics_{name}.png" for name in ("gradient_norm", "relative_gradient_norm", "update_ratio", "distance")
}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "diagnostics.csv").open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]


def test_a_run_leaves_a_table_and_pictures_and_no_charts(lwexp_here: RunHere, store: Store, tmp_path: Path) -> None:
    """Plain SGD: each update is rate times gradient, and after step 0 that is the distance."""
    outcome = lwexp_here(
        "run", *SMALL, "optimizer=sgd", "optimizer.momentum=0", "lr=0.1", "clip_grad_norm=1", "accumulate=2",
        "diagnostics.every_steps=3", "hydra.run.dir=run",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = table(tmp_path / "run")
    assert sorted({int(row["step"]) for row in rows}) == [0, 3]
    for row in rows:
        found = {name: float(row[name]) for name in row if name != "group"}
        assert found["relative_gradient_norm"] == pytest.approx(found["gradient_norm"] / found["weight_norm"], rel=1e-5)
        assert found["update_ratio"] == pytest.approx(found["lr"] * found["relative_gradient_norm"], rel=1e-3)
        if found["step"] == 0:
            assert found["distance"] == pytest.approx(found["update_ratio"], rel=1e-6)
    run = store.run()
    assert not [name for name in run.data.metrics if "diagnostics" in name]
    assert {path.name for path in (tmp_path / "run").iterdir()} >= FILES
    page = (tmp_path / "run" / "rates.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    views = json.loads(data)["views"]
    assert [view["steps"] for view in views] == [[0, 3]] * 4
    ratio = next(view for view in views if view["title"].startswith("update ratio"))
    assert ratio["curves"][0][0] == pytest.approx(float(rows[0]["update_ratio"]), rel=1e-3)


def test_without_the_option_nothing_is_kept(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("run", *SMALL, "tracking=none", "max_steps=2", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert not list((tmp_path / "run").glob("diagnostics*"))
    assert not (tmp_path / "run" / "start.safetensors").exists()


def test_a_killed_run_has_the_same_table(lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows after the last checkpoint come again after the resume, and are in the table once."""
    monkeypatch.setattr("lwexp.plots.process.write_plots", lambda *_, **__: [])
    options = [*SMALL, "tracking=none", "diagnostics.every_steps=2", "checkpoint.every_steps=3"]
    assert lwexp_here("run", *options, "hydra.run.dir=whole").code == 0
    real = JournalTracker.log

    def log(self: JournalTracker, metrics: Any, step: int, *more: Any, **options: Any) -> None:
        real(self, metrics, step, *more, **options)
        if step == 4 and "train/loss" not in metrics:
            raise KeyboardInterrupt

    monkeypatch.setattr(JournalTracker, "log", log)
    assert lwexp_here("run", *options, "hydra.run.dir=part").code == 130
    monkeypatch.setattr(JournalTracker, "log", real)
    outcome = lwexp_here("run", "resume=part")
    assert outcome.code == 0, outcome.err
    assert table(tmp_path / "part") == table(tmp_path / "whole")
    assert len(table(tmp_path / "part")) == 5 * 2, "steps 0, 2, 4, 6 and the last one, of 2 groups"


def test_a_mistake_is_one_line(lwexp_here: RunHere) -> None:
    outcome = lwexp_here("run", *SMALL, "diagnostics.every_steps=0")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err.startswith("error: diagnostics.every_steps=0: ")


def test_groups_that_stand_out_are_named_with_a_suggestion() -> None:
    layers = {name: torch.nn.Linear(2, 2) for name in ("stem", "lower", "middle", "upper", "head")}
    plan = make_plan(torch.nn.Sequential(OrderedDict(layers)), lr=0.1, decay="none")
    distances = np.full((1, len(plan)), 0.01)
    distances[0, 0], distances[0, -1] = 0.2, 0.0005
    rates = np.array([[group.lr for group in plan]])
    diagnosis = Diagnosis(np.zeros(1, dtype=np.int64), rates, {"distance": distances})
    low, high = outliers(plan, diagnosis, {}, {})
    first, last = plan[0].name, plan[-1].name
    start = f"{plan.labels[-1]} hardly moved: by 0.05 % of its start, the median group by 1 %; "
    assert low == start + f"'lr_mults={{{last}: 4}}' may help"
    assert high.endswith(f"; 'lr_mults={{{first}: 0.2}}' may help")
    assert "moved far more than the rest: by 20 %" in high
    rates[0, -1] = 0
    (high,) = outliers(plan, diagnosis, {}, {})
    assert "far more" in high, "a group at rest is not expected to move"
    assert f"lr_mults={{{first}: 0.9}}" in outliers(plan, diagnosis, {first: 4.0}, {})[0]
    assert f"lr_overrides={{{first}: 0.02}}" in outliers(plan, diagnosis, {}, {first: 0.1})[0]
