"""A run goes on with another number of epochs or steps where what is done would have been the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from lwexp.tracking import run_status
from tests.experiment.resumed_runs import RUN, one_line, rows
from tests.helpers.commands import RunHere
from tests.helpers.results import metrics_in

BASE = [option for option in RUN if not option.startswith(("epochs", "max_steps"))]  # 4 steps in an epoch
TEST, VAL = ({f"{split}/{name}" for name in ("loss", "accuracy", "macro_f1")} for split in ("test", "val"))
BEST = {f"best/{name}" for name in ("loss", "accuracy", "macro_f1", "epoch", "step")}
TEST |= {"test/top5", "test/ece"}


def more_than(longer: Path, whole: Path) -> set[str]:
    """The metrics of `longer` that `whole` lacks, those of its end before; all else is the same."""
    for name in ("model.safetensors", "best.safetensors"):
        first, second = load_file(longer / name), load_file(whole / name)
        assert all(torch.equal(first[key], second[key]) for key in second)
    assert metrics_in(longer) == metrics_in(whole)
    found, expected = rows(longer), rows(whole)
    assert found.items() >= expected.items()
    return {key for key, _ in found.keys() - expected.keys()}


@pytest.mark.parametrize(
    ("options", "short", "long", "more"),
    [
        (["checkpoint.every_steps=3"], ["epochs=1"], ["epochs=3"], TEST),
        (["policy=step", "policy.step_size=3"], ["epochs=1"], ["epochs=2", "max_steps=7"], TEST),
        (["policy=plateau", "policy.patience=0", "checkpoint.every_steps=2"], ["epochs=2"], ["epochs=4"], TEST),
        # the last checkpoint is that of the end, in the middle of an epoch
        (["checkpoint.every_steps=6"], ["epochs=2", "max_steps=6"], ["epochs=3", "max_steps=null"], TEST | VAL | BEST),
        (["unfreeze.every_steps=1"], ["epochs=1"], ["epochs=2"], TEST),
    ],
    ids=["constant", "step", "plateau", "within an epoch", "unfreezing"],
)
def test_a_finished_run_trained_longer_is_as_from_the_start(
    options: list[str], short: list[str], long: list[str], more: set[str], lwexp_here: RunHere, tmp_path: Path
) -> None:
    for command in (
        [*BASE, *options, *long, "hydra.run.dir=whole"],
        [*BASE, *options, *short, "hydra.run.dir=longer"],
        ["resume=longer", *long],
    ):
        outcome = lwexp_here("run", *command)
        assert outcome.code == 0, outcome.err
    assert more_than(tmp_path / "longer", tmp_path / "whole") == more
    (noted,) = json.loads((tmp_path / "longer" / "resumed.json").read_text())
    assert long[0] in noted
    outcome = lwexp_here("run", "resume=longer")
    assert (outcome.code, "is finished" in outcome.out) == (0, True)


@pytest.mark.parametrize(
    ("options", "step"), [([], 4), (["checkpoint.every_steps=3"], 4), (["checkpoint.every_minutes=null"], 0)]
)
def test_no_step_is_repeated_where_checkpoints_are_kept(
    options: list[str], step: int, lwexp_here: RunHere, tmp_path: Path
) -> None:
    assert lwexp_here("run", *BASE, *options, "epochs=1", "hydra.run.dir=here").code == 0
    outcome = lwexp_here("run", "resume=here", "epochs=2")
    assert outcome.code == 0, outcome.err
    assert f"resuming at optimizer step {step} " in outcome.out


def test_jobs_of_a_sweep_keep_no_checkpoint_of_their_end(lwexp_here: RunHere, tmp_path: Path) -> None:
    command = [*BASE, "epochs=1", "seed=0,1", "hydra.sweep.dir=here", "sweep.isolate=false"]
    assert lwexp_here("run", "-m", *command).code == 0
    assert list((tmp_path / "here").rglob("*.safetensors"))
    assert not list((tmp_path / "here").rglob("*.ckpt")), "a sweep may have hundreds"


def test_the_store_has_one_run_that_is_finished_again(lwexp_here: RunHere, tmp_path: Path) -> None:
    options = [option for option in BASE if option != "tracking=none"]
    assert lwexp_here("run", *options, "epochs=1", "hydra.run.dir=here").code == 0
    outcome = lwexp_here("run", "resume=here", "epochs=2")
    assert outcome.code == 0, outcome.err
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("lwexp").experiment_id])
    assert run.info.status == "FINISHED"
    assert "epochs=2" in run.data.tags["lwexp.resumed"]
    assert [row.step for row in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(8))


def test_a_policy_that_ends_with_the_training_is_refused_with_two_ways_out(lwexp_here: RunHere, tmp_path: Path) -> None:
    run = tmp_path / "here"
    assert lwexp_here("run", *BASE, "policy=cosine", "epochs=1", "hydra.run.dir=here").code == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lwexp.log"}
    line = one_line(lwexp_here("run", "resume=here", "epochs=2"))
    assert line == (
        "epochs=2: the run was made with epochs=1, and policy=cosine ends with the training, so its rates would have "
        "been others from step 1 on; a new run with epochs=2 has them from the start, checkpoint.remap=true continues "
        "with them from here"
    )
    for options, why in {
        ("epochs=1", "max_steps=2"): "max_steps=2: the run was made with max_steps=null and is finished after 4 steps",
        ("epochs=2", "max_steps=4"): "epochs=2: the run was made with epochs=1 and is finished after 4 steps",
        ("epochs=2", "lr=0.5"): "lr=0.5: the run was made with other values: lr was 0.001, is 0.5, epochs was 1, is 2",
    }.items():
        assert why in one_line(lwexp_here("run", "resume=here", *options))
    assert run_status(run) == "FINISHED"
    assert before == {path: path.read_bytes() for path in before}
    outcome = lwexp_here("run", "resume=here", "epochs=2", "checkpoint.remap=true")
    assert outcome.code == 0, outcome.err
    assert {step for key, step in rows(run) if key == "train/loss"} == set(range(8))


def test_a_job_of_a_sweep_keeps_its_length(lwexp_here: RunHere) -> None:
    options = ["-m", *BASE, "epochs=1", "seed=0", "sweep.isolate=false", "sweep.report=false", "sweep.baseline=false"]
    assert lwexp_here("run", *options, "hydra.sweep.dir=sweep").code == 0
    line = one_line(lwexp_here("run", "resume=sweep/0", "epochs=2"))
    assert "as a job of a sweep, whose jobs train equally long; start a new run" in line


def test_a_stopped_run_may_be_given_more_epochs(lwexp_here: RunHere, killed: Path) -> None:
    outcome = lwexp_here("run", f"resume={killed}", "epochs=3", "max_steps=null")
    assert outcome.code == 0, outcome.err
    assert {step for key, step in rows(killed) if key == "train/loss"} == set(range(12))
