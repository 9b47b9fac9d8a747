"""Weights from a source task, learned first, kept in a cache, loaded without the head: transfer without a download.

The source is the other half of the data's classes (`weights=source_task`) or printed letters (`weights=letters`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock

from lwexp.config.schema import RunConfig
from lwexp.config.weights_schema import LettersConfig, PretrainingConfig, SourceTaskConfig
from lwexp.core.make_plan import make_plan
from lwexp.data import DataSource, eval_loader, half_of_classes, open_letters, train_loader
from lwexp.distributed.world import World
from lwexp.formatting import few
from lwexp.models.build import build_model
from lwexp.models.weights import load_checkpoint
from lwexp.tracking import NoTracker
from lwexp.training.loss import make_loss
from lwexp.training.seeding import seed_everything
from lwexp.training.state import Learner, Progress
from lwexp.training.trainer import Trainer, TrainerOptions

from .instantiate import Experiment
from .opening import cache_settings, open_whole_data
from .training_batches import augmentation

_UNUSED = {"mixup", "cutmix", "sampler", "train_size"}  # options of the data that apply to the run alone
_AUGMENTED = {"augment", "augment_options", "erasing", "transforms"}  # those that apply to any images
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Task:
    """What is learned first, and how."""

    open: Callable[[], DataSource]
    depends: Mapping[str, Any]  # what of the run's data changes it
    seed: int  # not the run's: all seeds of a comparison start from the same weights
    batch_size: int
    policy: Literal["constant", "cosine"]


def start_from_source_task(experiment: Experiment, learner: Learner, base: Path, world: World) -> None:
    """Load the source task's weights where the config asks for them; outputs/ is in `base`."""
    if isinstance(experiment.config.weights, PretrainingConfig):
        cache = base / "outputs" / "source_tasks"
        world.on_rank_zero(lambda: load_source_weights(experiment, learner.device, cache, base))
        seed_everything(experiment.config.seed)  # the same whether these weights were cached or trained just now


def load_source_weights(experiment: Experiment, device: torch.device, cache: Path, base: Path) -> None:
    """Put the source task's weights, all but the head's, into the experiment's model; train them if need be.

    One process trains while others that want the same weights wait for it.
    """
    task = _task(experiment, base)
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{_key(experiment.config, task)}.safetensors"
    with FileLock(f"{path}.lock"):
        if path.is_file():
            log.info("source task: weights from %s", path)
        else:
            _pretrain(experiment, task, device, path, base)
    log.info("%s", load_checkpoint(experiment.built.module, path, drop_head=True))


def _pretrain(experiment: Experiment, task: _Task, device: torch.device, path: Path, base: Path) -> None:
    config = experiment.config
    assert isinstance(config.weights, PretrainingConfig)
    source = task.open()
    count, classes = source.info.sizes["train"], few(source.info.classes, 10)
    log.info("source task: %d epochs on %s samples of the classes %s", config.weights.epochs, f"{count:,}", classes)
    with torch.random.fork_rng(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        torch.manual_seed(task.seed)
        built = build_model(
            config.model,
            channels=experiment.source.info.channels,
            classes=len(source.info.classes),
            image_size=experiment.built.image_size,
            tokens=source.info.tokens,
        )
        plan = make_plan(built.module, decay="none", lr=config.weights.lr)
        optimizer = plan.optimizer("adam")
        built.module.to(device)
        passes = float(config.weights.epochs)
        cache = cache_settings(config, base, passes)
        data = source.datasets(
            experiment.preprocessing, augmentation(config, source, experiment.preprocessing), task.seed, cache
        )
        size = min(task.batch_size, count)
        loading: dict[str, Any] = {"batch_size": size, "workers": config.data.workers, "device": device}
        train = train_loader(data.train, seed=task.seed, **loading)
        steps = config.weights.epochs * len(train)
        learner = Learner(
            model=built.module,
            plan=plan,
            optimizer=optimizer,
            scheduler=plan.scheduler(optimizer, task.policy, steps=steps),
            loss=make_loss("CrossEntropyLoss", len(source.info.classes)).to(device),
            device=device,
            precision=config.precision,
        )
        trainer = Trainer(
            learner,
            train,
            eval_loader(data.val, **loading),
            Progress(steps, config.weights.epochs),
            folder=Path(folder),
            tracker=NoTracker("source task"),
            options=TrainerOptions(progress_bar=config.progress, title="source task"),
        )
        best = trainer.fit()
        shutil.move(Path(folder) / "best.safetensors", path)
        log.info("source task: best validation accuracy %.2f %%", 100 * best["val/accuracy"])


def _task(experiment: Experiment, base: Path) -> _Task:
    """The source task of the config."""
    config, weights = experiment.config, experiment.config.weights
    if isinstance(weights, LettersConfig):
        assert experiment.preprocessing is not None  # of images, else they are refused
        depends = {**asdict(experiment.preprocessing), **config.data.model_dump(include=_AUGMENTED)}
        return _Task(lambda: open_letters(weights.seed), depends, weights.seed, weights.batch_size, "cosine")
    assert isinstance(weights, SourceTaskConfig)
    seed = weights.split_seed
    depends = config.data.model_dump(exclude={"workers", "cache", *_UNUSED})
    return _Task(
        lambda: half_of_classes(open_whole_data(config, base), "source", seed),
        depends, seed, config.batch_size, "constant",
    )  # fmt: skip


def _key(config: RunConfig, task: _Task) -> str:
    """A name for the weights: what they depend on."""
    parts = {
        "model": config.model.model_dump(),
        "data": task.depends,
        "weights": config.weights.model_dump(),
        "batch_size": task.batch_size,
        "precision": config.precision,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]
    name = "".join(c if c.isalnum() else "-" for c in str(config.model.name or config.model.source))
    return f"{name}-{digest}"
