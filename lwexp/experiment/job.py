"""One run, phase by phase: look, build, restore, train, test, and the record of all of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lwexp.config.schema import MLflowConfig, RunConfig, SourceTaskConfig, TorchvisionConfig
from lwexp.core.policy import is_metric_driven
from lwexp.distributed.parallel import parallelize
from lwexp.distributed.world import World, join
from lwexp.formatting import one_line
from lwexp.host.resources import set_threads
from lwexp.host.signals import Interrupted
from lwexp.tracking import NoTracker, Tracker, open_hint, prepare, started_in
from lwexp.training.callbacks import Callback, Pruned
from lwexp.training.checkpoint.files import CheckpointFiles
from lwexp.training.checkpoint.snapshot import restore
from lwexp.training.seeding import seed_everything
from lwexp.training.state import Learner, Progress
from lwexp.training.trainer import Trainer, TrainerOptions

from . import record
from .cross_checks import check_processes
from .folder import check_place, finished, note_resumed, save_result
from .instantiate import Experiment, build_callbacks, make_experiment, open_whole_data
from .manifest import point_of
from .on_device import Loaders, build_learner, open_loaders
from .place import JobPlace
from .restore import Found, look
from .saved_config import resume_command, save_config
from .source_task import load_source_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    folder: Path
    metrics: Mapping[str, float]  # of the best evaluation, and of the test split with those weights
    run_id: str | None = None  # MLflow's, None without MLflow
    pruned: str | None = None  # why a search ended it early

    @property
    def accuracy(self) -> float:
        """The best validation accuracy; NaN if it is not known any more."""
        return self.metrics.get("val/accuracy", math.nan)


def run_job(config: RunConfig, place: JobPlace, callbacks: Mapping[str, Callback] | None = None) -> RunResult:
    """Train as `config` says, or resume the run in `place.folder`; `callbacks` come after the config's own.

    Where a launcher has started several processes, each calls this and does its share. Raises `LwexpError`.
    """
    world = join()
    try:
        result = _run(config, place, callbacks or {}, world)
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
    metrics = on_rank_zero(lambda: finished(config, place.values, folder, place.base))
    if metrics is not None:
        return RunResult(folder, metrics)
    callbacks = {**on_all_ranks(lambda: build_callbacks(config)), **callbacks}
    answers = on_rank_zero(lambda: prepare(config.tracking, place.base))
    set_threads(config.threads)
    seed_everything(config.seed)
    device = on_all_ranks(lambda: world.device(config.device))
    check_processes(config, world.size)
    if world.size > 1 and isinstance(config.data, TorchvisionConfig):
        on_rank_zero(lambda: bool(open_whole_data(config, place.base)))  # one downloads
    experiment = on_all_ranks(lambda: make_experiment(config, place.base))
    log.info("%s\n", experiment.plan)
    loaders = on_all_ranks(lambda: open_loaders(experiment, place.base, device, world))
    with loaders:
        learner = on_all_ranks(lambda: build_learner(experiment, device, world))
        files = CheckpointFiles(
            folder / "checkpoints",
            every_steps=config.checkpoint.every_steps,
            every_minutes=config.checkpoint.every_minutes,
            keep=config.checkpoint.keep,
        )
        return _Job(experiment, place, world, loaders, learner, files, callbacks).run(answers=answers)


@dataclass
class _Job:
    """The training of an experiment and its record."""

    experiment: Experiment
    place: JobPlace
    world: World
    loaders: Loaders
    learner: Learner
    files: CheckpointFiles
    callbacks: Mapping[str, Callback]

    def run(self, *, answers: bool) -> RunResult:
        """Look, begin the record, restore, train; the record ends whatever happens."""
        config = self.experiment.config
        seen_rates = is_metric_driven(self.experiment.schedule.policy)
        progress = Progress(self.experiment.steps, config.epochs, seen_rates=[] if seen_rates else None)
        # A mistake is reported before the record is touched; nothing is changed before this process owns the record.
        found = self.world.on_rank_zero(self.look)
        tracker = self.begin(found, answers=answers)
        state: Mapping[str, Any] | None = None
        if found.is_resumed:
            try:
                state = self.restore(found, progress, tracker)
            except BaseException as error:
                tracker.finish("KILLED" if found.status == "KILLED" else "FAILED", one_line(error, None))
                raise
        with self.recorded(tracker):
            if state is None and isinstance(config.weights, SourceTaskConfig):
                self.load_source_weights()
            self.world.on_rank_zero(
                lambda: record.describe(self.experiment, self.place, tracker, seen_rates=seen_rates)
            )
            self.parallelize()
            result = self.train(progress, tracker, state)
        log.info("run %s is in %s", tracker.run_name, self.place.folder)
        if tracker.run_id is not None:
            hint = open_hint(config.tracking, self.place.base)
            log.info("tracked in %s as %s\n%s", tracker.where, tracker.run_id, hint)
        return result

    def look(self) -> Found:
        """What the folder holds now."""
        remap = self.experiment.config.checkpoint.remap
        return look(self.place.folder, self.files, self.place.values, remap=remap)

    def begin(self, found: Found, *, answers: bool) -> Tracker:
        """The record of the run; only that of rank 0 is real."""
        trackers: list[Tracker] = []

        def start() -> None:
            size, resumed = self.world.size, found.is_resumed
            tracker = record.begin(self.experiment, self.place, resumed=resumed, answers=answers, processes=size)
            trackers.append(tracker)

        self.world.on_rank_zero(start)
        return trackers[0] if trackers else NoTracker("")

    @contextmanager
    def recorded(self, tracker: Tracker) -> Iterator[None]:
        """End the record as the block ends."""
        try:
            with self.world.detect_lost_ranks():
                yield
        except (KeyboardInterrupt, Interrupted):
            try:
                tracker.finish("KILLED", "interrupted")
            finally:
                self.tell_how_to_resume()
            raise
        except BaseException as error:
            tracker.finish("FAILED", one_line(error, None))
            if self.files.paths():
                self.tell_how_to_resume()
            raise
        tracker.finish("FINISHED")

    def restore(self, found: Found, progress: Progress, tracker: Tracker) -> Mapping[str, Any] | None:
        """Put the learner and `progress` back; returns the state that they were restored from, if there is one."""
        place, remap = self.place, self.experiment.config.checkpoint.remap
        # the process before may have let go of the run only just now
        newer = self.world.on_rank_zero(lambda: self.look() if self.files.paths() != found.paths else None)
        found = newer or found
        if found.state is not None:
            restore(self.learner, progress, found.state, remap=remap)

        def note() -> str:
            save_config(place.folder, place.values)
            return note_resumed(place.folder, progress.step, found.changed)

        noted = self.world.on_rank_zero(note)
        tracker.tag({"lwexp.resumed": noted, "lwexp.folder": str(place.folder), **record.cluster_tags()})
        changed = f" with {' '.join(found.changed)}" if found.changed else ""
        log.info("resuming at optimizer step %d%s", progress.step, changed)
        return found.state

    def load_source_weights(self) -> None:
        """Start from the source task's weights."""
        config, base = self.experiment.config, self.place.base
        cache = base / "outputs" / "source_tasks"
        self.world.on_rank_zero(lambda: load_source_weights(self.experiment, self.learner.device, cache, base))
        seed_everything(config.seed)  # the same whether these weights were cached or trained just now

    def parallelize(self) -> None:
        """Copy the model to all processes, or shard it, with the optimizer's state."""
        if self.world.size > 1:
            config, learner = self.experiment.config, self.learner
            learner.parallel, learner.plan = parallelize(
                learner.model, learner.plan, learner.optimizer, learner.device, self.world,
                config.parallel, config.sync_batchnorm,
            )  # fmt: skip

    def train(self, progress: Progress, tracker: Tracker, state: Mapping[str, Any] | None) -> RunResult:
        """Fit, then test the best weights."""
        config, place = self.experiment.config, self.place
        trainer = Trainer(
            self.learner,
            self.loaders.train,
            self.loaders.val,
            progress,
            folder=place.folder,
            tracker=tracker,
            checkpoints=self.files,
            callbacks=self.callbacks,
            world=self.world,
            options=TrainerOptions(
                accumulate=config.accumulate,
                clip_grad_norm=config.clip_grad_norm,
                nonfinite=config.nonfinite,
                compile=config.compile,
                freeze_stats=config.freeze_stats,
                sync_batchnorm=config.sync_batchnorm,
                rates_every=config.tracking.rates_every if isinstance(config.tracking, MLflowConfig) else 1,
                progress_bar=config.progress,
                config=place.values,
            ),
            resumed=state,
        )
        try:
            best = trainer.fit()
        except Pruned as pruned:
            reason = str(pruned)
            tracker.tag({"lwexp.pruned": reason})
            save_result(place.folder, progress.best, pruned=reason)
            log.info("%s was pruned %s", tracker.run_name, reason)
            return RunResult(place.folder, progress.best, tracker.run_id, reason)
        closing = f"best validation accuracy {best['val/accuracy']:.2%}"
        metrics = dict(best)
        if self.loaders.test is not None:
            tested = trainer.test(self.loaders.test)
            tracker.log(tested, progress.steps - 1)
            metrics |= tested
            closing += f", test accuracy {tested['test/accuracy']:.2%} with those weights"
        self.world.on_rank_zero(lambda: record.conclude(self.experiment, place, tracker, progress, metrics))
        log.info("%s: %s", tracker.run_name, closing)
        return RunResult(place.folder, metrics, tracker.run_id)

    def tell_how_to_resume(self) -> None:
        """Log the command, unless the sweep does."""
        if point_of(self.place.folder) is not None:
            return
        log.info("resume with: %s", resume_command(self.place.folder, Path.cwd(), self.place.values))
        if "***" in str(self.place.values["tracking"].get("uri")):
            log.info("and give tracking.uri=… again: its password is stored nowhere")
