"""One run, phase by phase: look, build, record, restore, train, test."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from lwexp.config.schema import RunConfig
from lwexp.config.unused import Command
from lwexp.distributed.world import World, join
from lwexp.host.console import console
from lwexp.tracking import has_run, prepare, started_in
from lwexp.training.callbacks import Callback, Pruned
from lwexp.training.monitor import ACCURACY, Monitor
from lwexp.training.seeding import deterministic, explained_operations
from lwexp.training.trainer import Trainer

from . import on_device, record
from .final_evaluation import evaluate_best, evaluate_mix
from .folder import Result, check_place, finished, own_folder, save_result
from .instantiate import Experiment, build_callbacks, make_experiment
from .manifest import point_of
from .network_record import log_network
from .place import JobPlace
from .restore import look, restore_run
from .source_task import start_from_source_task
from .summary import summary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    folder: Path
    metrics: Mapping[str, float]  # of the best evaluation, and of the test split with those weights
    run_id: str | None = None  # MLflow's, None without MLflow
    pruned: str | None = None  # why a search ended it early
    stopped: str | None = None  # why it stopped early by itself
    monitor: Monitor = ACCURACY  # by which the best was found

    @property
    def value(self) -> float:
        """The monitored metric of the best evaluation; NaN if it is not known any more."""
        return self.metrics.get(self.monitor.metric, math.nan)


def run_job(config: RunConfig, place: JobPlace, callbacks: Mapping[str, Callback] | None = None) -> RunResult:
    """Train as `config` says, or resume the run in `place.folder`; `callbacks` come after the config's own.

    Where a launcher has started several processes, each calls this and does its share. Meanwhile no other process can
    use the folder. Raises `LwexpError`.
    """
    with deterministic(config.deterministic):
        return _run_alone(config, place, callbacks or {})


def _run_alone(config: RunConfig, place: JobPlace, callbacks: Mapping[str, Callback]) -> RunResult:
    """Run while no other process can use the folder."""
    world = join()
    with ExitStack() as owned:

        def own() -> None:
            owned.enter_context(own_folder(place.folder, config.resume))

        try:
            world.on_rank_zero(own)
            result = _run(config, place, callbacks, world)
        except BaseException as error:
            world.leave(error)
            raise
        world.leave()
    return result


def _run(config: RunConfig, place: JobPlace, callbacks: Mapping[str, Callback], world: World) -> RunResult:
    on_rank_zero, on_all_ranks = world.on_rank_zero, world.on_all_ranks
    folder = on_rank_zero(lambda: place.folder)
    # a resumed run finds its store and its files again
    place = replace(place, folder=folder, base=on_rank_zero(lambda: started_in(folder)) or place.base)
    on_rank_zero(lambda: check_place(folder, config.resume or ("auto" if point_of(folder) is not None else None)))
    result = on_rank_zero(lambda: finished(config, place.values, folder, place.base))
    if result is not None:
        return RunResult(folder, result.metrics, pruned=result.pruned, stopped=result.stopped, monitor=result.monitor)
    callbacks = {**on_all_ranks(lambda: build_callbacks(config)), **callbacks}
    answers = on_rank_zero(lambda: prepare(config.tracking, place.base))

    device = on_device.get_ready(config, place.base, world)
    command: Command = "run" if on_rank_zero(lambda: point_of(folder)) is None else "job"
    experiment = on_all_ranks(
        lambda: make_experiment(
            config, place.base, resumed=folder if has_run(folder) else None, overrides=place.overrides,
            command=command, processes=world.size,
        )
    )  # fmt: skip
    log.info("%s\n", summary(experiment, device, world.size, width=console.width))
    log.info("%s\n", experiment.plan)
    console.now("preparing the training")

    with on_all_ranks(lambda: on_device.open_loaders(experiment, place.base, device, world)) as loaders:
        learner = on_all_ranks(lambda: on_device.build_learner(experiment, device, world))
        progress, files = on_device.start_progress(experiment), on_device.checkpoint_files(config, folder)
        # A mistake is reported before the record is touched; nothing changes before this process owns the record.
        found = on_rank_zero(lambda: look(place, files, experiment))
        tracker = record.begin(experiment, place, world, resumed=found.is_resumed, answers=answers)
        state = restore_run(found, learner, progress, place, files, experiment, tracker, world)
        with record.ended_with_the_block(tracker, place, files, world), explained_operations():
            if state is None:
                start_from_source_task(experiment, learner, place.base, world)
            on_rank_zero(lambda: record.describe(experiment, place, tracker, progress))
            on_device.parallelize_learner(learner, config, world)
            trainer = on_device.build_trainer(
                learner,
                loaders,
                progress,
                config,
                place,
                tracker,
                files,
                callbacks,
                world,
                resumed=state,
                new_names=experiment.built.new_names,
            )
            done = _train(trainer, loaders, experiment, place)
    record.log_where(tracker, config, place)
    return done


def _train(trainer: Trainer, loaders: on_device.Loaders, experiment: Experiment, place: JobPlace) -> RunResult:
    """Fit, then evaluate the best weights."""
    tracker, progress, monitor = trainer.tracker, trainer.progress, trainer.progress.monitor
    try:
        best = trainer.fit()
    except Pruned as pruned:
        tracker.tag({"lwexp.pruned": str(pruned)})
        save_result(place.folder, Result(progress.best, monitor, str(pruned), cost=record.cost_of(progress)))
        log.info("%s was pruned %s", tracker.run_name, pruned)
        return RunResult(place.folder, progress.best, tracker.run_id, str(pruned), monitor=monitor)
    if progress.stopped is not None:
        tracker.tag({"lwexp.stopped": progress.stopped})
        log.info("stopped early: %s", progress.stopped)
    metrics, closing = dict(best), f"best {monitor.words} {monitor.shown(monitor.value(best))}"
    main = Monitor.of(experiment.source.info.task)
    if main.metric != monitor.metric:
        closing += f", {main.words} {main.shown(main.value(best))} there"
    tested = evaluate_best(trainer, loaders, experiment, place)
    tracker.log(tested, progress.step - 1)
    metrics |= tested
    mixed = evaluate_mix(trainer, loaders, experiment, place)
    tracker.log(mixed, progress.step - 1)
    metrics |= mixed
    if loaders.test is not None:
        of_test = replace(main, metric=main.metric.replace("val/", "test/"))
        closing += f", {of_test.words} {of_test.shown(of_test.value(tested))} with those weights"
    console.now("writing the results")
    trainer.world.on_rank_zero(lambda: record.conclude(experiment, place, tracker, progress, metrics))
    trainer.world.on_rank_zero(lambda: log_network(experiment.config, place, tracker, progress))
    log.info("%s: %s", tracker.run_name, closing)
    return RunResult(place.folder, metrics, tracker.run_id, stopped=progress.stopped, monitor=monitor)
