"""Sweeps on joblib: several jobs at once on this machine, in a pool of processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from lwexp.config.section import Count, Section
from lwexp.host.resources import GPUS, jobs_that_fit, this_machine, threads_of_job
from lwexp.host.signals import Interrupted, Requests, handle_in_command, report_stop

from .base import LaunchedJob, ManyJobs, lost_result
from .gpus import GpuSlot

log = logging.getLogger(__name__)
_slot = GpuSlot()  # of this process, should joblib start it to run jobs


class JoblibOptions(Section):
    """The keys of conf/hydra/launcher/joblib.yaml."""

    n_jobs: Count | None


class JoblibLauncher(ManyJobs):
    """Several jobs at once on this machine, in joblib's processes, each with its share of the cores and GPUs."""

    choice, package, extra, schema = "joblib", "joblib", "joblib", JoblibOptions
    _threads: int | None = None  # of each job, from the first launch on

    @classmethod
    def jobs_at_once(cls, config: DictConfig) -> int:
        """`n_jobs`, or as many as fit on this machine."""
        given: int | None = config.hydra.launcher.n_jobs
        return given or jobs_that_fit(this_machine(_device(config)), OmegaConf.select(config, "threads"))

    def run(self, jobs: Sequence[LaunchedJob]) -> Sequence[JobReturn]:
        """Run `jobs`. If one of joblib's own processes is killed, which no job can do, all running jobs are lost."""
        from joblib import Parallel, delayed, parallel_config
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        device, folder = _device(self.config), Path(str(self.config.hydra.sweep.dir)).absolute() / ".places"
        machine = this_machine(device)
        count = min(self.jobs_at_once(self.config), len(jobs))
        gpus = machine.gpus if ":" not in device else ()  # a device with a number is the same for all jobs
        if self._threads is None:  # the same for all jobs of a search, whose last batch may be narrower
            self._threads = OmegaConf.select(self.config, "threads") or threads_of_job(machine, count, os.environ)
            log.info("%s", _resources_line(count, self._threads, machine.cores, machine.memory, gpus))
        if count == 1:  # joblib would run them in this process too, with the signals of a pool's
            try:
                return [job() for job in jobs]
            except (KeyboardInterrupt, Interrupted) as stopped:
                report_stop(stopped)
                raise
        results: dict[int, JobReturn] = {}
        # joblib kills what its processes have started when an interrupt reaches it, so it must not see one
        with (
            parallel_config("loky", n_jobs=count, inner_max_num_threads=self._threads),
            Requests(stops=True, then=_end_jobs) as requests,
        ):
            calls = (delayed(_run_in_pool)(job, gpus, count, folder) for job in jobs if requests.stop is None)
            try:
                results.update(Parallel(batch_size=1, pre_dispatch=count, return_as="generator_unordered")(calls))
            except TerminatedWorkerError:
                log.warning("a process that runs jobs was killed, and joblib has ended the others")
        return [
            results.get(job.number) or lost_result(job, "the process that runs the jobs was killed") for job in jobs
        ]


def _run_in_pool(job: LaunchedJob, gpus: Sequence[str], processes: int, folder: Path) -> tuple[int, JobReturn]:
    """In one of `processes` processes of joblib's pool: run `job` on the GPU of this process."""
    multiprocessing.set_start_method(None, force=True)  # joblib's own, which the processes started from here lack
    gpu = _slot.gpu(gpus, processes, folder)
    if gpu is not None:
        os.environ[GPUS] = gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the launcher forwards its own
    handle_in_command()
    try:
        return job.number, job()
    except Interrupted:
        return job.number, lost_result(job, "interrupted")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a process that dies between jobs takes all others along


def _end_jobs() -> None:
    """Have each process that runs a job end it, with a checkpoint."""
    from joblib.externals.loky.backend.process import LokyProcess

    for process in multiprocessing.active_children():
        if isinstance(process, LokyProcess):
            process.terminate()


def _resources_line(jobs: int, threads: int, cores: int, memory: int | None, gpus: Sequence[str]) -> str:
    """What was decided and from what, on one line."""
    what = "1 job" if jobs == 1 else f"{jobs} jobs"
    has = [f"{cores} cores" if cores > 1 else "1 core"]
    has += [] if memory is None else [f"{memory / 2**30:.1f} GB of memory free"]
    has += [f"GPUs {', '.join(gpus)}"] if gpus else []
    each = f"{threads} threads" if threads > 1 else "1 thread"
    return f"{what} at once, {each} each ({', '.join(has)}; hydra.launcher.n_jobs=… and threads=… set others)"


def _device(config: DictConfig) -> str:
    return str(OmegaConf.select(config, "device") or "auto")
