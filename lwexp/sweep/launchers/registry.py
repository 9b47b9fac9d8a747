"""Where the jobs of a sweep run: the launchers there are, and the one for this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from lwexp.config.schema import Count, Section
from lwexp.errors import ConfigError, UnknownOptionError
from lwexp.host.resources import deal_gpu, jobs_that_fit, this_machine, threads_of_job
from lwexp.host.signals import Interrupted, Requests, handle_in_command

from .base import Job, ManyJobs, lost
from .ray_launcher import RayLauncher
from .slurm import SlurmLauncher

log = logging.getLogger(__name__)

_ALIAS = "hydra_plugins.lwexp."  # Hydra instantiates only what is named as if it were in this package
_BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


class JoblibOptions(Section):
    """The keys of conf/hydra/launcher/joblib.yaml."""

    n_jobs: Count | None


class JoblibLauncher(ManyJobs):
    """Several jobs at once on this machine, in joblib's processes, each with its part of the cores and GPUs."""

    choice, package, extra, schema = "joblib", "joblib", "joblib", JoblibOptions
    _threads: int | None = None  # of each job, from the first launch on

    def run(self, jobs: Sequence[Job]) -> Sequence[JobReturn]:
        """Run `jobs`. Where one of joblib's processes is killed, which its jobs cannot do, all that run are lost."""
        from joblib import Parallel, delayed, parallel_config
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        device, folder = _device(self.config), Path(str(self.config.hydra.sweep.dir)).absolute() / ".places"
        machine = this_machine(device)
        count = min(parallel_jobs(self.config) or 1, len(jobs))
        gpus = machine.gpus if ":" not in device else ()  # a device with a number is the same for all jobs
        if self._threads is None:  # the same for all jobs of a search, whose last batch may be narrower
            self._threads = OmegaConf.select(self.config, "threads") or threads_of_job(machine, count, os.environ)
            log.info("%s", _said(count, self._threads, machine.cores, machine.memory, gpus))
        results: dict[int, JobReturn] = {}
        # joblib kills what its processes have started when an interrupt reaches it, so that waits for their end
        with (
            parallel_config("loky", n_jobs=count, inner_max_num_threads=self._threads),
            Requests(stops=True, then=_end_jobs) as asked,
        ):
            calls = (delayed(_run_here)(job, gpus, count, folder) for job in jobs if asked.stop is None)
            try:
                results.update(Parallel(batch_size=1, pre_dispatch=count, return_as="generator_unordered")(calls))
            except TerminatedWorkerError:
                log.warning("a process that runs jobs was killed, and joblib has ended the others")
        return [results.get(job.number) or lost(job, "the process that runs the jobs was killed") for job in jobs]


def _run_here(job: Job, gpus: Sequence[str], at_once: int, folder: Path) -> tuple[int, JobReturn]:
    """In one of `at_once` processes: run `job` on the GPU of this process."""
    multiprocessing.set_start_method(None, force=True)  # joblib's own, which the processes started from here lack
    gpu = deal_gpu(gpus, at_once, folder)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the launcher's passes it on
    handle_in_command()
    try:
        return job.number, job()
    except Interrupted:
        return job.number, lost(job, "interrupted")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a process that dies without a job takes all others along


def _end_jobs() -> None:
    """Have each process that runs a job end it, with a checkpoint."""
    from joblib.externals.loky.backend.process import LokyProcess

    for process in multiprocessing.active_children():
        if isinstance(process, LokyProcess):
            process.terminate()


def _said(jobs: int, threads: int, cores: int, memory: int | None, gpus: Sequence[str]) -> str:
    """What was decided and from what, on one line."""
    what = "1 job" if jobs == 1 else f"{jobs} jobs"
    has = [f"{cores} cores" if cores > 1 else "1 core"]
    has += [] if memory is None else [f"{memory / 2**30:.1f} GB of memory free"]
    has += [f"GPUs {', '.join(gpus)}"] if gpus else []
    each = f"{threads} threads" if threads > 1 else "1 thread"
    return f"{what} at once, {each} each ({', '.join(has)}; hydra.launcher.n_jobs=… and threads=… set others)"


_LAUNCHERS: dict[str, type[ManyJobs]] = {
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
