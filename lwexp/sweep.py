"""A multirun's parent run in MLflow: made before the first job, found by every job, closed at the end.

The jobs find it through a file in the sweep's folder, which works with any launcher that shares that folder.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode

from . import hiding
from .distributed import launch
from .errors import ConfigError, LwexpError, UnknownOptionError

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

    from .config import RunConfig
    from .tracking import JournalTracker

_FILE = "sweep.json"
_open: JournalTracker | None = None  # the parent run that this process has begun and not ended
_folder: list[Path] = []  # of the multirun that this process has begun


class LwexpCallback(Callback):
    """Checks a single run's config before its folder is made, and keeps a multirun's parent run."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a mistaken config while there is nothing to clean up."""
        HydraConfig.instance().set_config(config)  # ${hydra:…} in the config is looked up there
        _or_refuse(lambda: _check(config))
        if launch.follows():
            launch.make_quiet(config)
        else:
            _or_refuse(lambda: _check_hydra(config, "run"))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the parent run."""
        hiding.hide_multirun_file()
        _or_refuse(launch.refuse_sweep)
        _or_refuse(lambda: _check_hydra(config, "sweep"))
        _or_refuse(lambda: _open_parent(config))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write what Hydra would write (`hydra.output_subdir`), without secrets."""
        if not launch.follows():
            hiding.write_hydra_files(config)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Hydra prints the options of a job that failed."""
        job_return.overrides = hiding.hidden(list(job_return.overrides or []))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """All jobs have ended well."""
        close("FINISHED")


def _check(config: DictConfig) -> None:
    from .run_folder import check_place, note_missing
    from .settings import settings

    checked = settings(config)
    if launch.follows():  # the first process looks at the folder
        return
    folder = Path(str(config.hydra.run.dir)).absolute()
    check_place(folder, checked.resume)
    note_missing(folder)


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
    from .run_folder import check_sweep_place
    from .settings import tracking_settings
    from .tracking import prepare, start

    folder, base = Path(str(config.hydra.sweep.dir)).absolute(), Path(config.hydra.runtime.cwd)
    tracking = tracking_settings(config)
    check_sweep_place(folder, config.resume)
    _folder[:] = [folder]
    if tracking is None:
        return
    overrides = list(config.hydra.overrides.task)
    name = hiding.hide(" ".join(overrides)) or "sweep"
    folder.mkdir(parents=True, exist_ok=True)
    command = hiding.hide(" ".join(["python -m lwexp.run -m", *overrides]))
    parsed = OverridesParser.create().parse_overrides(overrides)
    constant = [o.input_line.partition("=")[0] for o in parsed if o.input_line and not o.is_sweep_override()]
    (folder / _FILE).write_text(json.dumps({"constant": constant}), encoding="utf-8")
    answers = prepare(tracking, base)
    _open = start(
        tracking,
        folder=folder,
        base=base,
        run_name=name,
        tags={"lwexp.overrides": name, "lwexp.kind": "sweep", "lwexp.folder": str(folder)},
        description=f"Sweep: `{command}`",
        params={},
        answers=answers,
    )


def parent_of_job() -> tuple[Path | None, str | None]:
    """The folder of the parent run of the present job, and the job's name: what sets it apart from its siblings."""
    hydra = HydraConfig.get()
    if not is_multirun():
        return None, None
    from .tracking import has_run

    folder = Path(str(hydra.sweep.dir)).absolute()
    found = folder / _FILE
    constant = json.loads(found.read_text(encoding="utf-8"))["constant"] if found.is_file() else []
    own = [override for override in hydra.overrides.task if override.partition("=")[0] not in constant]
    return folder if has_run(folder) else None, hiding.hide(" ".join(own)) or None


def tell_failure(error: LwexpError) -> None:
    """One line on standard error about the job that just failed."""
    print(hiding.hide(f"job {' '.join(HydraConfig.get().overrides.task)} failed: {error}"), file=sys.stderr)


def tell_how_to_go_on(arguments: Sequence[str]) -> None:
    """Print the command that goes on with the multirun of this process, if there is one, from its `arguments`."""
    if not _folder:
        return
    from .resume import shown_path

    own = [a for a in arguments if a.lstrip("+").partition("=")[0] not in ("hydra.sweep.dir", "resume")]
    words = ["python", "-m", "lwexp.run", *own, f"hydra.sweep.dir={shown_path(_folder.pop(), Path.cwd())}"]
    print(f"go on with the sweep: {shlex.join([*words, 'resume=auto'])}")


def close(status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
    """End the parent run that this process has open, if any."""
    global _open
    _folder.clear()
    if _open is None:
        return
    tracker, _open = _open, None
    try:
        tracker.finish(status)
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
