"""What Hydra calls before it runs anything: mistakes are refused while there is nothing to clean up."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.plugins.plugin import Plugin
from omegaconf import OmegaConf, open_dict, read_write

from lwexp import redaction
from lwexp.config.hydra_files import write_hydra_files
from lwexp.config.overrides import SAVED_REST
from lwexp.distributed import launch
from lwexp.errors import ConfigError, LwexpError, UnknownOptionError

from .task import Task, refuse

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

    from lwexp.config.schema import RunConfig

T = TypeVar("T")
# Hydra takes plugins only by names that begin so; the modules are imported when they are chosen
_ALIAS = "hydra_plugins.lwexp."
_PLUGINS = {
    "GridSweeper": "lwexp.sweep.sweeper",
    "OptunaSweeper": "lwexp.sweep.search.sweeper",
    "StudySweeper": "lwexp.sweep.study.sweeper",
}
_PLAIN = ("lwexp.sweep.hydra_grid", "PlainSweeper")
_BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class LwexpCallback(Callback):
    """Checks a config before a folder is made, and makes the chosen sweeper and launcher known to Hydra."""

    task: ClassVar[Task | None] = None  # of the one command that this process is; Hydra makes the callback

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a mistaken config while there is nothing to clean up."""
        HydraConfig.instance().set_config(config)  # ${hydra:…} in the config is looked up there
        _or_refuse(lambda: _check(config))
        if launch.is_rank_zero():
            _or_refuse(lambda: _own_folder(config, self.task))
        else:
            _silence(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse what all jobs would have wrong; find the plugins."""
        HydraConfig.instance().set_config(config)
        _or_refuse(launch.refuse_sweep)
        _or_refuse(lambda: _check_hydra(config, "sweep"))
        _or_refuse(lambda: _check_sweep(config))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write what Hydra would write (`hydra.output_subdir`), without secrets."""
        if launch.is_rank_zero():
            write_hydra_files(config)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Hydra prints the options of a job that failed."""
        job_return.overrides = redaction.redact_values(list(job_return.overrides or []))


def _silence(config: DictConfig) -> None:
    """Let Hydra make no folder and no log: rank 0 makes them for all."""
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.run.dir = str(Path.cwd())
        handlers = {"none": {"class": "logging.NullHandler"}}
        config.hydra.job_logging = {"version": 1, "handlers": handlers, "root": {"handlers": ["none"]}}
    warnings.simplefilter("ignore")


def _check(config: DictConfig) -> RunConfig:
    """The typed config. Raises `ConfigError`, also for a `resume=<run>` that `cli/arguments.py` has not looked up."""
    from lwexp.config.compose import settings

    checked = settings(config)
    for key, value in (("resume", checked.resume), ("from_run", checked.from_run)):
        if value not in (None, "", "auto") and not _is_looked_up(config):
            raise ConfigError(key, value, "can be given on the command line only")
    return checked


def _own_folder(config: DictConfig, task: Task | None) -> None:
    """Make the command the owner of the run's folder. Refuses one in which this run must not start."""
    from lwexp.experiment.folder import NewFolder, check_place, own_folder

    folder = Path(str(config.hydra.run.dir)).absolute()
    new = NewFolder.before_made(folder)
    if task is not None:
        task.new_folder = new
    _check_hydra(config, "run")
    new.lock = own_folder(folder, config.resume if _trains() else None)
    if _trains() or not _resumes_named_run(config):  # a preview of a run leaves that run's folder alone
        check_place(folder, config.resume)


def _is_looked_up(config: DictConfig) -> bool:
    return SAVED_REST in config.hydra.overrides.task


def _resumes_named_run(config: DictConfig) -> bool:
    return _is_looked_up(config) and config.from_run is None


def _check_sweep(config: DictConfig) -> None:
    from lwexp.sweep.launchers.registry import check_launcher
    from lwexp.sweep.resume import check_sweep_folder

    checked = _check(config)
    with read_write(config), open_dict(config):  # what the launching process itself reads
        config.sweep, config.threads = checked.sweep.model_dump(), checked.threads
    check_launcher(config)
    check_sweep_folder(Path(str(config.hydra.sweep.dir)).absolute(), checked.resume, checked.sweep.resume)
    if OmegaConf.select(config, "hydra.sweeper._target_") == _BASIC:
        why = "lwexp sweeps with grid (what basic does, and jobs that fail alone), or searches with optuna"
        raise ConfigError("hydra/sweeper", "basic", why)
    for part in ("sweeper", "launcher"):
        # previews leave nothing to resume or compare
        plain = _PLAIN if part == "sweeper" and not _trains() else None
        _register(str(OmegaConf.select(config, f"hydra.{part}._target_")), plain)


def _register(target: str, instead: tuple[str, str] | None) -> None:
    """Make the class that `target` is an alias of, or another one, known to Hydra, if it is one of ours."""
    name = target.removeprefix(_ALIAS)
    if name != target and name in _PLUGINS:
        module, own = instead or (_PLUGINS[name], name)
        plugin: type[Plugin] = getattr(import_module(module), own)
        Plugins.instance().class_name_to_class[target] = plugin


def _trains() -> bool:
    return str(OmegaConf.create({"folder": "${lwexp_folder:}"}).folder) == "runs"


def _check_hydra(config: DictConfig, mode: Literal["run", "sweep"]) -> None:
    """Refuse keys that Hydra's own part does not have, and a folder that cannot be made."""
    known = {*HydraConf.__dataclass_fields__, "env"}
    for key in config.hydra:
        if key not in known:
            raise UnknownOptionError(f"hydra.{key}", config.hydra[key], known)
    folder = str(config.hydra[mode].dir)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"hydra.{mode}.dir", folder, f"cannot be made: {error}") from error


def _or_refuse(action: Callable[[], T]) -> T:
    """End the process where `action` meets a mistake: Hydra swallows what callbacks raise, but not an exit."""
    from lwexp.config.hydra_errors import or_mistake

    found = or_mistake(action)
    if isinstance(found, LwexpError):
        refuse(found)
    return found
