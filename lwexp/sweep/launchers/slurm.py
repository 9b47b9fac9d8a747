"""Sweeps on Slurm, through submitit: job arrays whose jobs go on where they were when Slurm starts them again."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from lwexp import redaction
from lwexp.config.schema import Count, Positive, Section
from lwexp.errors import ConfigError
from lwexp.host.resources import THREADS, usable_cores
from lwexp.host.signals import Interrupted, handle_in_command, tell_of

from .base import Job, ManyJobs, lost

log = logging.getLogger(__name__)

_ARRAY = 1000  # jobs in one array: Slurm's MaxArraySize is 1001 unless a cluster sets another
_LOOK_SECONDS = 10.0  # between looks at Slurm's queue, which serves all users of a cluster
_PASSING = {"None", "Resources", "Priority", "JobArrayTaskLimit", "BeginTime", "Cleaning", "Prolog"}
_GONE_SECONDS = 30.0  # for the result of a job that has left the queue to appear on a shared disk


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
    """The jobs as arrays on Slurm. A job that is preempted, requeued or out of time starts again, and goes on."""

    choice, package, extra, schema = "submitit_slurm", "submitit", "slurm", SlurmOptions
    _common = ("name", "timeout_min", "cpus_per_task", "mem_gb", "gpus_per_node")

    @classmethod
    def check(cls, config: DictConfig) -> None:
        """Refuse a machine without Slurm, and secrets in the config, which goes to the nodes as a file."""
        if shutil.which("sbatch") is None or shutil.which("squeue") is None:
            why = "there is no Slurm here (sbatch and squeue); start the sweep on a login node of the cluster"
            raise ConfigError("hydra/launcher", cls.choice, why)
        values = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
        if redaction.hidden(values) != values:
            uri = redaction.hide(str(OmegaConf.select(config, "tracking.uri")))
            why = "has a password, and what is typed reaches Slurm's nodes in files; export MLFLOW_TRACKING_URI instead"
            raise ConfigError("tracking.uri", uri, why)

    def run(self, jobs: Sequence[Job]) -> Sequence[JobReturn]:
        """Submit `jobs` and wait for all of them; an interrupt ends them too."""
        import submitit

        options = dict(self.options)
        executor = submitit.AutoExecutor(
            options.pop("submitit_folder"), cluster="slurm", slurm_max_num_timeout=options.pop("max_num_timeout")
        )
        named = {key if key in self._common else f"slurm_{key}": value for key, value in options.items()}
        executor.update_parameters(**named)
        submitted: dict[str, tuple[Job, Any]] = {}
        try:
            for first in range(0, len(jobs), _ARRAY):
                part = [_SlurmJob(**vars(job)) for job in jobs[first : first + _ARRAY]]
                with executor.batch():
                    handles = [executor.submit(job) for job in part]
                submitted |= {handle.job_id: (job, handle) for job, handle in zip(part, handles, strict=True)}
            log.info("%d jobs submitted to Slurm as %s", len(jobs), ", ".join(_arrays(submitted)))
            results = self._wait(submitted)
        except BaseException as stopped:
            if submitted:
                tell_of(stopped)
                subprocess.run(["scancel", *_arrays(submitted)], check=False, capture_output=True)
            raise
        return [results[job.number] for job in jobs]

    def _wait(self, submitted: Mapping[str, tuple[Job, Any]]) -> dict[int, JobReturn]:
        """The results, by the jobs' numbers. A job without one is lost when it is no longer in Slurm's queue."""
        results: dict[int, JobReturn] = {}
        gone: dict[str, float] = {}  # since when
        told: set[str] = set()
        waiting, next_look = dict(submitted), 0.0
        while waiting:
            now = time.monotonic()
            queued = _queued() if now >= next_look else None
            if queued is not None:
                next_look = now + _LOOK_SECONDS
                told |= _tell_why_they_wait({name: queued[name] for name in waiting if name in queued}, told)
            for name, (job, handle) in list(waiting.items()):
                if handle.paths.result_pickle.exists():
                    results[job.number] = _result(job, handle)
                elif queued is None:
                    continue
                elif name in queued:
                    gone.pop(name, None)
                    continue
                elif now - gone.setdefault(name, now) < _GONE_SECONDS:
                    continue
                else:
                    results[job.number] = lost(job, f"Slurm ended it: {_last_words(name, handle.paths.stderr)}")
                del waiting[name]
            time.sleep(min(_LOOK_SECONDS, 1 + len(waiting) / 100))
        return results


class _SlurmJob(Job):
    """A job as a process of Slurm's runs it."""

    def __call__(self) -> JobReturn:
        """Run the job. Told to end, it leaves no result: whether it is over, Slurm knows, which may start it again."""
        handle_in_command()  # submitit ignores SIGTERM and keeps SIGUSR2, at which it puts the job back into the queue
        os.environ.setdefault(THREADS, str(usable_cores()))
        try:
            return super().__call__()
        except Interrupted as stopped:
            raise SystemExit(128 + stopped.signum) from None

    def checkpoint(self) -> Any:
        """What submitit starts when the job is requeued: the same; its folder tells how far it had come."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _result(job: Job, handle: Any) -> JobReturn:
    error = handle.exception()
    if error is None:
        result: JobReturn = handle.result()
        return result
    words = [line for line in str(error).splitlines() if re.match(r"[\w.]+: ", line)]
    return lost(job, f"{words[-1] if words else error} (Slurm's job {handle.job_id}, {handle.paths.stderr})")


def _arrays(names: Iterable[str]) -> list[str]:
    """The ids of the arrays, and of jobs in none, that the jobs `names` are in."""
    return list(dict.fromkeys(name.partition("_")[0] for name in names))


def _queued() -> dict[str, str] | None:
    """The user's jobs that Slurm has still to do with, as `<array>_<index>`, and why they wait, if they do.

    None where Slurm does not answer.
    """
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i %r"]
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return {name: reason for name, _, reason in (line.partition(" ") for line in found.stdout.splitlines())}


def _tell_why_they_wait(reasons: Mapping[str, str], told: set[str]) -> set[str]:
    """Warn of reasons that time alone may not end (a limit of the partition); returns those that are new."""
    new = set(reasons.values()) - told - _PASSING
    for reason in new:
        name = next(name for name, why in reasons.items() if why == reason)
        log.warning("Slurm's job %s waits: %s", name, reason)
    return new


def _last_words(name: str, log_file: Path) -> str:
    """What Slurm wrote into a job's log when it ended it, else its word for the job's state."""
    with suppress(OSError):
        text = log_file.read_text(encoding="utf-8", errors="replace")
        if found := re.findall(r"^slurmstepd\S*: error: (.+)", text, re.MULTILINE):
            return f"{found[-1]} (job {name}, {log_file})"
    shown = subprocess.run(["scontrol", "--oneliner", "show", "job", name], check=False, capture_output=True, text=True)
    state = re.search(r"\bJobState=(\w+)", shown.stdout)
    return f"{state[1] if state else 'state unknown'} (job {name}, {log_file})"


def cluster_tags() -> dict[str, str]:
    """Tags of a run in MLflow that lead to its job on the cluster and to its log; none elsewhere."""
    name = os.environ.get("SLURM_JOB_ID")
    if name is None:
        return {}
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        name = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    folder = os.environ.get("SUBMITIT_FOLDER")
    return {"lwexp.slurm.job": name, **({} if folder is None else {"lwexp.slurm.log": folder.replace("%j", name)})}
