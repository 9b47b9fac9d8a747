"""The GPUs of one machine, divided among the processes that run jobs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lwexp.host.lock import Lock

_LOCK_SECONDS = 60.0


class GpuSlot:
    """The slot of one process among those that run jobs side by side; it decides the GPU of all jobs of the process.

    A slot is a locked file. It stays with the process until the process ends, however it ends: one without
    `sweep.isolate` has its CUDA context on the GPU of its first job.
    """

    def __init__(self) -> None:
        """No slot is taken yet."""
        self._lock: Lock | None = None

    def gpu(self, gpus: Sequence[str], processes: int, folder: Path) -> str | None:
        """The one of `gpus` for the jobs of this process, one of `processes` side by side; None without GPUs.

        `folder` holds the files of the slots. Raises `TimeoutError` if all of them stay taken.
        """
        if not gpus:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        slots = [Lock(folder / f"{number}.lock") for number in range(processes)]
        if self._lock is not None and self._lock.path not in {slot.path for slot in slots}:
            self._lock.release()  # of another sweep
            self._lock = None
        self._lock = self._lock or _first_free(slots)
        return gpus[int(self._lock.path.stem) % len(gpus)]


def _first_free(slots: Sequence[Lock]) -> Lock:
    """Take one of `slots`; a process whose slot this one takes over may need a moment to end."""
    for seconds in (0.0, _LOCK_SECONDS / len(slots)):
        for slot in slots:
            if slot.acquire(seconds):
                return slot
    raise TimeoutError(f"all {len(slots)} slots in {slots[0].path.parent} are taken")
