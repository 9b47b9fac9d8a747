"""The GPUs of one machine among the processes that run jobs side by side."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lwexp.sweep.launchers.gpus import GpuSlot


def hold(folder: Path, pipe: Any) -> None:
    """A process that runs jobs: it keeps its GPU from one job to the next."""
    slot = GpuSlot()
    first = slot.gpu(["a", "b"], 3, folder)
    pipe.send((first, slot.gpu(["a", "b"], 3, folder)))
    signal.pause()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts processes by fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_processes_side_by_side_share_the_gpus_evenly_and_a_killed_one_gives_its_own_back(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")

    def begin() -> tuple[Any, str]:
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=hold, args=(tmp_path / "slots", theirs), daemon=True)
        process.start()
        first, second = ours.recv()
        assert first == second
        return process, first

    found = [begin() for _ in range(3)]
    assert sorted(gpu for _, gpu in found) == ["a", "a", "b"]
    killed, gpu = next((process, gpu) for process, gpu in found if gpu == "b")
    killed.kill()
    killed.join()
    assert begin()[1] == gpu
    assert GpuSlot().gpu([], 3, tmp_path) is None
