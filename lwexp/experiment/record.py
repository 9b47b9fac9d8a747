"""The record of a run in its folder and in its tracking store: begin, describe, conclude, end."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lwexp.config.keys import USER_KEYED, flatten
from lwexp.config.schema import RunConfig
from lwexp.distributed.world import World
from lwexp.plots.plan import draw_plan, draw_recorded
from lwexp.record.describe import place_tags, plan_note, plan_tags, save_plan
from lwexp.record.ending import end_of
from lwexp.tracking import NoTracker, Tracker, open_hint, start
from lwexp.training.checkpoint.files import CheckpointFiles
from lwexp.training.loss import loss_name
from lwexp.training.state import Progress

from .data_record import save_data_record
from .folder import save_result
from .instantiate import Experiment
from .manifest import place_in_sweep, point_of
from .model_record import FILE as MODEL
from .model_record import save_model_record
from .place import JobPlace
from .saved_config import resume_command, save_config

log = logging.getLogger(__name__)


def begin(experiment: Experiment, place: JobPlace, world: World, *, resumed: bool, answers: bool) -> Tracker:
    """Start the run's record, or continue it; ranks other than 0 get one that keeps nothing.

    `answers`: whether the store answered to `lwexp.tracking.prepare`. Raises what `lwexp.tracking.start` raises.
    """
    trackers: list[Tracker] = []
    world.on_rank_zero(lambda: trackers.append(_begin(experiment, place, world.size, resumed=resumed, answers=answers)))
    return trackers[0] if trackers else NoTracker("")


def _begin(experiment: Experiment, place: JobPlace, processes: int, *, resumed: bool, answers: bool) -> Tracker:
    config = experiment.config
    if not resumed:
        save_data_record(place.folder, experiment.source.contents)
        save_model_record(place.folder, experiment)
        save_config(place.folder, place.values)  # before the journal: every run with one can be resumed
    parent, name, tags = place_in_sweep(place.folder)
    return start(
        config.tracking,
        folder=place.folder,
        base=place.base,
        run_name=name or run_name(config, experiment.plan.mult),
        params=flat_params({**place.values, **_resolved(experiment)}),
        tags={**tags, **_tags(experiment, place, processes, in_sweep=bool(tags))},
        description=plan_note(experiment.plan),
        parent=parent,
        answers=answers,
    )


@contextmanager
def ended_with_the_block(tracker: Tracker, place: JobPlace, files: CheckpointFiles, world: World) -> Iterator[None]:
    """End the record as the block ends: FINISHED, FAILED with the error, or KILLED by an interrupt."""
    try:
        with world.detect_lost_ranks():
            yield
    except BaseException as error:
        status, reason = end_of(error)
        try:
            tracker.finish(status, reason)
        finally:
            if status == "KILLED" or files.paths():
                _log_how_to_resume(place)
        raise
    tracker.finish("FINISHED")


def describe(experiment: Experiment, place: JobPlace, tracker: Tracker, progress: Progress) -> None:
    """Record what is known before the first step; a metric-driven policy has no table of rates yet."""
    folder = place.folder
    for path in (folder / "config.yaml", folder / MODEL, save_plan(experiment.plan, folder)):
        tracker.artifact(path)
    if progress.seen_rates is None:
        for path in draw_plan(
            experiment.plan, experiment.schedule, experiment.steps, folder, in_process=place.draw_in_process
        ):
            tracker.artifact(path)


def conclude(
    experiment: Experiment, place: JobPlace, tracker: Tracker, progress: Progress, metrics: Mapping[str, float]
) -> None:
    """Record what is known after the last step."""
    folder = place.folder
    if progress.seen_rates is not None:
        for path in draw_recorded(experiment.plan, progress.seen_rates, folder, in_process=place.draw_in_process):
            tracker.artifact(path)
    tracker.artifact(folder / "best.safetensors")
    save_result(folder, metrics)


def log_where(tracker: Tracker, config: RunConfig, place: JobPlace) -> None:
    """Log where the run is, and how to look at it."""
    log.info("run %s is in %s", tracker.run_name, place.folder)
    if tracker.run_id is not None:
        hint = open_hint(config.tracking, place.base)
        log.info("tracked in %s as %s\n%s", tracker.where, tracker.run_id, hint)


def run_name(config: RunConfig, mult: float) -> str:
    """A run's name outside of a sweep; `mult` is that of its plan."""
    parts = [config.model.label, str(config.grouping.name), str(config.decay.name or config.decay.target)]
    if config.decay.name == "linear":
        parts.append(f"mult={mult:g}")
    return " ".join([*parts, f"seed={config.seed}"])


def flat_params(values: Mapping[str, Any]) -> dict[str, str]:
    """The resolved config with dotted keys; lists and mappings of the user's own keys as JSON.

    >>> flat_params({"lr": 0.1, "decay": {"name": "explicit", "rates": {"fc": 1.0}}})
    {'lr': '0.1', 'decay.name': 'explicit', 'decay.rates': '{"fc": 1.0}'}
    """
    return {
        key: json.dumps(value) if isinstance(value, (Mapping, list)) else str(value)
        for key, value in flatten(values, keep=USER_KEYED).items()
    }


def _resolved(experiment: Experiment) -> dict[str, Any]:
    """The settings whose value follows from others, as the run uses them."""
    config = experiment.config
    name = loss_name(config.loss.name, experiment.source.info.task)
    return {"mult": config.mult or experiment.plan.mult, "loss": {**config.loss.model_dump(), "name": name}}


def _log_how_to_resume(place: JobPlace) -> None:
    """Log the command, unless the sweep does."""
    if point_of(place.folder) is not None:
        return
    log.info("resume with: %s", resume_command(place.folder, Path.cwd(), place.values))
    if "***" in str(place.values["tracking"].get("uri")):
        log.info("and give tracking.uri=… again: its password is stored nowhere")


def _tags(experiment: Experiment, place: JobPlace, processes: int, *, in_sweep: bool) -> dict[str, str]:
    """Tags of the run; of a sweep's job also its arm: whether its rates are uniform, as plan and schedule say."""
    uniform = experiment.schedule.uniform and not experiment.config.freeze
    return {
        **({} if processes == 1 else {"lwexp.processes": f"{processes} ({experiment.config.parallel})"}),
        "lwexp.overrides": " ".join(place.overrides),
        **plan_tags(experiment.plan, uniform=uniform),
        **place_tags(place.folder, place.base),
        **({"lwexp.arm": "uniform" if uniform else "layerwise"} if in_sweep else {}),
    }
