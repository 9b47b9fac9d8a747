"""Weights from a source task, learned first, kept in a cache, loaded without the head: transfer without a download.

The source is the other half of the data's classes (`weights=source_task`) or printed letters (`weights=letters`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from lwexp.config.schema import RunConfig
from lwexp.config.weights_schema import LettersConfig, PretrainingConfig, SourceTaskConfig
from lwexp.core.make_plan import make_plan
from lwexp.data import DataSource, eval_loader, half_of_classes, open_letters, train_loader
from lwexp.distributed.world import World
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
log = logging.getLogger(__name__)


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
    config = experiment.config
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{_key(config)}.safetensors"
    with FileLock(f"{path}.lock"):
        if path.is_file():
            log.info("source task: weights from %s", path)
        else:
            _pretrain(experiment, device, path, base)
    log.info("%s", load_checkpoint(experiment.built.module, path, drop_head=True))


def _pretrain(experiment: Experiment, device: torch.device, path: Path, base: Path) -> None:
    config = experiment.config
    assert isinstance(config.weights, PretrainingConfig)
    source, seed, what = _source(config, base)
    letters = config.weights if isinstance(config.weights, LettersConfig) else None
    log.info("source task: %d epochs on %s", config.weights.epochs, what)
    with torch.random.fork_rng(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        torch.manual_seed(seed)
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
            experiment.preprocessing, augmentation(config, source, experiment.preprocessing), seed, cache
        )
        size = min(letters.batch_size if letters else config.batch_size, source.info.sizes["train"])
        loading: dict[str, Any] = {"batch_size": size, "workers": config.data.workers, "device": device}
        train = train_loader(data.train, seed=seed, **loading)
        steps = config.weights.epochs * len(train)
        learner = Learner(
            model=built.module,
            plan=plan,
            optimizer=optimizer,
            scheduler=plan.scheduler(optimizer, "cosine" if letters else "constant", steps=steps),
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


def _source(config: RunConfig, base: Path) -> tuple[DataSource, int, str]:
    """The data of the source task, a seed, and what they are.

    The seed is not the run's: all seeds of a comparison start from the same weights.
    """
    if isinstance(config.weights, LettersConfig):
        source = open_letters(config.weights.seed)
        return source, config.weights.seed, f"{source.info.sizes['train']:,} printed letters"
    assert isinstance(config.weights, SourceTaskConfig)
    source = half_of_classes(open_whole_data(config, base), "source", config.weights.split_seed)
    return source, config.weights.split_seed, f"the classes {', '.join(source.info.classes)}"


def _key(config: RunConfig) -> str:
    """A name for the weights: what they depend on."""
    parts = {
        "model": config.model.model_dump(),
        "data": config.data.model_dump(exclude={"workers", "cache", *_UNUSED}),
        "weights": config.weights.model_dump(),
        "batch_size": config.batch_size,
        "precision": config.precision,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]
    name = "".join(c if c.isalnum() else "-" for c in str(config.model.name or config.model.source))
    return f"{name}-{digest}"
