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
from omegaconf import DictConfig

from lwexp.config.compose import plain, settings
from lwexp.config.keys import USER_KEYED, flatten
from lwexp.config.schema import MLflowConfig, RunConfig, SourceTaskConfig, TorchvisionConfig
from lwexp.core.policy import is_metric_driven
from lwexp.core.scheduler import PlanScheduler
from lwexp.data import eval_loader, train_loader, workers_note
from lwexp.distributed.world import World, join
from lwexp.formatting import one_line
from lwexp.host.resources import set_threads
from lwexp.host.signals import Interrupted
from lwexp.plots.plan import draw_plan, draw_recorded
from lwexp.redaction import redact_addresses, redact_values
from lwexp.sweep.launchers.slurm import cluster_tags
from lwexp.sweep.search.pruning import Pruned, judge
from lwexp.tracking import NoTracker, begun_in, ended, has_run, open_hint, prepare, start
from lwexp.tracking.keys import HEAD_RATE_TAG, STEM_RATE_TAG
from lwexp.training.checkpoint.files import Checkpoints
from lwexp.training.trainer import Trainer

from .cross_checks import check_processes
from .folder import (
    changes,
    check_place,
    config_before,
    finished,
    keep_config,
    keep_result,
    note_resumed,
)
from .instantiate import (
    Experiment,
    build_loss,
    build_optimizer,
    cache_settings,
    make_experiment,
    open_whole_data,
    put_channels_last,
)
from .manifest import place_in_sweep, point_of
from .resume import asked, command

log = logging.getLogger(__name__)


def run_job(composed: DictConfig, *, draw_in_process: bool = False) -> float:
    """Train as `composed` says, or go on with the run of Hydra's run folder; returns the best validation accuracy.

    Of several processes that a launcher has started, each does its part. `draw_in_process`: plots need no subprocess,
    since this process has imported matplotlib anyway. Raises `LwexpError`.
    """
    world = join()
    try:
        best = _run(composed, world, draw_in_process)
    except BaseException as error:
        world.leave(error)
        raise
    world.leave()
    return best


def _run(composed: DictConfig, world: World, draw_in_process: bool) -> float:
    config = settings(composed)
    hydra = HydraConfig.get()
    folder = world.on_rank_zero(lambda: Path(hydra.runtime.output_dir))
    # a run that goes on finds its store and its files again
    base = world.on_rank_zero(lambda: begun_in(folder)) or Path(hydra.runtime.cwd)
    world.on_rank_zero(lambda: check_place(folder, config.resume or ("auto" if point_of(folder) is not None else None)))
    values = {**plain(composed), "lr_overrides": dict(config.lr_overrides)}  # in the order that counts
    values = redact_values(values, redact_addresses)
    best = world.on_rank_zero(lambda: finished(config, values, folder, base))
    if best is not None:
        return best
    answers = world.on_rank_zero(lambda: prepare(config.tracking, base))
    set_threads(config.threads)
    seed_everything(config.seed)
    device = world.on_all_ranks(lambda: world.device(config.device))
    check_processes(config, world.size)
    if world.size > 1 and isinstance(config.data, TorchvisionConfig):
        world.on_rank_zero(lambda: bool(open_whole_data(config, base)))  # one downloads
    experiment = world.on_all_ranks(lambda: make_experiment(config, base))
    log.info("%s\n", experiment.plan)
    job = world.on_all_ranks(lambda: _Job(experiment, device, folder, base, values, world, draw_in_process))
    try:
        return job.run(list(hydra.overrides.task), answers=answers)
    finally:
        job.trainer.train.close()
        job.trainer.val.close()


class _Job:
    """The training of an experiment and its record: from what the folder holds to the end of the run."""

    def __init__(
        self,
        experiment: Experiment,
        device: torch.device,
        folder: Path,
        base: Path,
        values: Mapping[str, Any],
        world: World,
        draw_in_process: bool,
    ) -> None:
        config, source = experiment.config, experiment.source
        self.experiment, self.folder, self.base, self.values = experiment, folder, base, values
        self.world, self.draw_in_process = world, draw_in_process
        # what is shared out later need not fit on one GPU
        experiment.built.module.to("cpu" if world.size > 1 and config.parallel == "fsdp" else device)
        if config.channels_last:
            put_channels_last(experiment.built.module)
        self.loading: dict[str, Any] = {
            "batch_size": config.batch_size, "workers": config.data.workers, "device": device,
            "channels_last": config.channels_last, "shard": world.shard,
        }  # fmt: skip
        passes = experiment.steps / experiment.steps_per_epoch
        cache = cache_settings(config, base, passes)
        self.data = source.datasets(experiment.preprocessing, config.data.augment, config.seed, cache)
        if config.data.workers == "auto":
            log.info("data: %s", workers_note(self.data, device))
        self.checkpoints = Checkpoints(
            folder / "checkpoints",
            every_steps=config.checkpoint.every_steps,
            every_minutes=config.checkpoint.every_minutes,
            keep=config.checkpoint.keep,
        )
        optimizer = build_optimizer(config, experiment.plan)
        self.trainer = Trainer(
            model=experiment.built.module,
            plan=experiment.plan,
            optimizer=optimizer,
            scheduler=PlanScheduler(optimizer, experiment.schedule),
            loss=build_loss(config, source).to(device),
            train=train_loader(self.data.train, seed=config.seed, **self.loading),
            val=eval_loader(self.data.val, **self.loading),
            tracker=NoTracker(""),  # until the run begins
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
            seen_rates=[] if is_metric_driven(experiment.schedule.policy) else None,
            checkpoints=self.checkpoints,
            config=values,
            nonfinite=config.nonfinite,
            rates_every=config.tracking.rates_every if isinstance(config.tracking, MLflowConfig) else 1,
            judged=judge(config.sweep.search, folder, experiment.steps - 1),
            world=world,
            parallel=config.parallel,
            sync_batchnorm=config.sync_batchnorm,
        )

    def run(self, overrides: list[str], *, answers: bool) -> float:
        """Begin or go on, train, and end the record, also where the training does not end well."""
        first = self.world.on_rank_zero
        # A mistake is told before the record is touched; nothing is changed before the record is this process's alone
        goes_on, status, found, state, changed = first(self._found)
        first(lambda: self._begin(overrides, goes_on=goes_on, answers=answers))
        tracker = self.trainer.tracker
        if goes_on:
            try:
                # the process before may have let go of it only just now
                anew = first(lambda: self._found() if self.checkpoints.paths() != found else None)
                if anew is not None:
                    *_, state, changed = anew
                self._take_up(state, changed)
            except BaseException as error:
                tracker.finish("KILLED" if status == "KILLED" else "FAILED", one_line(error, limit=None))
                raise
        try:
            with self.world.detect_lost_ranks():
                result = self._train(fresh=state is None)
        except (KeyboardInterrupt, Interrupted):
            try:
                tracker.finish("KILLED", "interrupted")
            finally:
                self._tell_how_to_go_on()
            raise
        except BaseException as error:
            tracker.finish("FAILED", one_line(error, limit=None))
            if self.checkpoints.paths():
                self._tell_how_to_go_on()
            raise
        tracker.finish("FINISHED")
        log.info("run %s is in %s", tracker.run_name, self.folder)
        if tracker.run_id is not None:
            hint = open_hint(self.experiment.config.tracking, self.base)
            log.info("tracked in %s as %s\n%s", tracker.where, tracker.run_id, hint)
        return result

    def _found(self) -> tuple[bool, str | None, list[Path], dict[str, Any] | None, list[str]]:
        """Whether the folder holds a run, how it ended, its checkpoints, the newest's state, and what has changed."""
        if not has_run(self.folder):
            return False, None, [], None, []
        status, found = ended(self.folder), self.checkpoints.paths()
        state = self.checkpoints.newest()
        return True, status, found, state, self._changed(state)

    def _begin(self, overrides: list[str], *, goes_on: bool, answers: bool) -> None:
        """Begin the record, or go on with it."""
        config, folder, base = self.experiment.config, self.folder, self.base
        if not goes_on:
            keep_config(folder, self.values)  # first, so that a run with a journal can always go on
        parent, name, tags = place_in_sweep(folder)
        self.trainer.tracker = start(
            config.tracking,
            folder=folder,
            base=base,
            run_name=name or _telling_settings(config),
            params=flat_params(self.values),
            tags={**_tags(self.experiment, asked(overrides), folder, base, self.world.size), **tags},
            description=self.experiment.plan.to_markdown(8000),
            parent=parent,
            answers=answers,
        )

    def _changed(self, state: Mapping[str, Any] | None) -> list[str]:
        """The options that have changed since the checkpoint, or since the run's beginning where there is none."""
        before = config_before(self.folder) if state is None else state["config"]
        remap = self.experiment.config.checkpoint.remap
        return [] if before is None else changes(before, self.values, remap=remap)

    def _take_up(self, state: Mapping[str, Any] | None, changed: list[str]) -> None:
        if state is not None:
            self.trainer.load_state(state, remap=self.experiment.config.checkpoint.remap)
        step = self.trainer.step

        def note() -> str:
            keep_config(self.folder, self.values)
            return note_resumed(self.folder, step, changed)

        noted = self.world.on_rank_zero(note)
        self.trainer.tracker.tag({"lwexp.resumed": noted, "lwexp.folder": str(self.folder), **cluster_tags()})
        log.info("going on at optimizer step %d%s", step, f" with {' '.join(changed)}" if changed else "")

    def _train(self, *, fresh: bool) -> float:
        experiment, trainer, first = self.experiment, self.trainer, self.world.on_rank_zero
        config, tracker = experiment.config, trainer.tracker
        if fresh and isinstance(config.weights, SourceTaskConfig):
            from .source_task import load_source_weights

            cache = self.base / "outputs" / "source_tasks"
            first(lambda: load_source_weights(experiment, trainer.device, cache, self.base))
            seed_everything(config.seed)  # the same whether these weights were kept or have just been trained
        first(self._describe)
        try:
            best = trainer.fit()
        except Pruned as given_up:
            tracker.tag({"lwexp.pruned": str(given_up)})
            keep_result(self.folder, trainer.best, pruned=str(given_up))
            log.info("%s was given up %s", tracker.run_name, given_up)
            return trainer.best["val/accuracy"]
        closing = f"best validation accuracy {best['val/accuracy']:.2%}"
        tested: dict[str, float] = {}
        if self.data.test is not None:
            tested = trainer.test(eval_loader(self.data.test, **self.loading))
            tracker.log(tested, experiment.steps - 1)
            closing += f", test accuracy {tested['test/accuracy']:.2%} with those weights"
        first(lambda: self._conclude({**best, **tested}))
        log.info("%s: %s", tracker.run_name, closing)
        return best["val/accuracy"]

    def _describe(self) -> None:
        """Keep with the run what is known before its first step."""
        experiment, folder, tracker = self.experiment, self.folder, self.trainer.tracker
        (folder / "plan.csv").write_text(experiment.plan.to_csv(), encoding="utf-8")
        if experiment.source.info.tokens is not None:
            experiment.source.info.tokens.tokenizer.save_pretrained(folder / "tokenizer")
        for name in ("config.yaml", "plan.csv"):
            tracker.artifact(folder / name)
        if self.trainer.seen_rates is None:
            steps, here = experiment.steps, self.draw_in_process
            for path in draw_plan(experiment.plan, experiment.schedule, steps, folder, in_process=here):
                tracker.artifact(path)

    def _conclude(self, metrics: Mapping[str, float]) -> None:
        """Keep with the run what is known after its last step."""
        tracker = self.trainer.tracker
        if self.trainer.seen_rates is not None:
            plan, rates, here = self.experiment.plan, self.trainer.seen_rates, self.draw_in_process
            for path in draw_recorded(plan, rates, self.folder, in_process=here):
                tracker.artifact(path)
        tracker.artifact(self.folder / "best.safetensors")
        keep_result(self.folder, metrics)

    def _tell_how_to_go_on(self) -> None:
        if point_of(self.folder) is not None:
            return  # the sweep tells how it is carried on
        log.info("go on with: %s", command(self.folder, Path.cwd(), self.values))
        if "***" in str(self.values["tracking"].get("uri")):
            log.info("and with tracking.uri=… once more: its password is kept nowhere")


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def flat_params(values: Mapping[str, Any]) -> dict[str, str]:
    """The resolved config with dotted keys; lists and mappings of the user's own keys as JSON.

    >>> flat_params({"lr": 0.1, "decay": {"name": "explicit", "rates": {"fc": 1.0}}})
    {'lr': '0.1', 'decay.name': 'explicit', 'decay.rates': '{"fc": 1.0}'}
    """
    return {
        key: json.dumps(value) if isinstance(value, (Mapping, list)) else str(value)
        for key, value in flatten(values, keep=USER_KEYED).items()
    }


def _telling_settings(config: RunConfig) -> str:
    """A run's name where no sweep gives one."""
    parts = [config.model.label, str(config.grouping.name)]
    parts.append(str(config.decay.name or config.decay.target))
    if config.decay.name == "linear":
        parts.append(f"mult={config.mult:g}")
    return " ".join([*parts, f"seed={config.seed}"])


def _tags(experiment: Experiment, overrides: list[str], folder: Path, base: Path, processes: int) -> dict[str, str]:
    tags = {} if processes == 1 else {"lwexp.processes": f"{processes} ({experiment.config.parallel})"}
    tags |= {
        "lwexp.overrides": " ".join(overrides),
        "lwexp.plan": experiment.plan.hash,
        HEAD_RATE_TAG: f"{experiment.plan.groups[0].lr:.7g}",
        STEM_RATE_TAG: f"{experiment.plan.groups[-1].lr:.7g}",
        "lwexp.folder": str(folder),
        "lwexp.python": sys.version.split()[0],
        **cluster_tags(),
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
