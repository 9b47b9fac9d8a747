"""A sweep that is interrupted while its jobs train: what every launcher must leave behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlflow import MlflowClient

from lwexp.sweep.outcome import outcome_of

from .processes import Process, StartCommand, clean_environment

LONG = [
    "model=lstm", "model.hidden_size=8", "data.image_size=8", "max_steps=1000000", "epochs=100000", "threads=1",
    "seed=0,1,2", "sweep.baseline=false", "sweep.report=false", "checkpoint.every_steps=100", "hydra.sweep.dir=sweep",
]  # fmt: skip


def to_all(process: Process) -> None:
    """Ctrl-C in a terminal."""
    os.killpg(process.pid, signal.SIGINT)


def to_launcher(process: Process) -> None:
    """What a service manager or `kill` sends."""
    process.send_signal(signal.SIGTERM)


def interrupted(
    start: StartCommand, folder: Path, options: Sequence[str], at_once: int, *interrupt: Callable[[Process], None]
) -> tuple[int, str]:
    """The exit code and the output of a sweep of three long jobs; each `interrupt` is half a second after the last.

    The first comes when `at_once` jobs have made a checkpoint.
    """
    variables = {**clean_environment(), "MLFLOW_TRACKING_URI": "sqlite:///store.db"}
    output = folder / "out.txt"
    with output.open("w") as file:
        process = start(
            "run", "-m", *LONG, *options, cwd=folder, environment=variables, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 240
        while len({path.parent for path in (folder / "sweep").glob("*/checkpoints/*.ckpt")}) < at_once:
            assert process.poll() is None, output.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, output.read_text(encoding="utf-8")
            time.sleep(0.1)
        for number, send in enumerate(interrupt):
            time.sleep(0.5 * (number > 0))
            send(process)
        return process.wait(150), output.read_text(encoding="utf-8")
    finally:
        process.kill()


def check_ends(folder: Path, at_once: int, *, saved: bool) -> None:
    """The jobs that ran are KILLED, in their folders and in MLflow, the others were not started, and the sweep says so.

    With `saved` the last step of each is in a checkpoint.
    """
    statuses = [outcome_of(folder / "sweep" / str(number)).status for number in range(3)]
    assert statuses.count("KILLED") == at_once
    assert statuses.count("MISSING") == 3 - at_once
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/store.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert len(runs) == at_once + 1
    assert {run.info.status for run in runs} == {"KILLED"}
    assert {run.data.tags["lwexp.reason"] for run in runs} == {"interrupted"}
    for run in runs if saved else []:
        if run.data.tags.get("lwexp.kind") != "sweep":
            steps = [row.step for row in client.get_metric_history(run.info.run_id, "train/loss")]
            assert sorted(steps) == list(range(len(steps)))
            paths = Path(run.data.tags["lwexp.folder"], "checkpoints").glob("*.ckpt")
            assert max(int(re.sub(r"\D", "", path.stem)) for path in paths) == len(steps)
