"""The load of the machine in a run's metrics, by MLflow's names."""

from __future__ import annotations

import pytest

from tests.helpers.commands import RunHere

from .runs import SMALL, Store

pytestmark = pytest.mark.usefixtures("no_pictures")
pytest.importorskip("psutil")
NAMES = {
    "cpu_utilization_percentage", "system_memory_usage_megabytes", "system_memory_usage_percentage",
    "disk_usage_percentage", "disk_usage_megabytes", "disk_available_megabytes",
}  # fmt: skip


def test_the_load_of_the_machine_is_logged_on_request_once_also_when_a_run_resumes(
    lwexp_here: RunHere, store: Store
) -> None:
    place = ["hydra.run.dir=mine", "resume=auto", "tracking.system_metrics=true"]
    assert lwexp_here("run", *SMALL, *place).code == 0
    run = store.run()
    found = {key.removeprefix("system/") for key in run.data.metrics if key.startswith("system/")}
    assert found >= NAMES
    assert 0 < run.data.metrics["system/system_memory_usage_percentage"] <= 100
    assert next(step for step, _ in store.history(run, "system/cpu_utilization_percentage")) == 0

    assert lwexp_here("run", *SMALL, *place, "epochs=3", "max_steps=9").code == 0
    steps = [step for step, _ in store.history(store.run(), "system/cpu_utilization_percentage")]
    assert steps == sorted(set(steps))
    assert steps[-1] >= 6


def test_without_the_option_no_such_metrics(lwexp_here: RunHere, store: Store) -> None:
    assert lwexp_here("run", *SMALL).code == 0
    assert not [key for key in store.run().data.metrics if key.startswith("system/")]
