"""What a run's folder holds, and putting a training back to where it was."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lwexp.tracking import has_run, run_status
from lwexp.training.checkpoint.files import CheckpointFiles

from .changes import changes
from .saved_config import config_before

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What the folder of a run holds before the run starts."""

    is_resumed: bool = False  # a run is there
    status: str | None = None  # how it ended, None if it is unfinished
    paths: list[Path] = field(default_factory=list)  # its checkpoints, newest first
    state: dict[str, Any] | None = None  # of the newest readable checkpoint
    changed: list[str] = field(default_factory=list)  # options that differ from the run's, as `key=value`


def look(folder: Path, files: CheckpointFiles, values: Mapping[str, Any], *, remap: bool) -> Found:
    """What `folder` holds. Raises `ConfigError` where `values` would change the results of the run there."""
    if not has_run(folder):
        return Found()
    status, paths = run_status(folder), files.paths()
    state = files.newest()
    before = config_before(folder) if state is None else state["config"]
    changed = [] if before is None else changes(before, values, remap=remap)
    return Found(True, status, paths, state, changed)
