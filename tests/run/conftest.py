"""What a run had, did and left: its start, its rates, its records."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lwexp import Plan
from lwexp.experiment import on_device
from lwexp.plots import process
from tests.run.runs import Start, Store


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of so short a run; their tables of rates are still made."""
    monkeypatch.setattr(process, "write_plots", lambda *_, **__: [])


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Start]:
    """The starts of all runs of a test, in order."""
    found: list[Start] = []
    build = on_device.build_optimizer

    def recorded(config: Any, plan: Plan) -> Any:
        found.append(Start(plan, {name: p.detach().clone() for name, p in plan._parameters.items()}))
        return build(config, plan)

    monkeypatch.setattr(on_device, "build_optimizer", recorded)
    return found


@pytest.fixture
def used_rates() -> Iterator[list[dict[str, float]]]:
    """Each group's rate at each optimizer step, read where torch's optimizer begins the step."""
    steps: list[dict[str, float]] = []

    def look(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if "name" in optimizer.param_groups[0]:  # not the simulated optimizer that a policy runs torch's scheduler on
            # a group that is split by weight decay has two names there, and one rate
            rates = {(group["name"].partition(":")[0], float(group["lr"])) for group in optimizer.param_groups}
            steps.append(dict(rates))
            assert len(steps[-1]) == len(rates)

    hook = register_optimizer_step_pre_hook(look)
    yield steps
    hook.remove()


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Store:
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    return Store(MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/outputs/mlflow.db"))
