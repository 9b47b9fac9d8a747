"""Where the jobs of a sweep run: several at once on this machine, as a job array on Slurm, on a Ray cluster.

The engines are joblib, submitit and ray, used directly. (Hydra's plugins for them raise what the first lost job raises
and so lose the others, wait for ever for a job that died on a Slurm without accounting, and pin old packages.) A
launcher returns one `JobReturn` for each job, FAILED for one that was lost.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import shutil
import subprocess
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import ValidationError

from lwexp import hiding
from lwexp.config import Count, NonNegative, Positive, Section
from lwexp.errors import ConfigError, RunError, UnknownOptionError
from lwexp.signals import Interrupted, handle_in_command

from .machine import THREADS, deal_gpu, jobs_that_fit, this_machine, threads_of_job, usable_cores

log = logging.getLogger(__name__)

_ALIAS = "hydra_plugins.lwexp."  # Hydra instantiates only what is named as if it were in this package
_BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_ARRAY = 1000  # jobs in one array: Slurm's MaxArraySize is 1001 unless a cluster sets another
_LOOK_SECONDS = 10.0  # between looks at Slurm's queue, which serves all users of a cluster
_PASSING = {"None", "Resources", "Priority", "JobArrayTaskLimit", "BeginTime", "Cleaning", "Prolog"}
_GONE_SECONDS = 30.0  # for the result of a job that has left the queue to appear on a shared disk


@dataclass(frozen=True)
class Job:
    """One job, to be called in the process that runs it, on whichever machine."""

    overrides: tuple[str, ...]
    number: int
    context: HydraContext
    config: DictConfig
    task: TaskFunction
    singletons: Mapping[Any, Any]

    def __call__(self) -> JobReturn:
        """Compose the job's config and run it; what it raises is in the result."""
        setup_globals()
        Singleton.set_state(dict(self.singletons))
        config = self.context.config_loader.load_sweep_config(self.config, list(self.overrides))
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{self.number}"
            config.hydra.job.num = self.number
        HydraConfig.instance().set_config(config)
        return run_job(
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=self.context,
        )


class _ManyJobs(Launcher):
    """What the launchers share. `conf/hydra/launcher/<choice>.yaml` holds the constructor's arguments."""

    choice: ClassVar[str]
    package: ClassVar[str]  # that the engine is in
    extra: ClassVar[str]  # of lwexp that installs it
    schema: ClassVar[type[Section]]  # of the arguments

    def __init__(self, **options: Any) -> None:
        self.options = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in options.items()
        }

    @classmethod
    def check(cls, config: DictConfig) -> None:
        """Refuse what cannot work with this launcher. Raises `ConfigError`."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `launch`."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and return when all of them have ended."""
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        setup_globals()
        jobs = [
            Job(tuple(overrides), number, self.hydra_context, self.config, self.task_function, Singleton.get_state())
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        ]
        return self.run(jobs)

    @abstractmethod
    def run(self, jobs: Sequence[Job]) -> Sequence[JobReturn]:
        """Run `jobs`."""


def lost(job: Job, why: str) -> JobReturn:
    """The result of a job that came to none itself."""
    error = RunError(hiding.hide(" ".join(why.split())))
    return JobReturn(overrides=list(job.overrides), status=JobStatus.FAILED, _return_value=error)


# ------------------------------------------------------------------------------------------------------ this machine


class JoblibOptions(Section):
    """The keys of conf/hydra/launcher/joblib.yaml."""

    n_jobs: Count | None


class JoblibLauncher(_ManyJobs):
    """Several jobs at once on this machine, in joblib's processes, each with its part of the cores and GPUs."""

    choice, package, extra, schema = "joblib", "joblib", "joblib", JoblibOptions

    def run(self, jobs: Sequence[Job]) -> Sequence[JobReturn]:
        """Run `jobs`. Where one of joblib's processes is killed the others end too, and their jobs are gone on with."""
        from joblib import Parallel, delayed, parallel_config
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        device, folder = _device(self.config), Path(str(self.config.hydra.sweep.dir)).absolute() / ".places"
        machine = this_machine(device)
        count = min(parallel_jobs(self.config) or 1, len(jobs))
        threads = OmegaConf.select(self.config, "threads") or threads_of_job(machine, count, os.environ)
        gpus = machine.gpus if ":" not in device else ()  # a device with a number is the same for all jobs
        log.info("%s", _said(count, threads, machine.cores, machine.memory, gpus))
        results: dict[int, JobReturn] = {}
        while len(results) < len(jobs):
            rest, before = [job for job in jobs if job.number not in results], len(results)
            with parallel_config("loky", n_jobs=count, inner_max_num_threads=threads):
                calls = (delayed(_run_here)(job, gpus, count, folder) for job in rest)
                try:
                    results.update(Parallel(batch_size=1, return_as="generator_unordered")(calls))
                except TerminatedWorkerError:
                    if len(results) == before:
                        why = "a process that runs jobs was killed, and again before any job had ended"
                        return [results.get(job.number) or lost(job, why) for job in jobs]
                    log.warning("a process that runs jobs was killed; going on with %d jobs", len(jobs) - len(results))
        return [results[job.number] for job in jobs]


def _run_here(job: Job, gpus: Sequence[str], at_once: int, folder: Path) -> tuple[int, JobReturn]:
    """In one of `at_once` processes: run `job` on the GPU of this process."""
    multiprocessing.set_start_method(None, force=True)  # joblib's own, which the processes started from here lack
    gpu = deal_gpu(gpus, at_once, folder)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    return job.number, job()


def _said(jobs: int, threads: int, cores: int, memory: int | None, gpus: Sequence[str]) -> str:
    """What was decided and from what, on one line."""
    what = "1 job" if jobs == 1 else f"{jobs} jobs"
    has = [f"{cores} cores" if cores > 1 else "1 core"]
    has += [] if memory is None else [f"{memory / 2**30:.1f} GB of memory free"]
    has += [f"GPUs {', '.join(gpus)}"] if gpus else []
    each = f"{threads} threads" if threads > 1 else "1 thread"
    return f"{what} at once, {each} each ({', '.join(has)}; hydra.launcher.n_jobs=… and threads=… set others)"


# ------------------------------------------------------------------------------------------------------------- Slurm


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


class SlurmLauncher(_ManyJobs):
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
        if hiding.hidden(values) != values:
            uri = hiding.hide(str(OmegaConf.select(config, "tracking.uri")))
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
        except BaseException:
            if submitted:
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
                    why = f"Slurm's job {name} ended without a result ({_state(name)}); its log: {handle.paths.stderr}"
                    results[job.number] = lost(job, why)
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
    return lost(job, f"Slurm's job {handle.job_id}: {words[-1] if words else error}; its log: {handle.paths.stderr}")


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


def _state(name: str) -> str:
    """Slurm's word for how the job ended, which it keeps for some minutes."""
    found = subprocess.run(["scontrol", "--oneliner", "show", "job", name], check=False, capture_output=True, text=True)
    state = re.search(r"\bJobState=(\w+)", found.stdout)
    return state[1] if state else "state unknown"


def cluster_tags() -> dict[str, str]:
    """Tags of a run in MLflow that lead to its job on the cluster and to its log; none elsewhere."""
    name = os.environ.get("SLURM_JOB_ID")
    if name is None:
        return {}
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        name = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    folder = os.environ.get("SUBMITIT_FOLDER")
    return {"lwexp.slurm.job": name, **({} if folder is None else {"lwexp.slurm.log": folder.replace("%j", name)})}


# --------------------------------------------------------------------------------------------------------------- Ray


class RayTaskOptions(Section):
    """What each job asks of Ray."""

    num_cpus: Positive
    num_gpus: NonNegative
    max_retries: int
    resources: dict[str, float]


class RayInitOptions(Section):
    """Where the cluster is, or what one on this machine is made of."""

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


class RayLauncher(_ManyJobs):
    """The jobs as tasks of a Ray cluster, one on this machine unless an address is given."""

    choice, package, extra, schema = "ray", "ray", "ray", RayLauncherOptions

    def run(self, jobs: Sequence[Job]) -> Sequence[JobReturn]:
        """Run `jobs`; an interrupt ends them too."""
        import ray

        options = self.options["ray"]
        if not ray.is_initialized():
            ray.init(**{key: value for key, value in options["init"].items() if value is not None})
        # As an argument, which stays in memory: Ray writes the environments of its own settings to logs
        settings = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
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
                    results[job.number] = lost(job, f"Ray lost the job: {str(error).splitlines()[0]}")
        except BaseException:
            for reference in waiting:
                ray.cancel(reference)
            raise
        return [results[job.number] for job in jobs]


def _run_on_ray(job: Job, settings: Mapping[str, str]) -> JobReturn:
    os.environ.update(settings)
    return job()


# ----------------------------------------------------------------------------------------------------- which and how


_LAUNCHERS: dict[str, type[_ManyJobs]] = {
    _ALIAS + kind.__name__: kind for kind in (JoblibLauncher, SlurmLauncher, RayLauncher)
}


def check_launcher(config: DictConfig) -> None:
    """Refuse a launcher that is not installed, has wrong options or cannot work here; let Hydra find it otherwise.

    `config` is that of the sweep; nothing is made. Raises `ConfigError`.
    """
    target = str(config.hydra.launcher._target_)
    kind = _LAUNCHERS.get(target)
    if kind is None:
        return
    if find_spec(kind.package) is None:
        why = f"needs the package {kind.package}: pip install -e '.[{kind.extra}]'"
        raise ConfigError("hydra/launcher", kind.choice, why)
    values: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    try:
        kind.schema.model_validate({key: value for key, value in values.items() if key != "_target_"})
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        key = ".".join(["hydra", "launcher", *(str(part) for part in found["loc"])])
        if found["type"] == "extra_forbidden":
            raise UnknownOptionError(key, found["input"], kind.schema.model_fields) from None
        raise ConfigError(key, found["input"], found["msg"].removeprefix("Input ")) from None
    kind.check(config)
    Plugins.instance().class_name_to_class[target] = kind


def parallel_jobs(config: DictConfig) -> int | None:
    """How many jobs of the sweep `config` run at once on this machine; None where a cluster decides."""
    target = str(config.hydra.launcher._target_)
    if target == _BASIC:
        return 1
    if _LAUNCHERS.get(target) is not JoblibLauncher:
        return None
    given: int | None = config.hydra.launcher.n_jobs
    return given or jobs_that_fit(this_machine(_device(config)), OmegaConf.select(config, "threads"))


def _device(config: DictConfig) -> str:
    return str(OmegaConf.select(config, "device") or "auto")
