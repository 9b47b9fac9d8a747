"""What a record says of a training before its first step: tags, params and files of the plan, and its surroundings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lwexp.core import plan_text, schedule_state
from lwexp.core.plan_diff import NO_SETTINGS
from lwexp.core.plan_table import PlanTable
from lwexp.core.schedule import Schedule
from lwexp.tracking.keys import HEAD_RATE_TAG, STEM_RATE_TAG, UNIFORM_TAG, cut

NOTE_CHARACTERS = 8000  # of a run's description, MLflow's limit
_LEAST_FOR_PLAN = 2000  # of them
_NAMES = {"model": "model.name", "grouping": "grouping.name", "decay": "decay.name"}
_PACKAGES = ("lwexp", "torch", "timm", "torchvision", "transformers", "mlflow")


def plan_name(plan: PlanTable) -> str:
    """A run's name where it is not given."""
    mult = [f"mult={plan.mult:g}"] if plan.decay == "linear" else []
    return " ".join([plan.model, plan.grouping, plan.decay, *mult])


def plan_note(plan: PlanTable, *before: str) -> str:
    """The run's description as Markdown: what comes `before`, then the plan in the room that is left."""
    first = "\n\n".join(text.strip() for text in before if text.strip())
    first = f"{cut(first, NOTE_CHARACTERS - _LEAST_FOR_PLAN)}\n\n" if first else ""
    return first + plan_text.markdown(plan, NOTE_CHARACTERS - len(first))


def save_plan(plan: PlanTable, folder: Path) -> Path:
    """Write plan.csv to `folder`; returns its path."""
    path = folder / "plan.csv"
    path.write_text(plan_text.csv_text(plan), encoding="utf-8")
    return path


def plan_tags(plan: PlanTable, *, uniform: bool) -> dict[str, str]:
    """The plan's identity and planned rates; `uniform`: every part of the network trains at the base rate."""
    return {
        "lwexp.plan": plan.hash,
        HEAD_RATE_TAG: f"{plan.groups[0].lr:.7g}",
        STEM_RATE_TAG: f"{plan.groups[-1].lr:.7g}",
        UNIFORM_TAG: str(uniform).lower(),
    }


def plan_params(plan: PlanTable, schedule: Schedule | None) -> dict[str, Any]:
    """The settings of `plan` and of its `schedule`, by the names that they have in the config of a run."""
    params = {
        _NAMES.get(field.name, field.name): getattr(plan, field.name)
        for field in fields(PlanTable)
        if field.name not in NO_SETTINGS and (field.name != "mult" or plan.decay == "linear")
    }
    if schedule is not None:
        settings = schedule_state.describe(schedule)
        params |= {"policy.name": settings.pop("policy"), **settings, "steps": schedule.steps}
    return {key: value if isinstance(value, (Mapping, list, tuple)) else str(value) for key, value in params.items()}


def place_tags(folder: Path, base: Path) -> dict[str, str]:
    """The run's folder, versions, the commit of `base`, where the command was started, and the cluster's job."""
    tags = {"lwexp.folder": str(folder), "lwexp.python": sys.version.split()[0], **cluster_tags()}
    for package in _PACKAGES:
        try:
            tags[f"lwexp.version.{package}"] = version(package)
        except PackageNotFoundError:
            continue  # run from a checkout that is not installed
    commit = _git_commit(base)
    if commit:
        tags["mlflow.source.git.commit"] = commit
    return tags


def cluster_tags() -> dict[str, str]:
    """Tags of a run in MLflow that lead to its job on the cluster and to its log; none elsewhere."""
    name = os.environ.get("SLURM_JOB_ID")
    if name is None:
        return {}
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        name = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    folder = os.environ.get("SUBMITIT_FOLDER")
    return {"lwexp.slurm.job": name, **({} if folder is None else {"lwexp.slurm.log": folder.replace("%j", name)})}


def _git_commit(folder: Path) -> str | None:
    """The commit of the folder where the command was started, if it is in a git checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
