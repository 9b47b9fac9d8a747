"""Sweeps with known numbers, written into an MLflow store as a sweep's jobs leave them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from lwexp.report import main
from lwexp.report.runs import Curve, Sweep, SweepRun
from tests.helpers.commands import Outcome

Report = Callable[..., Outcome]
# test accuracies of seeds 0, 1, …: mult=0.9 is better than uniform rates by one to three points
UNIFORM = [0.90, 0.93, 0.91, 0.88, 0.92, 0.90]
BETTER = [0.92, 0.94, 0.93, 0.91, 0.93, 0.92]


def report_here(capsys: pytest.CaptureFixture[str]) -> Report:
    """`lwexp.report` in this process."""

    def command(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return command


@dataclass
class Job:
    """A child run: `point` as typed, validation accuracy at each evaluation, test accuracy (NaN: none)."""

    point: Mapping[str, str]
    val: Sequence[float] = ()
    test: float = math.nan
    uniform: bool = False
    status: str = "FINISHED"
    tags: Mapping[str, str] = field(default_factory=dict)
    steps: Iterable[int] = range(10, 10_000, 10)
    metrics: Mapping[str, float] = field(default_factory=dict)  # others, at the last step
    plan_csv: str | None = None  # kept as an artifact in place of the tags with the planned rates


def seeds(test: Sequence[float], uniform: bool = False, **point: str) -> list[Job]:
    """One job for each seed 0, 1, …; validation accuracy rises to that of the test split."""
    return [
        Job({**point, "seed": str(seed)}, val=(value - 0.3, value - 0.1, value), test=value, uniform=uniform)
        for seed, value in enumerate(test)
    ]


def as_sweep(jobs: Sequence[Job]) -> Sweep:
    """What is read of the sweep that `make_sweep` writes, without a store."""
    runs = [
        SweepRun(
            id=str(number), name=str(number), status=job.status, started=number, seed=job.point["seed"],
            point={key: value for key, value in job.point.items() if key != "seed"},
            arm=("uniform" if job.uniform else "layerwise") if job.val else "", why="", pruned=False,
            validation=max(job.val, default=math.nan), test=job.test,
            curve=Curve(np.array(list(job.steps)[: len(job.val)], dtype=float), np.array(job.val)), rates=None,
        )
        for number, job in enumerate(jobs)
    ]  # fmt: skip
    swept = tuple(key for key in dict.fromkeys(key for job in jobs for key in job.point) if key != "seed")
    return Sweep("0" * 32, "sweep", "FINISHED", 0, swept, len(jobs), runs)


def make_sweep(
    client: MlflowClient, jobs: Sequence[Job], name: str = "mult=0.9,1.0 seed=0,1",
    total: int | None = None, status: str = "FINISHED", start: int = 1_700_000_000_000, experiment: str = "lwexp",
) -> str:  # fmt: skip
    """Write a parent run and its children; returns the parent's id."""
    found = client.get_experiment_by_name(experiment)
    place = found.experiment_id if found is not None else client.create_experiment(experiment)
    swept = list(dict.fromkeys(key for job in jobs for key in job.point))
    tags = {"lwexp.kind": "sweep", "lwexp.swept": json.dumps(swept), "lwexp.overrides": name}
    parent = client.create_run(place, start, tags, name).info.run_id
    client.log_metric(parent, "sweep/total", len(jobs) if total is None else total)
    for number, job in enumerate(jobs):
        _make(client, place, parent, job, start + 1 + number)
    if status != "RUNNING":
        client.set_terminated(parent, status)
    return str(parent)


def _make(client: MlflowClient, experiment: str, parent: str, job: Job, start: int) -> None:
    run_name = " ".join(f"{key}={value}" for key, value in job.point.items())
    point = json.dumps(dict(job.point))
    tags = {"mlflow.parentRunId": parent, "lwexp.point": point, **job.tags}
    if job.val:
        tags["lwexp.arm"] = "uniform" if job.uniform else "layerwise"
    if job.val and job.plan_csv is None:
        mult = 1.0 if job.uniform else float(job.point.get("mult", 0.5))
        tags |= {"lwexp.lr.head": "0.01", "lwexp.lr.stem": f"{0.01 * mult:.7g}"}
    run = client.create_run(experiment, start, tags, run_name).info.run_id
    steps = list(job.steps)[: len(job.val)]
    rows = [Metric("val/accuracy", value, start, step) for value, step in zip(job.val, steps, strict=True)]
    rows += [Metric("test/accuracy", job.test, start, steps[-1])] if not math.isnan(job.test) else []
    rows += [Metric(key, value, start, steps[-1] if steps else 0) for key, value in job.metrics.items()]
    params = [Param(key, value) for key, value in {"seed": "0", "lr": "0.01", **job.point}.items()]
    client.log_batch(run, metrics=rows, params=params, tags=[RunTag("lwexp.overrides", run_name)])
    if job.plan_csv is not None:
        client.log_text(run, job.plan_csv, "plan.csv")
    if job.status != "RUNNING":
        client.set_terminated(run, job.status)
