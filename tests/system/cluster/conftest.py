"""Sweeps as a user starts them, a Slurm of the machine's own, and models whose jobs take time or memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

MODELS = """
import os
import time
import torch


class Net(torch.nn.Module):
    def __init__(self, *, num_classes, in_chans):
        super().__init__()
        self.body, self.drop = torch.nn.Conv2d(in_chans, 4, 3), torch.nn.Dropout(0.3)
        self.head = torch.nn.Linear(4, num_classes)

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            self.on_step()
        return self.head(self.drop(self.body(x).relu().mean(dim=(2, 3))))


class Slow(Net):
    def on_step(self):
        with open(os.environ["STEPS"], "a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(0.1)


class Hungry(Net):
    def __init__(self, *, num_classes, in_chans, gigabytes):
        super().__init__(num_classes=num_classes, in_chans=in_chans)
        self.gigabytes, self.kept = gigabytes, []

    def on_step(self):
        self.kept.append(torch.ones(self.gigabytes, 2**28))
        time.sleep(5 * self.gigabytes)
"""
Start = Callable[..., "subprocess.Popen[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def slurm() -> None:
    """A running Slurm."""
    pytest.importorskip("submitit")
    if shutil.which("slurmctld") is None or os.getuid() != 0:
        pytest.skip("needs the packages slurm-wlm and munge, and root")
    started = subprocess.run(
        [Path(__file__).with_name("slurm.sh"), "start"], capture_output=True, text=True, check=False
    )
    if started.returncode:
        pytest.skip(f"Slurm does not start here: {(started.stderr or started.stdout).strip()[-300:]}")


@pytest.fixture(scope="session")
def start() -> Iterator[Start]:
    """Start a sweep in `folder`, with its output in `folder`/out.txt; MLflow's address is in the environment alone."""
    with ExitStack() as stack:

        def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "nets.py").write_text(MODELS, encoding="utf-8")
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "HYDRA_", "SLURM_"))}
            environment |= {"OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": "sqlite:///store.db", **variables}
            output = stack.enter_context((folder / "out.txt").open("w", encoding="utf-8"))
            command = [sys.executable, "-m", "lwexp.run", "-m", *arguments, "progress=false", "hydra.sweep.dir=sweep"]
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        yield start


def until(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    """Wait for `condition`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing has happened for too long"
        time.sleep(0.1)
