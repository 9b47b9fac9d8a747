"""An experiment on the device that trains: batches, learner, trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lwexp.config.schema import RunConfig
from lwexp.core.scheduler import PlanScheduler
from lwexp.data import EpochLoader, Inputs, Views, call, eval_loader, train_loader, workers_note
from lwexp.distributed.parallel import parallelize
from lwexp.distributed.world import World
from lwexp.host.resources import set_threads
from lwexp.tracking import Tracker
from lwexp.training.average import AverageOptions, WeightAverage
from lwexp.training.callbacks import Callback
from lwexp.training.checkpoint.files import CheckpointFiles
from lwexp.training.seeding import seed_everything
from lwexp.training.state import Learner, Progress
from lwexp.training.trainer import Trainer, TrainerOptions

from .cross_checks import check_processes
from .instantiate import Experiment, build_loss, build_metrics, build_optimizer
from .manifest import point_of
from .opening import cache_settings, download_once
from .place import JobPlace
from .starting_weights import pull_to_start
from .training_batches import augmentation, balance, evaluated, mixing

log = logging.getLogger(__name__)


@dataclass
class Loaders:
    """The batches of each split, and how images of an evaluation become scores."""

    train: EpochLoader
    val: EpochLoader
    test: EpochLoader | None
    scores_of: Callable[[Any, Inputs], torch.Tensor] = call
    measured_on: EpochLoader | None = None  # the training's batches once more, where a decay is measured

    def __enter__(self) -> Loaders:
        """Stop the workers at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop them."""
        for loader in (self.train, self.val, self.test, self.measured_on):
            if loader is not None:
                loader.close()


def get_ready(config: RunConfig, base: Path, world: World) -> torch.device:
    """Threads, seeds and data for what is built next; returns the device of this process. All ranks must call."""
    set_threads(config.threads)
    seed_everything(config.seed)
    device = world.on_all_ranks(lambda: world.device(config.device))
    check_processes(config, world.size)
    download_once(config, base, world)
    return device


def open_loaders(experiment: Experiment, base: Path, device: torch.device, world: World) -> Loaders:
    """The batches of `experiment`, of each this rank's shard; relative paths start at `base`."""
    config, source = experiment.config, experiment.source
    cache = cache_settings(config, base, experiment.steps / experiment.steps_per_epoch)
    data = source.datasets(
        experiment.preprocessing, augmentation(config, source, experiment.preprocessing), config.seed, cache,
        evaluated(config.tta, experiment.preprocessing),
    )  # fmt: skip
    if config.data.workers == "auto":
        log.info("data: %s", workers_note(data, device))
    loading: dict[str, Any] = {
        "batch_size": config.batch_size, "workers": config.data.workers, "device": device,
        "channels_last": config.channels_last, "shard": world.shard,
    }  # fmt: skip
    order: dict[str, Any] = {
        "seed": config.seed, "balance": balance(config, source), "mixing": mixing(config, source),
    }  # fmt: skip
    rule = experiment.schedule.rule
    return Loaders(
        train_loader(data.train, **order, **loading),
        eval_loader(data.val, **loading),
        eval_loader(data.test, **loading) if data.test is not None and config.evaluate_test else None,
        call if config.tta == "none" else Views(config.tta, experiment.built.image_size),
        train_loader(data.train, **order, **{**loading, "workers": 0}) if rule and not rule.after_epochs else None,
    )


def build_learner(experiment: Experiment, device: torch.device, world: World) -> Learner:
    """The model of `experiment` with its optimizer, schedule and loss on `device`."""
    config, module = experiment.config, experiment.built.module
    # what is sharded later need not fit on one GPU
    module.to("cpu" if world.size > 1 and config.parallel == "fsdp" else device)
    if config.channels_last:
        put_channels_last(module)
    optimizer = build_optimizer(config, experiment.plan)
    return Learner(
        model=module,
        plan=experiment.plan,
        optimizer=optimizer,
        scheduler=PlanScheduler(optimizer, experiment.schedule),
        loss=build_loss(config, experiment.source).to(device),
        device=device,
        precision=config.precision,
        average=build_average(config, module),
        metrics=build_metrics(config, experiment.source),
    )


def build_average(config: RunConfig, module: nn.Module) -> WeightAverage | None:
    """The average of the weights, if the config asks for one."""
    if config.ema.decay is None:
        return None
    return WeightAverage(module, AverageOptions(**config.ema.model_dump()))


def put_channels_last(module: nn.Module) -> None:
    """Convert the four-dimensional tensors of `module` to channels_last; names, shapes and values stay.

    `Module.to(memory_format=…)` raises for a module with five-dimensional tensors.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def start_progress(experiment: Experiment) -> Progress:
    """Nothing is done yet."""
    seen_rates: list[list[float]] | None = [] if experiment.schedule.follows_training else None
    return Progress(experiment.steps, experiment.config.epochs, seen_rates=seen_rates, monitor=experiment.monitor)


def checkpoint_files(config: RunConfig, folder: Path) -> CheckpointFiles:
    """The checkpoints of the run in `folder`."""
    due = config.checkpoint
    return CheckpointFiles(
        folder / "checkpoints",
        every_steps=due.every_steps,
        every_minutes=due.every_minutes,
        keep=due.keep,
        at_end=point_of(folder) is None,  # a sweep has many jobs, which are not trained longer
    )


def parallelize_learner(learner: Learner, config: RunConfig, world: World) -> None:
    """Copy the model to all processes, or shard it, with the optimizer's state."""
    if world.size > 1:
        learner.parallel, learner.plan = parallelize(
            learner.model,
            learner.plan,
            learner.optimizer,
            learner.device,
            world,
            config.parallel,
            config.sync_batchnorm,
        )


def build_trainer(
    learner: Learner,
    loaders: Loaders,
    progress: Progress,
    config: RunConfig,
    place: JobPlace,
    tracker: Tracker,
    files: CheckpointFiles,
    callbacks: Mapping[str, Callback],
    world: World,
    *,
    resumed: Mapping[str, Any] | None,
    new_names: frozenset[str] = frozenset(),
) -> Trainer:
    """The trainer of a parallelized learner; `resumed` is the state that it was restored from.

    `new_names`: the parameters that the weights do not have.
    """
    return Trainer(
        learner,
        loaders.train,
        loaders.val,
        progress,
        folder=place.folder,
        tracker=tracker,
        checkpoints=files,
        callbacks=callbacks,
        world=world,
        options=TrainerOptions(
            accumulate=config.accumulate,
            clip_grad_norm=config.clip_grad_norm,
            nonfinite=config.nonfinite,
            compile=config.compile,
            freeze_stats=config.freeze_stats,
            sync_batchnorm=config.sync_batchnorm,
            eval_every_epochs=config.eval_every_epochs,
            eval_every_steps=config.eval_every_steps,
            patience=config.early_stopping.patience,
            min_delta=config.early_stopping.min_delta,
            rates_every=config.tracking.rates_every,
            diagnose_every=config.diagnostics.every_steps,
            system_metrics=config.tracking.system_metrics,
            progress_bar=config.progress,
            scores_of=loaders.scores_of,
            title=point.name if (point := point_of(place.folder)) is not None else "",
            config=place.values,
        ),
        resumed=resumed,
        measured_on=loaders.measured_on,
        changing=pull_to_start(config, learner, new_names, world, place.folder, resumed=resumed is not None),
    )
