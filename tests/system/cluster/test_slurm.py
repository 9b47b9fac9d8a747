"""Jobs that Slurm ends: those that it starts again go on where they were, those that took too much memory are lost."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.helpers.results import metrics_in
from tests.system.cluster.conftest import Start, until

pytestmark = pytest.mark.usefixtures("slurm")

ONE = ["hydra/launcher=submitit_slurm", "model=custom", "data.image_size=8", "threads=1", "sweep.baseline=false"]
STEPS = 150
SLOW = [*ONE, "model._target_=nets.Slow", "batch_size=64", f"max_steps={STEPS}", "epochs=100", "lr=0.05"]


def steps(folder: Path) -> list[str]:
    """The process of each training step so far."""
    file = folder / "steps.txt"
    return file.read_text(encoding="utf-8").split() if file.exists() else []


def job_of(folder: Path) -> str:
    """The id of the sweep's only job."""
    (found,) = (folder / "sweep" / ".submitit").glob("[0-9]*")
    return found.name


def test_a_job_requeued_twice_and_preempted_ends_with_the_weights_of_an_undisturbed_one(
    start: Start, tmp_path: Path
) -> None:
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    sweeps = [start(folder, *SLOW, STEPS=str(folder / "steps.txt")) for folder in (calm, stormy)]
    blows = [
        lambda: ["scontrol", "requeue", job_of(stormy)],  # SIGTERM, SIGKILL later
        lambda: ["scancel", "--signal=USR2", job_of(stormy)],  # what Slurm sends before the time is over
        lambda: ["sbatch", "--partition=high", "--ntasks=8", "--mem-per-cpu=100", "--time=1", "--wrap=sleep 3"],
    ]
    for count, blow in enumerate(blows, start=1):
        before = len(steps(stormy))
        until(lambda before=before: len(steps(stormy)) >= before + 20)  # type: ignore[misc]
        subprocess.run(blow(), check=True, cwd=tmp_path)
        until(lambda count=count: len(set(steps(stormy))) > count)  # type: ignore[misc]
    for sweep, folder in zip(sweeps, (calm, stormy), strict=True):
        assert sweep.wait() == 0, (folder / "out.txt").read_text(encoding="utf-8")
        assert len(steps(folder)) == STEPS, "no step twice, none omitted"
    assert (len(set(steps(calm))), len(set(steps(stormy)))) == (1, 4)
    for name in ("model.safetensors", "best.safetensors"):
        assert (stormy / "sweep" / "0" / name).read_bytes() == (calm / "sweep" / "0" / name).read_bytes()
    assert metrics_in(stormy / "sweep" / "0") == metrics_in(calm / "sweep" / "0")
    assert "killed" not in (stormy / "out.txt").read_text(encoding="utf-8")
    client = MlflowClient(tracking_uri=f"sqlite:///{stormy}/store.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    (child,) = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert child.info.status == "FINISHED"
    assert child.data.tags["lwexp.resumed"].count("step") == 3
    assert child.data.tags["lwexp.slurm.job"] == job_of(stormy)
    assert (Path(child.data.tags["lwexp.slurm.log"]) / f"{job_of(stormy)}_0_log.out").is_file()
    assert len(client.get_metric_history(child.info.run_id, "train/loss")) == STEPS


def test_a_job_killed_for_memory_is_lost_and_the_others_complete(start: Start, tmp_path: Path) -> None:
    sweep = start(
        tmp_path, *ONE, "model._target_=nets.Hungry", "batch_size=512", "max_steps=1", "model.gigabytes=0,5",
        "hydra.launcher.mem_gb=3",
    )  # fmt: skip
    assert sweep.wait() == 1
    outcomes = [json.loads((tmp_path / "sweep" / str(n) / "job.json").read_text(encoding="utf-8")) for n in range(2)]
    assert [outcome["status"] for outcome in outcomes] == ["FINISHED", "KILLED"]
    assert "memory" in outcomes[1]["reason"]
    assert outcomes[1]["reason"] in (tmp_path / "out.txt").read_text(encoding="utf-8")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/store.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert {run.info.run_name: run.info.status for run in runs if "mlflow.parentRunId" in run.data.tags} == {
        "model.gigabytes=0": "FINISHED", "model.gigabytes=5": "KILLED",
    }  # fmt: skip
