"""The record of a run in its folder and in its tracking store: begin, describe, conclude, end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lwexp.config.schema import RunConfig
from lwexp.core.schedule_text import schedule_hash
from lwexp.distributed.world import World
from lwexp.formatting import metric_text
from lwexp.host.console import console
from lwexp.plots.plan import draw_plan, draw_recorded
from lwexp.record.describe import place_tags, plan_note, plan_tags, save_plan
from lwexp.record.ending import end_of
from lwexp.record.scales import save_scales
from lwexp.tracking import NoTracker, Tracker, open_hint, start
from lwexp.tracking.keys import NOTE_TAG, RUN_NAME_TAG
from lwexp.training.checkpoint.files import CheckpointFiles
from lwexp.training.loss import loss_name
from lwexp.training.state import Progress

from .data_record import datasets_of, save_data_record
from .diagnosed import keep_diagnosis
from .folder import Result, save_result
from .instantiate import Experiment
from .manifest import is_kept, place_in_sweep, point_of
from .model_record import FILE as MODEL
from .model_record import save_model_record
from .naming import own_tags, run_name
from .params import flat_params
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
    tracker = start(
        config.tracking,
        folder=place.folder,
        base=place.base,
        run_name=name or config.name or run_name(config, place.values),
        params=flat_params({**place.values, **_resolved(experiment)}),
        tags={**own_tags(config), **tags, **_tags(experiment, place, processes, in_sweep=bool(tags))},
        description=plan_note(experiment.plan, config.notes or ""),
        parent=parent,
        answers=answers,
    )
    if resumed:  # what the command gives now
        renamed = {RUN_NAME_TAG: config.name} if config.name and not name else {}
        tracker.tag({**own_tags(config), **renamed})
        tracker.run_name = config.name if renamed and config.name else tracker.run_name
    return tracker


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
    tracker.inputs(datasets_of(experiment.source, place.values["data"], place.base))
    for path in (folder / "config.yaml", folder / MODEL, save_plan(experiment.plan, folder)):
        tracker.artifact(path)
    if progress.seen_rates is None and is_kept(folder, in_sweeps=experiment.config.sweep.details):
        with console.doing("drawing the plan's rates"):
            paths = draw_plan(
                experiment.plan, experiment.schedule, experiment.steps, folder, in_process=place.draw_in_process
            )
        for path in paths:
            tracker.artifact(path)


def conclude(
    experiment: Experiment, place: JobPlace, tracker: Tracker, progress: Progress, metrics: Mapping[str, float]
) -> None:
    """Record what is known after the last step."""
    folder = place.folder
    if progress.seen_rates is not None and is_kept(folder, in_sweeps=experiment.config.sweep.details):
        for path in draw_recorded(experiment.plan, progress.seen_rates, folder, in_process=place.draw_in_process):
            tracker.artifact(path)
    if experiment.plan.measured is not None and (scales := save_scales(folder, experiment.plan.labels)) is not None:
        tracker.artifact(scales)
    apart = keep_diagnosis(experiment, place, tracker, progress)
    for line in apart:
        log.info("%s", line)
    if is_kept(folder, in_sweeps=experiment.config.sweep.keep_weights):
        tracker.artifact(folder / "best.safetensors")
    tracker.tag(
        {NOTE_TAG: plan_note(experiment.plan, result_text(metrics), "\n\n".join(apart), experiment.config.notes or "")}
    )
    tracker.tag({f"lwexp.{key}": f"{value:g}" for key, value in cost_of(progress).items() if key != "steps"})
    save_result(folder, Result(metrics, progress.monitor, stopped=progress.stopped, cost=cost_of(progress)))


def cost_of(progress: Progress) -> dict[str, float]:
    """The numbers of `lwexp.experiment.folder.COST`, rounded, as far as they are known."""
    cost = progress.cost
    memory = {"peak_memory_mb": round(cost.peak_memory_mb, 1)} if cost.peak_memory_mb else {}
    return {"steps": progress.step, "train_seconds": round(cost.train_seconds, 3), **memory}


def log_where(tracker: Tracker, config: RunConfig, place: JobPlace) -> None:
    """Log where the run is, and how to look at it."""
    log.info("run %s is in %s", tracker.run_name, place.folder)
    if tracker.run_id is not None:
        hint = open_hint(config.tracking, place.base)
        log.info("tracked in %s as %s\n%s", tracker.where, tracker.run_id, hint)


def result_text(metrics: Mapping[str, float]) -> str:
    """The result of a run as the first lines of its description.

    >>> result_text({"val/accuracy": 0.5, "val/loss": 1.25, "test/accuracy": 0.25})
    '**val accuracy 50.00 %**, loss 1.2500\\n\\n**test accuracy 25.00 %** with the weights of the best evaluation'
    """
    lines = []
    for split in ("val", "test"):
        own = {key.partition("/")[2]: value for key, value in metrics.items() if key.startswith(f"{split}/")}
        shown = [metric_text(name, value) for name, value in own.items() if "/" not in name]
        shown.sort(key=lambda text: not text.startswith("accuracy"))
        if shown:
            first, *more = shown
            which = " with the weights of the best evaluation" if split == "test" else ""
            lines.append(", ".join([f"**{split} {first}**", *more]) + which)
    return "\n\n".join(lines)


def _resolved(experiment: Experiment) -> dict[str, Any]:
    """The settings whose value follows from others, as the run uses them."""
    config = experiment.config
    name = loss_name(config.loss.name, experiment.source.info.task)
    monitor = {"monitor": experiment.monitor.metric, "monitor_mode": experiment.monitor.mode}
    rates = {"lr": experiment.plan.lr, "mult": config.mult or experiment.plan.mult}
    return {**rates, "loss": {**config.loss.model_dump(), "name": name}, **monitor}


def _log_how_to_resume(place: JobPlace) -> None:
    """Log the command, unless the sweep does."""
    if point_of(place.folder) is not None:
        return
    log.info("resume with: %s", resume_command(place.folder, Path.cwd(), place.values))
    if "***" in str(place.values["tracking"].get("uri")):
        log.info("and give tracking.uri=… again: its password is stored nowhere")


def _tags(experiment: Experiment, place: JobPlace, processes: int, *, in_sweep: bool) -> dict[str, str]:
    """Tags of the run; of a sweep's job also its arm: whether its rates are uniform, as plan and schedule say."""
    uniform = experiment.schedule.uniform and not (experiment.config.freeze or experiment.config.train)
    return {
        **({} if processes == 1 else {"lwexp.processes": f"{processes} ({experiment.config.parallel})"}),
        "lwexp.overrides": " ".join(place.overrides),
        **({} if experiment.config.from_run is None else {"lwexp.from_run": experiment.config.from_run}),
        **plan_tags(experiment.plan, uniform=uniform),
        "lwexp.schedule": schedule_hash(experiment.schedule),
        **place_tags(place.folder, place.base),
        **({"lwexp.arm": "uniform" if uniform else "layerwise"} if in_sweep else {}),
    }
