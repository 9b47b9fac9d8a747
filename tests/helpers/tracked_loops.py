"""A small training as a user writes it, and what MLflow has of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from torch import nn

import lwexp
from lwexp import Plan, PlanScheduler

RATES = ["lr/00_2", "lr/01_0"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def planned(
    steps: int = 8, policy: str = "cosine", **options: Any
) -> tuple[Plan, torch.optim.Optimizer, PlanScheduler]:
    plan = lwexp.make_plan(network(), lr=0.1, mult=0.7)
    optimizer = plan.optimizer("sgd", momentum=0.9)
    return plan, optimizer, plan.scheduler(optimizer, policy, steps=steps, **options)


def losses(optimizer: torch.optim.Optimizer, count: int) -> Iterator[torch.Tensor]:
    """Train for `count` steps; yields the loss after each, before the scheduler's step."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(count):
        optimizer.zero_grad()
        loss = torch.stack([p.square().sum() for p in weights]).sum()
        loss.backward()
        optimizer.step()
        yield loss


def only_run(client: MlflowClient, experiment: str = "lwexp") -> Run:
    (found,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return found


def points(client: MlflowClient, run_id: str | None, key: str) -> list[tuple[int, str]]:
    """Step and exact value of every point of a metric, in the order of steps; a doubled point would be there twice."""
    history = client.get_metric_history(str(run_id), key)
    return sorted((row.step, float(row.value).hex()) for row in history)


def as_points(values: Mapping[int, float]) -> list[tuple[int, str]]:
    return [(step, float(value).hex()) for step, value in sorted(values.items())]
