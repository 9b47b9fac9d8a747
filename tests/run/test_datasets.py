"""The data of a run among MLflow's datasets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.helpers.commands import RunHere

from .runs import SMALL, Store

pytestmark = pytest.mark.usefixtures("no_pictures")


def datasets(run: Run) -> dict[str, tuple[str, str, int]]:
    """Name, digest and samples of each of a run's datasets, by what it is for."""
    found = {}
    for each in run.inputs.dataset_inputs:
        (context,) = (tag.value for tag in each.tags if tag.key == "mlflow.data.context")
        found[context] = each.dataset.name, each.dataset.digest, json.loads(each.dataset.profile)["num_rows"]
    assert len(found) == len(run.inputs.dataset_inputs)
    return found


def test_the_splits_of_the_data_are_datasets_of_the_run_once(lwexp_here: RunHere, store: Store) -> None:
    place = ["hydra.run.dir=mine", "resume=auto"]
    assert lwexp_here("run", *SMALL, *place).code == 0
    first = datasets(store.run())
    assert {context: (name, samples) for context, (name, _, samples) in first.items()} == {
        "train": ("digits", 1258), "val": ("digits", 269), "test": ("digits", 270),
    }  # fmt: skip
    assert len({digest for _, digest, _ in first.values()}) == 3
    train = next(each.dataset for each in store.run().inputs.dataset_inputs if each.tags[0].value == "train")
    assert sum(json.loads(train.profile)["class_counts"].values()) == 1258
    assert {column["name"] for column in json.loads(train.schema)["mlflow_colspec"]} == {"image", "class"}

    assert lwexp_here("run", *SMALL, *place, "epochs=3", "max_steps=9").code == 0
    assert datasets(store.run()) == first


def test_other_data_have_other_digests(lwexp_here: RunHere, store: Store) -> None:
    assert lwexp_here("run", *SMALL).code == 0
    assert lwexp_here("run", *SMALL, "data.split_seed=1").code == 0
    one, two = (datasets(run) for run in store.runs())
    assert all(one[context][1] != two[context][1] for context in one)


def test_a_run_of_no_store_brings_its_datasets_when_it_is_delivered(
    lwexp_here: RunHere, tmp_path: Path, empty_store: Path
) -> None:
    away = "tracking.uri=http://127.0.0.1:9"
    outcome = lwexp_here("run", *SMALL, away, "tracking.timeout=1", "tracking.flush_timeout=0", "hydra.run.dir=mine")
    assert outcome.code == 0, outcome.err
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'later.db')}"
    for _ in range(2):
        assert lwexp_here("sync", "mine", f"tracking.uri={uri}").code == 0
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("lwexp").experiment_id])
    assert datasets(run).keys() == {"train", "val", "test"}
