"""The one place that turns the config into objects: data, model, plan, schedule, optimizer, loss."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwexp.config.schema import RunConfig
from lwexp.config.targets import callback, own_object
from lwexp.config.unused import Command, given_options, unused_notes
from lwexp.config.weights_schema import PretrainedConfig, WeightsFileConfig
from lwexp.errors import ConfigError
from lwexp.host.console import console
from lwexp.host.device import build_device
from lwexp.host.resources import has_compiler

from .built_network import adapter_notes, with_weights
from .cross_checks import check_layerwise, check_model, check_plan, check_schedule, check_steps
from .naming import data_label, weights_text
from .opening import open_training_data
from .planning import build_monitor, build_plan, build_schedule
from .preprocessing import choose_preprocessing
from .starting_weights import check_start
from .training_batches import check_batches
from .unused_here import unused_here

if TYPE_CHECKING:
    import torch

    from lwexp.core.plan import Plan
    from lwexp.core.schedule import Schedule
    from lwexp.data import DataSource, Preprocessing
    from lwexp.models.build import BuiltModel
    from lwexp.training.callbacks import Callback
    from lwexp.training.loss import TaskLoss
    from lwexp.training.measures import OwnMetrics
    from lwexp.training.monitor import Monitor


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """What a run consists of before its first step: what `preview` shows and `run` trains."""

    config: RunConfig
    source: DataSource
    built: BuiltModel
    preprocessing: Preprocessing | None  # of images; texts need none
    plan: Plan
    schedule: Schedule
    steps_per_epoch: int
    steps: int
    monitor: Monitor


def make_experiment(
    config: RunConfig,
    base: Path,
    device: str = "cpu",
    *,
    resumed: Path | None = None,
    overrides: Sequence[str] = (),
    command: Command = "run",
    processes: int = 1,
) -> Experiment:
    """Data, model and plan from `config`; on `device="meta"` no weights are allocated or loaded.

    Everything is checked against a model on the meta device first, if the model can be built there: mistakes are
    reported before weights are allocated or downloaded. Relative paths of the config start at `base`. Raises
    `ConfigError`. `resumed`: folder of the run that is resumed.
    That one and a preview ("meta") may lack the layer-wise rates that were asked for.
    The plan's notes name those of the `overrides` of the `command` that change nothing.
    """
    import torch

    from lwexp.core.schedule_text import line_of, notes_of, value_notes
    from lwexp.core.scheduler import PlanScheduler
    from lwexp.models.build import draft_model

    console.now(f"reading the data, {data_label(config.data.model_dump(by_alias=True))}")
    source = open_training_data(config, base)
    info = source.info
    monitor = build_monitor(config, info.task)
    steps_per_epoch, steps = training_steps(config, info.sizes["train"], info.kind)
    draft = draft_model(
        config.model,
        channels=info.channels,
        classes=len(info.classes),
        image_size=info.image_size,
        pretrained=isinstance(config.weights, PretrainedConfig),
        tag=config.weights.tag if isinstance(config.weights, PretrainedConfig) else None,
        tokens=info.tokens,
        from_file=isinstance(config.weights, WeightsFileConfig),
    )

    def planned(built: BuiltModel) -> tuple[Plan, Schedule]:
        console.now(f"planning the rates of {config.model.label}")
        plan = build_plan(config, built)
        check_plan(config, plan)
        if device != "meta" and not resumed:
            check_layerwise(config, plan)
        schedule = build_schedule(config, plan, steps, steps_per_epoch, info.task)
        batches = info.sizes["train"] // config.batch_size
        all_steps = config.epochs * steps_per_epoch
        notes = [
            *check_steps(config, batches, steps),
            *check_schedule(config, schedule, steps, all_steps),
            *notes_of(schedule),
            *value_notes(PlanScheduler(build_optimizer(config, plan), schedule)),
            *check_model(config, plan, built.module),
            *adapter_notes(built.adapters),
            *check_start(config, plan, built.new_names),
            *unused_notes(config, overrides, command, processes),
            *unused_here(config, given_options(overrides), source, schedule, all_steps),
        ]
        plan = replace(plan, notes=(*plan.notes, *notes), schedule_line=line_of(schedule))
        schedule = replace(schedule, plan=plan)
        preprocessing = choose_preprocessing(config, source, built, base, resumed)
        check_batches(config, source, _checked_loss(config, source), preprocessing)
        return plan, schedule

    if device == "meta":
        built = with_weights(config, draft.on_meta(), base)
        plan, schedule = planned(built)
    else:
        check_machine(config)
        found, tried = None, draft.tried
        if tried is not None:
            with torch.random.fork_rng(devices=[]):  # a seed means the same weights with and without this
                tried = with_weights(config, tried, base, report_loaded=False)
                found = planned(tried)
        console.now(f"building {config.model.label}, its weights {weights_text(config)}")
        built = with_weights(config, draft.allocate(), base)
        if found is None or tried is None or not found[0].fits(built.module):
            plan, schedule = planned(built)  # it differs each time it is built, or cannot run without its weights
        elif tried.new_names != built.new_names:  # the weights lack more or less than their config says
            with torch.random.fork_rng(devices=[]):
                plan, schedule = planned(built)
        else:
            plan = found[0].bind(built.module)
            schedule = replace(found[1], plan=plan)
    plan.apply_freeze(built.module)
    preprocessing = choose_preprocessing(config, source, built, base, resumed)
    return Experiment(config, source, built, preprocessing, plan, schedule, steps_per_epoch, steps, monitor)


def training_steps(config: RunConfig, samples: int, kind: str) -> tuple[int, int]:
    """Optimizer steps of an epoch and of the whole training; an incomplete last batch is dropped."""
    if config.batch_size > samples:
        raise ConfigError("batch_size", config.batch_size, f"is larger than the training set of {samples} {kind}s")
    steps_per_epoch = -(-(samples // config.batch_size) // config.accumulate)
    steps = config.epochs * steps_per_epoch
    return steps_per_epoch, min(steps, config.max_steps or steps)


def build_optimizer(config: RunConfig, plan: Plan) -> torch.optim.Optimizer:
    """The optimizer over the plan's groups; on the meta device it only checks the options."""
    name: Any = str(config.optimizer.name)  # any name: the registry looks it up
    apart = ("adamw_lr", "adamw") if name.lower() == "muon" else ()  # the plan has those
    options = {key: value for key, value in config.optimizer.options.items() if key not in apart}
    if options.get("fused") is True and any(p.is_meta for group in plan.param_groups() for p in group["params"]):
        del options["fused"]  # meta tensors have no such kernel
    built: torch.optim.Optimizer = plan.optimizer(name, **options)
    return built


def build_loss(config: RunConfig, source: DataSource) -> TaskLoss:
    """The loss; `class_weights=balanced` takes its weights from the training labels."""
    from lwexp.training.loss import make_loss

    return make_loss(
        config.loss.name,
        len(source.info.classes),
        label_smoothing=config.loss.label_smoothing,
        class_weights=config.loss.class_weights,
        labels=source.labels("train"),
        options=config.loss.options,
        task=source.info.task,
        scale=source.info.scale,
    )


def _checked_loss(config: RunConfig, source: DataSource) -> TaskLoss:
    """The loss, once the metrics that go with it have been tried."""
    build_metrics(config, source)
    return build_loss(config, source)


def build_metrics(config: RunConfig, source: DataSource) -> OwnMetrics | None:
    """The metrics of the user's own, tried on predictions of the data's task. Raises `ConfigError`."""
    from lwexp.training.measures import OwnMetrics, check_names

    if not config.metrics:
        return None
    info = source.info
    check_names(config.metrics, info.task)
    made = {
        name: own_object(str(section.target), section.options, f"metrics.{name}", "class")
        for name, section in config.metrics.items()
    }
    return OwnMetrics(made, info.task, len(info.classes))


def build_callbacks(config: RunConfig) -> dict[str, Callback]:
    """The user's callbacks, by name. Raises `ConfigError`."""
    from lwexp.training.callbacks import Callback

    found = {name: callback(section, name) for name, section in config.callbacks.items()}
    for name, made in found.items():
        if not isinstance(made, Callback):
            target = config.callbacks[name].target
            raise ConfigError(f"callbacks.{name}._target_", target, "must be a class that derives from lwexp.Callback")
    return found


def check_machine(config: RunConfig) -> None:
    """Raise `ConfigError` for a device or a package that is not here, and for `compile` without a compiler."""
    device = build_device(config.device)
    if config.compile and device.type == "cpu" and not has_compiler():
        raise ConfigError("compile", True, "needs a C++ compiler; there is none, and CXX names none")
    if config.tracking.system_metrics and find_spec("psutil") is None:
        raise ConfigError("tracking.system_metrics", True, "needs the package psutil: pip install 'lwexp[system]'")
