"""A multirun's parent run in MLflow: made before the first job, found by every job, closed at the end.

The jobs find it through a file in the sweep's folder, which works with any launcher that shares that folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode

from . import hiding
from .errors import ConfigError, LwexpError, UnknownOptionError

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

    from .config import RunConfig

_FILE = "sweep.json"
_open: tuple[Any, str | None, Path] | None = None  # tracking config, id and base folder of the parent run open here


class LwexpCallback(Callback):
    """Checks a single run's config before its folder is made, and keeps a multirun's parent run."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a mistaken config while there is nothing to clean up."""
        from .settings import settings

        HydraConfig.instance().set_config(config)  # ${hydra:…} in the config is looked up there
        _or_refuse(lambda: settings(config))
        _or_refuse(lambda: _check_hydra(config, "run"))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the parent run."""
        hiding.hide_multirun_file()
        _or_refuse(lambda: _check_hydra(config, "sweep"))
        _or_refuse(lambda: _open_parent(config))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write what Hydra would write (`hydra.output_subdir`), without secrets."""
        hiding.write_hydra_files(config)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Hydra prints the options of a job that failed."""
        job_return.overrides = hiding.hidden(list(job_return.overrides or []))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """All jobs have ended well."""
        close("FINISHED")


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


def _or_refuse(action: Callable[[], object]) -> None:
    """End the process where `action` meets a mistake: Hydra swallows what callbacks raise, but not an exit."""
    from .cli import explained, refuse

    try:
        action()
    except Exception as error:
        known = explained(error)
        if known is None:
            raise
        refuse(known)


def _open_parent(config: DictConfig) -> None:
    global _open
    from .settings import tracking_settings
    from .tracking import start_parent

    tracking = tracking_settings(config)
    if tracking is None:
        return
    overrides = list(config.hydra.overrides.task)
    name = hiding.hide(" ".join(overrides)) or "sweep"
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    command = hiding.hide(" ".join(["python -m lwexp.run -m", *overrides]))
    run_id = start_parent(
        tracking,
        base=Path(config.hydra.runtime.cwd),
        run_name=name,
        tags={"lwexp.overrides": name, "lwexp.kind": "sweep", "lwexp.folder": str(folder)},
        description=f"Sweep: `{command}`",
        params={},
    )
    parsed = OverridesParser.create().parse_overrides(overrides)
    constant = [o.input_line.partition("=")[0] for o in parsed if o.input_line and not o.is_sweep_override()]
    (folder / _FILE).write_text(json.dumps({"parent": run_id, "constant": constant}), encoding="utf-8")
    _open = (tracking, run_id, Path(config.hydra.runtime.cwd))


def parent_of_job() -> tuple[str | None, str | None]:
    """The id of the parent run of the job that runs now, and the job's name: what sets it apart from its siblings."""
    hydra = HydraConfig.get()
    if not is_multirun():
        return None, None
    found = Path(str(hydra.sweep.dir)).absolute() / _FILE
    sweep = json.loads(found.read_text(encoding="utf-8")) if found.is_file() else {"parent": None, "constant": []}
    own = [override for override in hydra.overrides.task if override.partition("=")[0] not in sweep["constant"]]
    return sweep["parent"], hiding.hide(" ".join(own)) or None


def tell_failure(error: LwexpError) -> None:
    """One line on standard error about the job that just failed."""
    print(hiding.hide(f"job {' '.join(HydraConfig.get().overrides.task)} failed: {error}"), file=sys.stderr)


def close(status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
    """End the parent run that this process has open, if any."""
    global _open
    if _open is None:
        return
    from .tracking import end_parent

    (tracking, run_id, base), _open = _open, None
    try:
        end_parent(tracking, run_id, status, None, base=base)
    except LwexpError as error:
        print(hiding.hide(f"error: {error}"), file=sys.stderr)


def is_multirun() -> bool:
    """Whether the job that runs now is one of a sweep."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def job_settings(config: RunConfig) -> str:
    """A run's name where no sweep gives one: its telling settings."""
    parts = [config.model.label, str(config.grouping.name)]
    parts.append(str(config.decay.name or config.decay.target))
    if config.decay.name == "linear":
        parts.append(f"mult={config.mult:g}")
    return " ".join([*parts, f"seed={config.seed}"])
