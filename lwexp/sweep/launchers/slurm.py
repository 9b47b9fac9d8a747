"""Sweeps on Slurm, through submitit: job arrays whose jobs resume from their checkpoint when Slurm restarts them."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from lwexp import redaction
from lwexp.config.section import Count, Positive, Section
from lwexp.errors import ConfigError
from lwexp.host.resources import THREADS, usable_cores
from lwexp.host.signals import Interrupted, handle_in_command, report_stop

from .base import LaunchedJob, ManyJobs
from .slurm_queue import wait_for_results

log = logging.getLogger(__name__)

_ARRAY = 1000  # jobs in one array: Slurm's MaxArraySize is 1001 unless a cluster sets another


class SlurmOptions(Section):
    """The keys of conf/hydra/launcher/submitit_slurm.yaml."""

    submitit_folder: str
    name: str
    timeout_min: Count
    signal_delay_s: Count
    max_num_timeout: int
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    exclude: str | None
    comment: str | None
    cpus_per_task: Count | None
    mem_gb: Positive | Count | None
    gpus_per_node: Count | None
    gres: str | None
    array_parallelism: Count
    setup: list[str] | None
    additional_parameters: dict[str, Any]


class SlurmLauncher(ManyJobs):
    """The jobs as arrays on Slurm. A job that is preempted, requeued or out of time restarts and resumes."""

    choice, package, extra, schema = "submitit_slurm", "submitit", "slurm", SlurmOptions
    _common = ("name", "timeout_min", "cpus_per_task", "mem_gb", "gpus_per_node")

    @classmethod
    def check(cls, config: DictConfig) -> None:
        """Refuse a machine without Slurm, and secrets in the config, which reaches the nodes as a file."""
        if shutil.which("sbatch") is None or shutil.which("squeue") is None:
            why = "there is no Slurm here (sbatch and squeue); start the sweep on a login node of the cluster"
            raise ConfigError("hydra/launcher", cls.choice, why)
        values = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
        if redaction.redact_values(values) != values:
            uri = redaction.redact(str(OmegaConf.select(config, "tracking.uri")))
            why = "has a password, and what is typed reaches Slurm's nodes in files; export MLFLOW_TRACKING_URI instead"
            raise ConfigError("tracking.uri", uri, why)

    def run(self, jobs: Sequence[LaunchedJob]) -> Sequence[JobReturn]:
        """Submit `jobs` and wait for all of them; an interrupt also ends them."""
        import submitit

        options = dict(self.options)
        executor = submitit.AutoExecutor(
            options.pop("submitit_folder"), cluster="slurm", slurm_max_num_timeout=options.pop("max_num_timeout")
        )
        named = {key if key in self._common else f"slurm_{key}": value for key, value in options.items()}
        executor.update_parameters(**named)
        submitted: dict[str, tuple[LaunchedJob, Any]] = {}
        try:
            for first in range(0, len(jobs), _ARRAY):
                part = [_SlurmJob(**vars(job)) for job in jobs[first : first + _ARRAY]]
                with executor.batch():
                    handles = [executor.submit(job) for job in part]
                submitted |= {handle.job_id: (job, handle) for job, handle in zip(part, handles, strict=True)}
            log.info("%d jobs submitted to Slurm as %s", len(jobs), ", ".join(_arrays(submitted)))
            results = wait_for_results(submitted)
        except BaseException as stopped:
            if submitted:
                report_stop(stopped)
                subprocess.run(["scancel", *_arrays(submitted)], check=False, capture_output=True)
            raise
        return [results[job.number] for job in jobs]


class _SlurmJob(LaunchedJob):
    """A job as run by one of Slurm's processes."""

    def __call__(self) -> JobReturn:
        """Run the job. Interrupted, it leaves no result: Slurm may restart it."""
        handle_in_command()  # submitit ignores SIGTERM; SIGUSR2 stays its own, on which it requeues the job
        os.environ.setdefault(THREADS, str(usable_cores()))
        try:
            return super().__call__()
        except Interrupted as stopped:
            raise SystemExit(128 + stopped.signum) from None

    def checkpoint(self) -> Any:
        """What submitit starts when the job is requeued: the same job, which resumes from its folder."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _arrays(names: Iterable[str]) -> list[str]:
    """The ids of the arrays of the jobs `names`, and of jobs outside an array."""
    return list(dict.fromkeys(name.partition("_")[0] for name in names))
