"""What fits on a machine, and which part of it each job of a sweep gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lwexp.host import resources
from lwexp.host.resources import GPUS, THREADS, Machine, free_memory, jobs_that_fit, set_threads, usable_cores

GB = 2**30


@pytest.mark.parametrize(("found", "threads", "jobs"), [
    (Machine(8, 64 * GB, ()), None, 8),
    (Machine(8, 64 * GB, ()), 4, 2),
    (Machine(8, 7 * GB, ()), None, 3),
    (Machine(8, 1 * GB, ()), None, 1),
    (Machine(8, None, ("0", "1")), None, 2),
    (Machine(2, None, ("0", "1", "2", "3")), None, 2),
    (Machine(2, None, ()), 16, 1),
], ids=str)  # fmt: skip
def test_as_many_jobs_as_cores_memory_and_gpus_allow(found: Machine, threads: int | None, jobs: int) -> None:
    assert jobs_that_fit(found, threads) == jobs


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_affinity_gives_fewer_cores_than_the_machine_has() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores({}) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(("quota", "given", "cores"), [
    ("150000 100000", "", 2), ("100000 100000", "", 1), ("max 100000", "", 8),
    ("max 100000", "3", 3), ("max 100000", "0", 1), ("150000 100000", "3", 2),
])  # fmt: skip
def test_a_container_and_slurm_give_fewer_cores_than_there_are(
    quota: str, given: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """joblib reads the container's quota from one fixed file, so this test hands it another one."""
    (tmp_path / "cpu.max").write_text(f"{quota}\n", encoding="utf-8")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/sys/fs/cgroup/cpu.max")
    monkeypatch.setattr("builtins.open", lambda path, *rest: (tmp_path / "cpu.max").open(encoding="utf-8"))
    assert usable_cores({"SLURM_CPUS_PER_TASK": given}) == cores


def test_a_container_has_less_memory_than_the_machine(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert free_memory(tmp_path, meminfo) is None
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    8388608 kB\n", encoding="utf-8")
    assert free_memory(tmp_path, meminfo) == 8 * GB
    (tmp_path / "memory.max").write_text(f"{4 * GB}\n", encoding="utf-8")
    (tmp_path / "memory.current").write_text(f"{GB}\n", encoding="utf-8")
    assert free_memory(tmp_path, meminfo) == 3 * GB


@pytest.mark.parametrize(("device", "visible", "gpus"), [
    ("auto", None, ("0", "1")), ("cuda", "5,7", ("5", "7")), ("cuda:1", None, ("1",)),
    ("cpu", None, ()), ("mps", None, ()),
])  # fmt: skip
def test_gpus_have_the_names_that_torch_takes(
    device: str, visible: str | None, gpus: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resources.visible_gpus(device, {} if visible is None else {GPUS: visible}) == gpus


def test_threads_hold_for_torch_and_for_what_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, "1")
    set_threads(None)
    assert torch.get_num_threads() == 1
    set_threads(2)
    assert (torch.get_num_threads(), os.environ[THREADS]) == (2, "2")
