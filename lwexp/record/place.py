"""Where a record is kept: its folder, and the store that it is delivered to."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from lwexp.config.defaults import documented
from lwexp.config.schema import MLflowConfig
from lwexp.core import plan_json
from lwexp.core.options import at_least, number
from lwexp.core.plan_diff import plan_difference, plan_record
from lwexp.core.plan_table import PlanTable
from lwexp.errors import ConfigError
from lwexp.tracking import has_run
from lwexp.tracking.journal import run_record

PLAN = "plan.json"


@dataclass(frozen=True)
class Place:
    """The folder of a record, absolute; `resume` as the user gave it."""

    folder: Path
    resume: str | None

    @property
    def key(self) -> str:
        """The argument that names the folder."""
        return "folder" if self.resume in (None, "auto") else "resume"


def place_of(folder: str | Path | None, resume: str | Path | None) -> Place:
    """The folder that the two arguments of `track` name. Raises `ConfigError`."""
    for key, value in (("folder", folder), ("resume", resume)):
        if not (value is None or (isinstance(value, (str, Path)) and str(value).strip())):
            raise ConfigError(key, value, "must be the path of a folder")
    if resume == "auto" and folder is None:
        raise ConfigError("resume", resume, "needs folder=…, which holds the run or will hold it")
    if resume is not None and resume != "auto":
        if folder is not None and _absolute(folder) != _absolute(resume):
            raise ConfigError("folder", folder, f"resume names another one, {resume}")
        return Place(_absolute(resume), str(resume))
    default = Path("outputs", "runs", f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(3)}")
    return Place(_absolute(default if folder is None else folder), None if resume is None else "auto")


def check_place(place: Place, plan: PlanTable) -> bool:
    """Whether the folder holds a run that is to be continued.

    Raises `ConfigError` for one that is there and is not to be continued, is not there and is to be, or that has
    another plan; the caller owns the folder.
    """
    folder = place.folder
    if not has_run(folder):
        if place.key == "resume":
            raise ConfigError("resume", place.resume, "holds no run; a new one has folder=… instead")
        return False
    if place.resume is None:
        why = 'holds a run already; resume="auto" continues it, and without folder=… a new one is made'
        raise ConfigError("folder", folder, why)
    if "lwexp.overrides" in (run_record(folder) or {"tags": {}})["tags"]:
        raise ConfigError(place.key, folder, f"holds a run of lwexp.run; python -m lwexp.run resume={folder}")
    before = _saved_plan(folder)
    if before is not None and before.hash != plan.hash:
        difference = plan_difference(plan_record(before), plan)
        why = f"the run in {folder} has another plan, {before.hash}: {difference}; start a new one with it"
        raise ConfigError("plan", plan.hash, why)
    return True


def save_plan_json(plan: PlanTable, folder: Path) -> Path:
    """Write the whole plan to `folder`; returns the file's path."""
    path = folder / PLAN
    path.write_text(plan_json.write(plan), encoding="utf-8")
    return path


def store_config(uri: str | None, experiment: str | None, flush_timeout: float | None) -> MLflowConfig:
    """The store of a record; what is None is as in a run. Raises `ConfigError`."""
    for key, value in (("uri", uri), ("experiment", experiment)):
        if not (value is None or (isinstance(value, str) and value.strip())):
            raise ConfigError(key, value, "must be a text")
    usual = documented("tracking/mlflow")
    patience = float(usual["flush_timeout"][0]) if flush_timeout is None else number("flush_timeout", flush_timeout)
    at_least("flush_timeout", patience, 0)
    return MLflowConfig(
        name="mlflow",
        uri=uri,
        experiment=experiment,
        timeout=float(usual["timeout"][0]),
        flush_timeout=patience,
        rates_every=1,
    )


def _absolute(folder: str | Path) -> Path:
    return Path(os.path.abspath(Path(folder).expanduser()))  # noqa: PTH100 (resolve() would follow links)


def _saved_plan(folder: Path) -> PlanTable | None:
    """The plan of the run in `folder`; None for one that ended before it was written, or is of another version."""
    try:
        return PlanTable(**plan_json.read((folder / PLAN).read_text(encoding="utf-8"), PlanTable))
    except (OSError, ValueError):
        return None
