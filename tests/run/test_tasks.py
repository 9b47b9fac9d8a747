"""Whole runs on several labels and on numbers, on the user's own datasets, and with metrics of the user's own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.helpers.commands import RunHere
from tests.helpers.results import metrics_in
from tests.run.runs import Store

NET = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "data.workers=0", "batch_size=8", "progress=false"]
TABLE = [*NET, "data=images", "data.path=labels.csv", "data.augment=false", "data.cache=false"]
SETS = '''
import random
import torch
from torch.utils.data import Dataset

class Noisy(Dataset):
    """Tensors whose noise is drawn at each read."""

    def __init__(self, count):
        self.targets = [0.5 + index % 7 for index in range(count)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        noise = 0.1 * torch.randn(1, 8, 8) + random.random()
        return self.targets[index] + noise, self.targets[index]

def make(count=24):
    return {"train": Noisy(count), "val": Noisy(8), "test": Noisy(8)}
'''


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> None:
    """`labels.csv` of 40 gray squares: `brightness` 0.5 to 39.5, the tags `dark` and `even`, the class `kind`."""
    rows = ["file,brightness,tags,kind"]
    for number in range(40):
        Image.fromarray(np.full((8, 8), 6 * number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
        tags = [*(["dark"] if number < 20 else []), *(["even"] if number % 2 == 0 else [])]
        rows.append(f"{number}.png,{number + 0.5},{';'.join(tags)},{'ab'[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "own_sets.py").write_text(SETS)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_run_on_numbers_learns_them_and_keeps_the_lowest_error(
    lwexp_here: RunHere, tmp_path: Path, store: Store
) -> None:
    options = ["data.label=brightness", "data.test_fraction=0.2", "lr=0.01", "epochs=25"]
    outcome = lwexp_here("run", *TABLE, *options, "hydra.run.dir=here")
    assert outcome.code == 0, outcome.err
    found = metrics_in(tmp_path / "here")
    assert {f"val/{name}" for name in ("loss", "rmse", "mae", "r2")} <= found.keys()
    assert found["val/rmse"] < 8, "a constant prediction has 11.5"
    assert found["val/r2"] > 0.5
    assert f"best validation RMSE {found['val/rmse']:.4g}, test RMSE {found['test/rmse']:.4g} with" in outcome.out
    (run,) = store.client.search_runs([e.experiment_id for e in store.client.search_experiments()])
    errors = [m.value for m in store.client.get_metric_history(run.info.run_id, "val/rmse")]
    assert len(errors) == 25
    assert found["val/rmse"] == pytest.approx(min(errors), rel=1e-6)
    assert run.data.params["loss.name"] == "MSELoss"


def test_a_run_on_several_labels(lwexp_here: RunHere, tmp_path: Path) -> None:
    options = ["data.label=tags", "data.delimiter=';'", "loss.class_weights=balanced", "lr=0.01", "epochs=15"]
    outcome = lwexp_here("run", *TABLE, *options, "tracking=none", "hydra.run.dir=here")
    assert outcome.code == 0, outcome.err
    found = metrics_in(tmp_path / "here")
    assert found.keys() >= {f"val/{name}" for name in ("loss", "map", "macro_f1", "micro_f1", "exact_match")}
    assert found["val/map"] > 0.7
    assert f"best validation mean average precision {found['val/map']:.2%}" in outcome.out
    assert load_file(tmp_path / "here" / "best.safetensors")["head.weight"].shape[0] == 2


def test_other_data_of_several_labels_may_lack_one_and_be_in_another_place(lwexp_here: RunHere, tmp_path: Path) -> None:
    options = ["data.label=tags", "data.delimiter=';'", "max_steps=2", "tracking=none", "hydra.run.dir=here"]
    assert lwexp_here("run", *TABLE, *options).code == 0
    config = tmp_path / "here" / "config.yaml"
    text = config.read_text()
    assert "path: labels.csv" in text
    (tmp_path / "new.csv").write_text("file,tags\n1.png,dark\n30.png,\n")
    config.write_text(text.replace("path: labels.csv", "path: null").replace("dataset: null", "dataset: some/set"))
    outcome = lwexp_here("evaluate", "here", "data.path=new.csv")
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "here" / "evaluation" / "new.csv"
    with (folder / "per_class.csv").open() as file:
        assert {row["label"]: row["support"] for row in csv.DictReader(file)} == {"dark": "1", "even": "0"}
    (tmp_path / "new.csv").write_text("file,tags\n1.png,dark;odd\n2.png,dark;odd\n30.png,even\n31.png,even\n")
    outcome = lwexp_here("evaluate", "here", "data.path=new.csv")
    assert outcome.code == 2
    assert "the model does not know the label odd" in outcome.err
    outcome = lwexp_here("evaluate", "here", "data.path=new.csv", "--skip-unknown")
    assert outcome.code == 0, outcome.err


def test_a_few_numbers_that_look_like_classes_are_numbers(lwexp_here: RunHere, tmp_path: Path) -> None:
    options = ["data.label=brightness", "max_steps=2", "tracking=none", "hydra.run.dir=here"]
    assert lwexp_here("run", *TABLE, *options).code == 0
    (tmp_path / "new.csv").write_text("file,brightness\n1.png,1\n30.png,30\n")
    outcome = lwexp_here("evaluate", "here", "data.path=new.csv")
    assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "here" / "evaluation" / "new.csv" / "metrics.json").read_text())
    assert found.keys() == {"rmse", "mae", "r2"}


def test_a_sweep_on_numbers_ends_with_its_table(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here(
        "run", "-m", *TABLE, "data.label=brightness", "epochs=1", "tracking=none", "mult=0.9,1.0",
        "sweep.isolate=false", "sweep.report=false", "hydra.sweep.dir=here",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    with (tmp_path / "here" / "jobs.csv").open() as file:
        jobs = list(csv.DictReader(file))
    values = [metrics_in(tmp_path / "here" / number)["val/rmse"] for number in "01"]
    assert [float(job["val/rmse"]) for job in jobs] == values
    assert f"validation RMSE {values[0]:.4g}, " in outcome.out


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["data.label=tags", "data.delimiter=';'", "loss.name=CrossEntropyLoss"],
            "loss.name=CrossEntropyLoss: does not",
        ),
        (
            ["data.label=brightness", "weights=source_task"],
            "weights=source_task: halves the classes of the data, which",
        ),
        (["data.label=brightness", "loss.class_weights=balanced"], "loss.class_weights=balanced: MSELoss takes no"),
        (
            ["data.label=brightness", "policy=plateau", "policy.metric=val/accuracy"],
            "policy.metric=val/accuracy: no such metric; choices: val/loss, val/mae, val/r2, val/rmse",
        ),
        (["data.label=mood"], "data.label=mood: no such column in labels.csv, line 2; "),
        (
            ["data.label=kind", "metrics={f2: {_target_: torchmetrics.FBetaScor}}"],
            "metrics.f2._target_=torchmetrics.FBetaScor: torchmetrics has no FBetaScor; did you mean FBetaScore",
        ),
        (
            ["data.label=kind", "metrics={f2: {_target_: torchmetrics.F1Score, task: multiclass, num_classes: 3}}"],
            "metrics.f2=MulticlassF1Score: does not fit 2 classes: ",
        ),
        (
            ["data.label=kind", "metrics={accuracy: {_target_: torchmetrics.F1Score, task: binary}}"],
            "metrics.accuracy=accuracy: every evaluation has a metric of that name",
        ),
    ],
)
def test_what_does_not_fit_the_task_is_one_line(lwexp_here: RunHere, options: list[str], line: str) -> None:
    outcome = lwexp_here("run", *TABLE, *options, "tracking=none")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert line in outcome.err


def test_a_metric_of_the_users_own_is_logged_and_changes_nothing(lwexp_here: RunHere, tmp_path: Path) -> None:
    options = ["data.label=kind", "data.test_fraction=0.2", "epochs=2", "tracking=none"]
    f2 = "metrics={f2: {_target_: torchmetrics.FBetaScore, task: multiclass, num_classes: 2, beta: 2.0}}"
    assert lwexp_here("run", *TABLE, *options, "hydra.run.dir=plain").code == 0
    outcome = lwexp_here("run", *TABLE, *options, f2, "policy=plateau", "policy.metric=val/f2", "policy.mode=max",
                         "hydra.run.dir=measured")  # fmt: skip
    assert outcome.code == 0, outcome.err
    plain, measured = metrics_in(tmp_path / "plain"), metrics_in(tmp_path / "measured")
    assert measured.keys() - plain.keys() == {"val/f2", "test/f2"}
    assert {name: measured[name] for name in plain} == plain
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "measured"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_on_an_own_dataset_resumes_bit_for_bit(lwexp_here: RunHere, tmp_path: Path) -> None:
    """The noise that the dataset draws is that of an uninterrupted run; its code needs to be allowed."""
    command = [option for option in NET if "image_size" not in option]
    command += ["data=custom", "data._target_=own_sets.make", "data.options.count=20", "tracking=none"]
    assert lwexp_here("run", *command, "epochs=3", "hydra.run.dir=whole").code == 0
    assert lwexp_here("run", *command, "epochs=1", "hydra.run.dir=parts").code == 0
    refused = lwexp_here("run", "resume=parts", "epochs=3")
    assert refused.code == 2
    assert "own_sets.make" in refused.err
    resumed = lwexp_here("run", "resume=parts", "epochs=3", "checkpoint.allow_targets=[own_sets.make]")
    assert resumed.code == 0, resumed.err
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert metrics_in(tmp_path / "whole") == metrics_in(tmp_path / "parts")


def test_a_run_of_before_resumes_with_the_loss_that_was_the_default(lwexp_here: RunHere) -> None:
    """`loss.name=CrossEntropyLoss`, which earlier versions wrote, is what `auto` means for classes."""
    options = [*TABLE, "data.label=kind", "tracking=none", "hydra.run.dir=here"]
    assert lwexp_here("run", *options, "loss.name=CrossEntropyLoss", "epochs=1").code == 0
    outcome = lwexp_here("run", *options, "resume=auto", "epochs=2")
    assert outcome.code == 0, outcome.err
