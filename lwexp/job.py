"""One run from its composed config to its closing line: the steps in order, and what is left behind on the way."""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from . import sweep
from .cli import Interrupted
from .config import SourceTaskConfig
from .data import eval_loader, train_loader
from .instantiate import Experiment, build_device, build_loss, build_optimizer, make_experiment
from .pictures import draw_plan, draw_seen
from .policy import looks_at_training
from .scheduler import PlanScheduler
from .settings import plain, settings
from .tracking import Tracker, open_hint, prepare, redact, start
from .train import Trainer

log = logging.getLogger(__name__)

# Mappings whose keys the user chose: one param each, as JSON, not one per key.
_USER_KEYED = ("lr_overrides", "decay.rates", "grouping.patterns", "policy.options", "loss.options", "data.options")


def run_job(composed: DictConfig) -> float:
    """Train as `composed` says; returns the best validation accuracy. Raises `LwexpError`."""
    config = settings(composed)
    hydra = HydraConfig.get()
    folder, base = Path(hydra.runtime.output_dir), Path(hydra.runtime.cwd)
    answers = prepare(config.tracking, base)
    seed_everything(config.seed)
    device = build_device(config.device)
    experiment = make_experiment(config, base)
    plan = experiment.plan
    log.info("%s\n", plan)
    experiment.built.module.to(device)
    optimizer = build_optimizer(config, plan)
    scheduler = PlanScheduler(optimizer, experiment.schedule)
    loss = build_loss(config, experiment.source).to(device)
    parent, name = sweep.parent_of_job()
    values = plain(composed)
    tracker = start(
        config.tracking,
        folder=folder,
        base=base,
        run_name=name or sweep.job_settings(config),
        params=flat_params(values),
        tags=_tags(experiment, list(hydra.overrides.task), folder, base),
        description=plan.to_markdown(8000),
        parent=parent,
        answers=answers,
    )
    try:
        result = _train(experiment, device, scheduler, optimizer, loss, tracker, folder, values, base)
    except (KeyboardInterrupt, Interrupted):
        tracker.finish("KILLED", "interrupted")
        raise
    except BaseException as error:
        tracker.finish("FAILED", " ".join(str(error).split()) or type(error).__name__)
        raise
    tracker.finish("FINISHED")
    log.info("run %s is in %s", tracker.run_name, folder)
    if tracker.run_id is not None:
        log.info("tracked in %s as %s\n%s", tracker.where, tracker.run_id, open_hint(config.tracking, base))
    return result


def _train(
    experiment: Experiment,
    device: torch.device,
    scheduler: PlanScheduler,
    optimizer: torch.optim.Optimizer,
    loss: torch.nn.Module,
    tracker: Tracker,
    folder: Path,
    values: Mapping[str, Any],
    base: Path,
) -> float:
    config, source = experiment.config, experiment.source
    if isinstance(config.weights, SourceTaskConfig):
        from .source_task import load_source_weights

        load_source_weights(experiment, device, base / "outputs" / "source_tasks", base)
    config_text = redact(OmegaConf.to_yaml(OmegaConf.create(dict(values))))
    (folder / "config.yaml").write_text(config_text, encoding="utf-8")
    (folder / "plan.csv").write_text(experiment.plan.to_csv(), encoding="utf-8")
    if source.info.tokens is not None:
        source.info.tokens.tokenizer.save_pretrained(folder / "tokenizer")
    for name in ("config.yaml", "plan.csv"):
        tracker.artifact(folder / name)
    stateful = looks_at_training(experiment.schedule.policy)
    if not stateful:
        for path in draw_plan(experiment.plan, experiment.schedule, experiment.steps, folder):
            tracker.artifact(path)
    data = source.datasets(experiment.preprocessing, config.data.augment, config.seed)
    loading: dict[str, Any] = {"batch_size": config.batch_size, "workers": config.data.workers, "device": device}
    trainer = Trainer(
        model=experiment.built.module,
        plan=experiment.plan,
        optimizer=optimizer,
        scheduler=scheduler,
        loss=loss,
        train=train_loader(data.train, seed=config.seed, **loading),
        val=eval_loader(data.val, **loading),
        tracker=tracker,
        folder=folder,
        device=device,
        steps=experiment.steps,
        epochs=config.epochs,
        accumulate=config.accumulate,
        clip_grad_norm=config.clip_grad_norm,
        precision=config.precision,
        compile=config.compile,
        freeze_stats=config.freeze_stats,
        progress=config.progress,
        seen_rates=[] if stateful else None,
    )
    try:
        best = trainer.fit()
    finally:
        trainer.train.close()
        trainer.val.close()
    closing = f"best validation accuracy {best['val/accuracy']:.2%}"
    if data.test is not None:
        tested = trainer.test(eval_loader(data.test, **loading))
        tracker.log(tested, experiment.steps - 1)
        closing += f", test accuracy {tested['test/accuracy']:.2%} with those weights"
    if trainer.seen_rates is not None:
        for path in draw_seen(experiment.plan, trainer.seen_rates, folder):
            tracker.artifact(path)
    tracker.artifact(folder / "best.safetensors")
    log.info("%s: %s", tracker.run_name, closing)
    return best["val/accuracy"]


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def flat_params(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The resolved config with dotted keys; lists and mappings of the user's own keys as JSON.

    >>> flat_params({"lr": 0.1, "decay": {"name": "explicit", "rates": {"fc": 1.0}}})
    {'lr': '0.1', 'decay.name': 'explicit', 'decay.rates': '{"fc": 1.0}'}
    """
    flat: dict[str, str] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and path not in _USER_KEYED:
            flat.update(flat_params(value, f"{path}."))
        else:
            flat[path] = json.dumps(value) if isinstance(value, (Mapping, list)) else str(value)
    return flat


def _tags(experiment: Experiment, overrides: list[str], folder: Path, base: Path) -> dict[str, str]:
    tags = {
        "lwexp.overrides": " ".join(overrides),
        "lwexp.plan": experiment.plan.hash,
        "lwexp.folder": str(folder),
        "lwexp.python": sys.version.split()[0],
    }
    for package in ("lwexp", "torch", "timm", "torchvision", "transformers", "mlflow"):
        try:
            tags[f"lwexp.version.{package}"] = version(package)
        except PackageNotFoundError:
            continue  # run from a checkout that is not installed
    commit = _git_commit(base)
    if commit:
        tags["mlflow.source.git.commit"] = commit
    return tags


def _git_commit(folder: Path) -> str | None:
    """The commit of the folder where the command was started, if it is in a git checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
