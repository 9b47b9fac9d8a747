"""Sweeps on Ray: each job a task of a cluster, or of one that is started on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn

from lwexp.config.section import Count, NonNegative, Positive, Section
from lwexp.host.signals import report_stop

from .base import LaunchedJob, ManyJobs, lost_result


class RayTaskOptions(Section):
    """What each job requests from Ray."""

    num_cpus: Positive
    num_gpus: NonNegative
    max_retries: int
    resources: dict[str, float]


class RayInitOptions(Section):
    """Where the cluster is, or the size of one on this machine."""

    address: str | None
    num_cpus: Count | None
    num_gpus: int | None
    include_dashboard: bool | None
    runtime_env: dict[str, Any] | None
    log_to_driver: bool


class RayOptions(Section):
    """`ray` of conf/hydra/launcher/ray.yaml."""

    init: RayInitOptions
    remote: RayTaskOptions


class RayLauncherOptions(Section):
    """The keys of conf/hydra/launcher/ray.yaml."""

    ray: RayOptions


class RayLauncher(ManyJobs):
    """The jobs as tasks of a Ray cluster, one on this machine unless an address is given."""

    choice, package, extra, schema = "ray", "ray", "ray", RayLauncherOptions

    def run(self, jobs: Sequence[LaunchedJob]) -> Sequence[JobReturn]:
        """Run `jobs`; an interrupt also ends them."""
        import ray

        options = self.options["ray"]
        if not ray.is_initialized():
            given = {key: value for key, value in options["init"].items() if value is not None}
            # by default Ray also looks for a cluster that once ran here, and waits for minutes if it is gone
            ray.init(**{"address": os.environ.get("RAY_ADDRESS") or "local", **given})
        # an argument stays in memory, while Ray logs the environment variables of `runtime_env`
        settings = {name: value for name, value in os.environ.items() if name.startswith(("MLFLOW_", "LWEXP_"))}
        task = ray.remote(**options["remote"])(_run_on_ray)
        waiting = {task.remote(job, settings): job for job in jobs}
        results: dict[int, JobReturn] = {}
        try:
            while waiting:
                (ended,), _ = ray.wait(list(waiting))
                job = waiting.pop(ended)
                try:
                    results[job.number] = ray.get(ended)
                except ray.exceptions.RayError as error:
                    results[job.number] = lost_result(job, f"Ray lost the job: {str(error).splitlines()[0]}")
        except BaseException as stopped:
            report_stop(stopped)
            for reference in waiting:
                ray.cancel(reference)
            raise
        return [results[job.number] for job in jobs]


def _run_on_ray(job: LaunchedJob, settings: Mapping[str, str]) -> JobReturn:
    os.environ.update(settings)
    return job()
