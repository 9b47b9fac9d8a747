"""The same sweep by every launcher: the same children, the same numbers bit for bit, one parent each."""

from __future__ import annotations

import hashlib
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.system.cluster.conftest import Start

TINY = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256", "epochs=2", "threads=1"]
GRID = ["mult=0.85,0.9,0.95,1.0", "seed=0,1,2"]
OF_ITS_OWN = ("lwexp.folder", "lwexp.id", "lwexp.slurm.job", "lwexp.slurm.log", "mlflow.parentRunId", "mlflow.user")
COST = ("lwexp.train_seconds", "lwexp.peak_memory_mb")
RAY = ["hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=4", "hydra.launcher.ray.init.log_to_driver=false"]
LAUNCHERS = {"joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], "ray": RAY}
LAUNCHERS |= {"submitit_slurm": ["hydra/launcher=submitit_slurm"]}
PORT = "6391"
ELSEWHERE = ["hydra/launcher=ray", f"hydra.launcher.ray.init.address=127.0.0.1:{PORT}"]


def left_by(folder: Path) -> dict[str, Any]:
    """What a sweep has left of each job, in files and in MLflow, by the job's name; there is one parent."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/store.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    (parent,) = [run for run in runs if run.data.tags.get("lwexp.kind") == "sweep"]
    assert parent.info.status == "FINISHED"
    found = {}
    for run in (run for run in runs if run is not parent):
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert Path(run.data.tags["lwexp.folder"]).parent == folder / "sweep"
        weights = Path(run.data.tags["lwexp.folder"]) / "model.safetensors"
        rows = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        found[run.info.run_name] = {
            "status": run.info.status,
            "params": run.data.params,
            "tags": {key: value for key, value in run.data.tags.items() if key not in OF_ITS_OWN + COST},
            "metrics": {key: sorted((row.step, row.value.hex()) for row in history) for key, history in rows.items()},
            "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
    return found


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two nodes of a Ray that was started by somebody else, in another folder, before the sweep."""
    pytest.importorskip("ray")
    tmp_path = tmp_path_factory.mktemp("ray")
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=2", "--disable-usage-stats"]
    head = ["--head", f"--port={PORT}", "--include-dashboard=false"]
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        for name, options in {"head": head, "other": [f"--address=127.0.0.1:{PORT}"]}.items():
            output = tmp_path / f"{name}.txt"
            with output.open("w") as file:
                node = subprocess.Popen([*command, *options], cwd=tmp_path, stdout=file, stderr=file)
            stack.callback(node.wait, 60)
            stack.callback(node.terminate)
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in (text := output.read_text(encoding="utf-8")):
                assert node.poll() is None, text
                assert time.monotonic() < deadline, text
                time.sleep(0.2)
        yield


def swept(places: Path, start: Start, name: str, *options: str) -> dict[str, Any]:
    folder = places / name
    if not folder.exists():
        assert start(folder, *TINY, *GRID, *options).wait() == 0, (folder / "out.txt").read_text(encoding="utf-8")
    return left_by(folder)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_same_children_and_the_same_numbers_as_one_after_another(
    launcher: str, places: Path, start: Start, request: pytest.FixtureRequest
) -> None:
    if launcher == "submitit_slurm":
        request.getfixturevalue("slurm")
    elif launcher == "ray":
        pytest.importorskip("ray")
    expected = swept(places, start, "basic")
    assert len({child["weights"] for child in expected.values()}) == len(expected) == 12
    assert swept(places, start, launcher, *LAUNCHERS[launcher]) == expected


@pytest.mark.usefixtures("ray_cluster")
def test_the_same_on_the_nodes_of_a_ray_cluster_that_is_there(places: Path, start: Start) -> None:
    assert swept(places, start, "ray_cluster", *ELSEWHERE) == swept(places, start, "basic")


@pytest.mark.usefixtures("ray_cluster")
def test_a_model_of_the_users_own_is_found_there(tmp_path: Path, start: Start) -> None:
    own = ["model=custom", "model._target_=nets.Hungry", "model.gigabytes=0", "seed=0,1", "max_steps=2"]
    assert start(tmp_path / "own", *own, *ELSEWHERE).wait() == 0, (tmp_path / "own" / "out.txt").read_text()
