"""The launchers by name: which there are, whether the chosen one can work here, and how many jobs it runs at once."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from lwexp.config.validation import validate
from lwexp.errors import ConfigError

from .base import ManyJobs, is_basic
from .joblib_launcher import JoblibLauncher
from .ray_launcher import RayLauncher
from .slurm import SlurmLauncher

_ALIAS = "hydra_plugins.lwexp."  # Hydra instantiates only what is named as if it were in this package
_LAUNCHERS: dict[str, type[ManyJobs]] = {
    _ALIAS + kind.__name__: kind for kind in (JoblibLauncher, SlurmLauncher, RayLauncher)
}


def check_launcher(config: DictConfig) -> None:
    """Refuse a launcher that is not installed, has wrong options or cannot work here; else register it with Hydra.

    `config` is that of the sweep; no launcher is created. Raises `ConfigError`.
    """
    target = str(config.hydra.launcher._target_)
    kind = _LAUNCHERS.get(target)
    if kind is None:
        return
    if find_spec(kind.package) is None:
        why = f"needs the package {kind.package}: pip install -e '.[{kind.extra}]'"
        raise ConfigError("hydra/launcher", kind.choice, why)
    values: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    validate(kind.schema, {key: value for key, value in values.items() if key != "_target_"}, "hydra.launcher.")
    kind.check(config)
    Plugins.instance().class_name_to_class[target] = kind


def parallel_jobs(config: DictConfig) -> int | None:
    """How many jobs of the sweep `config` run at once on this machine; None if a cluster decides."""
    if is_basic(config.hydra.launcher):
        return 1
    kind = _LAUNCHERS.get(str(config.hydra.launcher._target_))
    return kind.jobs_at_once(config) if kind is not None else None
