"""A multirun's parent run in MLflow: made before the first job, found by every job, closed at the end.

The jobs find it through a file in the sweep's folder, which works with any launcher that shares that folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode

from .errors import LwexpError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from .config import RunConfig
    from .tracking import JournalTracker

_FILE = "sweep.json"
_open: JournalTracker | None = None  # the parent run that this process has begun and not ended


class LwexpCallback(Callback):
    """Checks a single run's config before its folder is made, and keeps a multirun's parent run."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a mistaken config while there is nothing to clean up."""
        from .settings import settings

        HydraConfig.instance().set_config(config)  # ${hydra:…} in the config is looked up there
        _or_refuse(lambda: settings(config))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the parent run."""
        _or_refuse(lambda: _open_parent(config))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """All jobs have ended well."""
        close("FINISHED")


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
    from .tracking import prepare, start

    tracking = tracking_settings(config)
    if tracking is None:
        return
    overrides = list(config.hydra.overrides.task)
    name = " ".join(overrides) or "sweep"
    folder, base = Path(str(config.hydra.sweep.dir)).absolute(), Path(config.hydra.runtime.cwd)
    folder.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python -m lwexp.run -m", *overrides])
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
    return folder if has_run(folder) else None, " ".join(own) or None


def tell_failure(error: LwexpError) -> None:
    """One line on standard error about the job that just failed."""
    print(f"job {' '.join(HydraConfig.get().overrides.task)} failed: {error}", file=sys.stderr)


def close(status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
    """End the parent run that this process has open, if any."""
    global _open
    if _open is None:
        return
    tracker, _open = _open, None
    try:
        tracker.finish(status)
    except LwexpError as error:
        print(f"error: {error}", file=sys.stderr)


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
