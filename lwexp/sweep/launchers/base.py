"""What the launchers of sweeps share: a job that any process can run, and the result of a job that was lost.

The engines are joblib, submitit and ray, used directly. (Hydra's plugins for them raise the error of the first lost job
and so lose the others, wait forever for a job that died on a Slurm without accounting, and pin old packages.) A
launcher returns one `JobReturn` per job, FAILED for a lost one.
"""

from __future__ import annotations

import os
import socket
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from lwexp import redaction
from lwexp.config.section import Section
from lwexp.errors import LwexpError, RunError
from lwexp.formatting import one_line

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def is_basic(launcher: DictConfig) -> bool:
    """Whether `launcher`, the config of one, is Hydra's own: jobs one after another in the launching process."""
    return str(launcher._target_) == BASIC


@dataclass(frozen=True)
class LaunchedJob:
    """One job, called in the process that runs it, on any machine."""

    overrides: tuple[str, ...]
    number: int
    context: HydraContext
    config: DictConfig
    task: TaskFunction
    singletons: Mapping[Any, Any]
    cwd: str  # of the command: relative folders and the user's own modules are relative to it

    def __call__(self) -> JobReturn:
        """Compose the job's config and run it; an error is in the result."""
        try:
            os.chdir(self.cwd)
        except OSError as error:
            why = f"{error.strerror or error}; the sweep's folder must be on a disk that all nodes share"
            return lost_result(self, f"{socket.gethostname()} cannot enter {self.cwd}: {why}")
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


class ManyJobs(Launcher):
    """What the launchers share. `conf/hydra/launcher/<choice>.yaml` holds the constructor's arguments."""

    choice: ClassVar[str]
    package: ClassVar[str]  # of the engine
    extra: ClassVar[str]  # of lwexp, which installs the package
    schema: ClassVar[type[Section]]  # of the arguments

    def __init__(self, **options: Any) -> None:
        """`options` have been checked against `schema`."""
        self.options: dict[str, Any] = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in options.items()
        }

    @classmethod
    def check(cls, config: DictConfig) -> None:
        """Refuse what cannot work with this launcher. Raises `ConfigError`."""

    @classmethod
    def jobs_at_once(cls, config: DictConfig) -> int | None:
        """How many jobs of the sweep `config` run at once on this machine; None if a cluster decides."""
        return None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `launch`."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; returns after the last one has ended."""
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        setup_globals()
        common = (self.hydra_context, self.config, self.task_function, Singleton.get_state(), str(Path.cwd()))
        return self.run(
            [
                LaunchedJob(tuple(overrides), number, *common)
                for number, overrides in enumerate(job_overrides, initial_job_idx)
            ]
        )

    @abstractmethod
    def run(self, jobs: Sequence[LaunchedJob]) -> Sequence[JobReturn]:
        """Run `jobs`."""


class LostJobError(RunError):
    """A job died without recording how; the text says what its launcher knows."""


def lost_result(job: LaunchedJob, why: str) -> JobReturn:
    """The result of a job that died before it had one."""
    error = LostJobError(redaction.redact(one_line(why, None)))
    return JobReturn(overrides=list(job.overrides), status=JobStatus.FAILED, _return_value=error)


def failure_reason(error: BaseException) -> str:
    """The text of `error` on one line, without secrets; that of an unexpected error begins with its type."""
    return redaction.redact(one_line(error, None, kind=not isinstance(error, LwexpError)))


def loss_reason(result: JobReturn) -> str:
    """Why a job may have recorded nothing in its folder, as far as its launcher knows."""
    error = result._return_value
    if isinstance(error, BaseException):
        return failure_reason(error)
    return "it ended and recorded nothing in its folder, which must be on a disk that all nodes share"
