"""The resources of this machine: cores, memory, GPUs, a compiler, and how many jobs of a sweep they allow at once.

Threads and GPUs are set through the variables that torch itself reads, OMP_NUM_THREADS and CUDA_VISIBLE_DEVICES, so
that they apply to every library in a job's process and to the processes that it starts.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

THREADS, GPUS = "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"

# A job's process and its delivery process together take about 1 GB of memory with a small network; the rest is for
# larger ones, whose size is not known yet
JOB_BYTES = 2 * 2**30
_CGROUP = Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Machine:
    """What this process may use: number of cores, free memory in bytes (None: unknown), names of GPUs."""

    cores: int
    memory: int | None
    gpus: tuple[str, ...]


def this_machine(device: str = "auto") -> Machine:
    """The present machine for jobs on `device` (`auto`, `cpu`, `cuda`, `cuda:1`, ...)."""
    return Machine(usable_cores(), free_memory(), visible_gpus(device))


def jobs_that_fit(machine: Machine, threads: int | None = None) -> int:
    """The number of jobs of `threads` threads each (None: of at least one) to run at once; at least 1.

    With GPUs one for each, since how much of a GPU's memory a job needs is not known; without, as many as there are
    cores: several trainings with one thread each do more than one training with several threads.

    >>> jobs_that_fit(Machine(8, None, ())), jobs_that_fit(Machine(8, None, ()), threads=3)
    (8, 2)
    >>> jobs_that_fit(Machine(8, 5 * 2**30, ())), jobs_that_fit(Machine(8, None, ("0", "1")))
    (2, 2)
    """
    limits = [machine.cores // (threads or 1)]
    if machine.memory is not None:
        limits.append(machine.memory // JOB_BYTES)
    if machine.gpus:
        limits.append(len(machine.gpus))
    return max(1, min(limits))


def threads_of_job(machine: Machine, jobs: int, environment: Mapping[str, str]) -> int:
    """Threads of each of `jobs` jobs at once: an equal part of the cores, unless the environment has a number.

    >>> threads_of_job(Machine(8, None, ()), 3, {}), threads_of_job(Machine(2, None, ()), 4, {})
    (2, 1)
    >>> threads_of_job(Machine(8, None, ()), 3, {"OMP_NUM_THREADS": "5"})
    5
    """
    given = environment.get(THREADS, "")
    return int(given) if given.isdecimal() and int(given) else max(1, machine.cores // jobs)


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads that this process computes with; None leaves it as it is."""
    if threads is None:
        return
    os.environ[THREADS] = str(threads)  # for torch, if it is not imported yet, and for the processes started from here
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)


# -------------------------------------------------------------------------------------------------- what there is


def usable_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Cores that this process may use: by its affinity, its container's quota, and what Slurm gave its task."""
    import joblib

    given = environment.get("SLURM_CPUS_PER_TASK", "")
    cores: int = joblib.cpu_count()
    return max(1, min(cores, int(given))) if given.isdecimal() else cores


def has_compiler() -> bool:
    """Whether there is the C++ compiler that `torch.compile` uses on the CPU: `CXX`, else the system's usual one."""
    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    return shutil.which(os.environ.get("CXX") or usual) is not None


def free_memory(cgroup: Path = _CGROUP, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Free memory in bytes, of the machine and within its container's limit; None if the system does not report it."""
    limits = []
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines())
        limits.append(1024 * int(lines["MemAvailable"].split()[0]))
    except (OSError, KeyError, ValueError):
        pass
    largest, used = _first_line(cgroup / "memory.max"), _first_line(cgroup / "memory.current")
    if largest.isdecimal() and used.isdecimal():
        limits.append(max(0, int(largest) - int(used)))
    return min(limits) if limits else None


def peak_memory(status: Path = _STATUS) -> int:
    """The most memory that this process has had resident, in bytes; 0 if the system does not report it."""
    try:  # getrusage of a new process begins with the memory of the one that has started it
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak_memory() -> None:
    """Let `peak_memory` begin with what is resident now, where the system can do that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def visible_gpus(device: str = "auto", environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Names, as CUDA_VISIBLE_DEVICES takes them, of the NVIDIA or AMD GPUs for jobs on `device`.

    A device with a number is one GPU, however many there are.
    """
    if device.partition(":")[0] not in ("auto", "cuda"):
        return ()
    import torch

    count = torch.cuda.device_count()
    if ":" in device:
        return (device.partition(":")[2],) if count else ()
    named = [name.strip() for name in environment.get(GPUS, "").split(",") if name.strip()]
    return tuple(named[:count]) or tuple(str(index) for index in range(count))


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except OSError:
        return ""
