"""What a run's folder holds, and restoring a training from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lwexp.distributed.world import World
from lwexp.formatting import one_line
from lwexp.record.describe import cluster_tags
from lwexp.record.resumed import note_resumed
from lwexp.tracking import Tracker, has_run, run_status
from lwexp.training.checkpoint.files import CheckpointFiles
from lwexp.training.checkpoint.snapshot import restore
from lwexp.training.state import Learner, Progress

from .changes import changes
from .data_record import data_changes, save_data_record
from .instantiate import Experiment
from .length import align, check_length
from .manifest import point_of
from .model_record import save_model_record
from .place import JobPlace
from .saved_config import config_before, save_config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What the folder of a run holds before the run starts."""

    is_resumed: bool = False  # a run is there
    status: str | None = None  # how it ended, None if it is unfinished
    paths: list[Path] = field(default_factory=list)  # its checkpoints, newest first
    state: dict[str, Any] | None = None  # of the newest readable checkpoint
    changed: list[str] = field(default_factory=list)  # options that differ from the run's, as `key=value`


def look(place: JobPlace, files: CheckpointFiles, experiment: Experiment) -> Found:
    """What the run's folder holds. Raises `ConfigError` where the config or the data have changed the results."""
    if not has_run(place.folder):
        return Found()
    status, paths = run_status(place.folder), files.paths()
    state = files.newest()
    before = config_before(place.folder) if state is None else state["config"]
    remap = experiment.config.checkpoint.remap
    changed = [] if before is None else changes(before, place.values, remap=remap)
    changed += data_changes(place.folder, experiment.source.contents, place.values, remap=remap)
    if before is not None:
        done = None if status == "FINISHED" else 0 if state is None else int(state["step"])
        check_length(before, experiment, done=done, in_sweep=point_of(place.folder) is not None, remap=remap)
    return Found(True, status, paths, state, changed)


def restore_run(
    found: Found,
    learner: Learner,
    progress: Progress,
    place: JobPlace,
    files: CheckpointFiles,
    experiment: Experiment,
    tracker: Tracker,
    world: World,
) -> Mapping[str, Any] | None:
    """Restore `learner` and `progress`, and record that the run resumes.

    Returns the state that they were restored from; None for a run that is new or has no checkpoint.
    """
    if not found.is_resumed:
        return None
    try:
        # the process before may have let go of the run only just now
        newer = world.on_rank_zero(lambda: look(place, files, experiment) if files.paths() != found.paths else None)
        found = newer or found
        if found.state is not None:
            remap = experiment.config.checkpoint.remap
            restore(learner, progress, found.state, remap=remap)
            if not remap:
                align(progress, experiment)
        noted = world.on_rank_zero(lambda: _note(place, experiment, progress.step, found.changed))
    except BaseException as error:
        tracker.finish("KILLED" if found.status == "KILLED" else "FAILED", one_line(error, None))
        raise
    tracker.tag({"lwexp.resumed": noted, "lwexp.folder": str(place.folder), **cluster_tags()})
    changed = f" with {' '.join(found.changed)}" if found.changed else ""
    log.info("resuming at optimizer step %d%s", progress.step, changed)
    return found.state


def _note(place: JobPlace, experiment: Experiment, step: int, changed: list[str]) -> str:
    save_model_record(place.folder, experiment)  # before the config: without it, the run is of an earlier version
    save_config(place.folder, place.values)
    save_data_record(place.folder, experiment.source.contents)
    return note_resumed(place.folder, step, changed)
