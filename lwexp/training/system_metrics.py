"""Metrics of the machine, by the names that MLflow gives them: its page shows them under "System metrics".

They are rows of the journal as all others are, at the optimizer step before which they were taken, so a resumed run
has each once. MLflow's own thread would write to the store from within the training process.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

from lwexp.tracking import Tracker

from .callbacks import Callback
from .state import Learner, StepResult

EVERY_SECONDS = 10.0  # MLflow's default; between two steps, so longer where a step takes longer
_MB = 1e6


class SystemMetrics(Callback):
    """Logs the load of cores, memory, disk, network and NVIDIA GPUs; needs the package psutil.

    GPUs are read through `pynvml` (the package nvidia-ml-py), where it is installed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds. Raises `ImportError` without psutil."""
        self._psutil = importlib.import_module("psutil")
        self._clock, self._next = clock, -float("inf")
        self._gpus = _Gpus()

    def setup(self, learner: Learner, tracker: Tracker) -> None:
        """Begin to count."""
        self._tracker = tracker
        self._psutil.cpu_percent()  # the load since this call is what the next one returns
        self._network = self._psutil.net_io_counters()

    def step_end(self, result: StepResult) -> None:
        """Log a sample if one is due."""
        now = self._clock()
        if now >= self._next:
            self._next = now + EVERY_SECONDS
            self._tracker.log({f"system/{name}": value for name, value in self._sample().items()}, result.number)

    def _sample(self) -> dict[str, float]:
        psutil = self._psutil
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(os.sep), psutil.net_io_counters()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _MB,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / _MB,
            "disk_available_megabytes": disk.free / _MB,
        }
        if network is not None and self._network is not None:  # None in some containers
            found["network_receive_megabytes"] = (network.bytes_recv - self._network.bytes_recv) / _MB
            found["network_transmit_megabytes"] = (network.bytes_sent - self._network.bytes_sent) / _MB
        return {name: round(float(value), 1) for name, value in {**found, **self._gpus.sample()}.items()}


class _Gpus:
    """NVIDIA's GPUs as its driver counts them; none without pynvml or a driver."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        try:
            self._nvml = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(self._nvml.nvmlDeviceGetCount())]
        except Exception:  # not installed, or its own error without a driver
            self._handles = []

    def sample(self) -> dict[str, float]:
        """What each GPU tells; some do not tell everything."""
        found: dict[str, float] = {}
        for i, handle in enumerate(self._handles):
            for read in (self._memory, self._load, self._power):
                try:
                    found |= {f"gpu_{i}_{name}": value for name, value in read(handle).items()}
                except self._nvml.NVMLError:
                    continue
        return found

    def _memory(self, handle: Any) -> dict[str, float]:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        return {
            "memory_usage_percentage": 100 * memory.used / memory.total,
            "memory_usage_megabytes": memory.used / _MB,
        }

    def _load(self, handle: Any) -> dict[str, float]:
        return {"utilization_percentage": self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu}

    def _power(self, handle: Any) -> dict[str, float]:
        watts = self._nvml.nvmlDeviceGetPowerUsage(handle) / 1000
        limit = self._nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
        return {"power_usage_watts": watts, "power_usage_percentage": 100 * watts / limit}
