"""The one place that turns config into objects: data, model, plan, schedule, optimizer, loss."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import (
    CheckpointConfig,
    ImageFolderConfig,
    MLflowConfig,
    NoTrackingConfig,
    OpenSection,
    PretrainedConfig,
    RunConfig,
    SourceTaskConfig,
    TorchvisionConfig,
    check,
)
from .errors import ConfigError, UnknownNameError, UnknownOptionError

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

    from .data import DataSource, Preprocessing
    from .models import BuiltModel
    from .plan import Plan
    from .schedule import Schedule


def settings(config: DictConfig) -> RunConfig:
    """The checked, typed config of what Hydra composed; everything that needs neither data nor model is refused here.

    Entries of `lr_overrides` given on the command line come before those of a file.
    """
    values = plain(config)
    overrides = values.get("lr_overrides")
    if isinstance(overrides, dict):
        typed = _typed_keys("lr_overrides")
        values["lr_overrides"] = {key: overrides[key] for key in sorted(overrides, key=lambda k: str(k) not in typed)}
    checked = check(values)
    if checked.unfreeze.every_epochs and checked.unfreeze.every_steps:
        raise ConfigError("unfreeze", "every_epochs and every_steps", "give one of the two")
    _check_sections(checked)
    return checked


def plain(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain values, without Hydra's own part."""
    from omegaconf import OmegaConf

    own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    values = OmegaConf.to_container(own, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def tracking_settings(config: DictConfig) -> MLflowConfig | None:
    """The tracking section of a config that may still be a sweep; None without tracking."""
    tracking = settings(config).tracking
    return None if isinstance(tracking, NoTrackingConfig) else tracking


@dataclass(frozen=True)
class Experiment:
    """All that a run is made of, before any step: what `preview` shows and `run` trains."""

    config: RunConfig
    source: DataSource
    built: BuiltModel
    preprocessing: Preprocessing
    plan: Plan
    schedule: Schedule
    steps_per_epoch: int
    steps: int


def make_experiment(config: RunConfig, base: Path, device: str = "cpu") -> Experiment:
    """Data, model and plan from `config`; on `device="meta"` no weights are allocated or loaded.

    Relative paths of the config start at `base`. Raises `ConfigError`.
    """
    from .data import half_of_classes
    from .models import build_model

    source = open_whole_data(config, base)
    if isinstance(config.weights, SourceTaskConfig):
        source = half_of_classes(source, "target", config.weights.split_seed)
    info = source.info
    steps_per_epoch, steps = training_steps(config, info.sizes["train"])
    pretrained = isinstance(config.weights, PretrainedConfig)
    built = build_model(
        config.model,
        channels=info.channels,
        classes=len(info.classes),
        image_size=info.image_size,
        pretrained=pretrained,
        tag=config.weights.tag if isinstance(config.weights, PretrainedConfig) else None,
        device=device,
    )
    if isinstance(config.weights, CheckpointConfig) and device != "meta":
        from .weights import load_checkpoint

        report = load_checkpoint(built.module, base / config.weights.path, strict=config.weights.strict)
        print(report)
    plan = build_plan(config, built)
    plan.apply_freeze(built.module)
    schedule = build_schedule(config, plan, steps, steps_per_epoch)
    return Experiment(config, source, built, preprocessing(source, built), plan, schedule, steps_per_epoch, steps)


def open_whole_data(config: RunConfig, base: Path) -> DataSource:
    """The data with all its classes."""
    from .data import open_data

    return open_data(_based(config.data, base))


def training_steps(config: RunConfig, images: int) -> tuple[int, int]:
    """Optimizer steps of an epoch and of the whole training; a last batch that is not full is left out."""
    if config.batch_size > images:
        raise ConfigError("batch_size", config.batch_size, f"is larger than the training set of {images} images")
    steps_per_epoch = -(-(images // config.batch_size) // config.accumulate)
    steps = config.epochs * steps_per_epoch
    return steps_per_epoch, min(steps, config.max_steps or steps)


def preprocessing(source: DataSource, built: BuiltModel) -> Preprocessing:
    """How images become the model's input: as the pretrained weights saw them, else the data's standard way."""
    from dataclasses import replace

    from .data import standard_preprocessing

    standard = standard_preprocessing(source.info, built.image_size, built.channels)
    return replace(standard, **built.preprocessing) if built.preprocessing else standard


def build_plan(config: RunConfig, built: BuiltModel) -> Plan:
    """The plan that the config's grouping, decay, freezing and overrides give the model."""
    import torch

    from .plan import make_plan

    grouping, grouping_options = _choice(config.grouping, "grouping", options_apart=True)
    decay, decay_options = _choice(config.decay, "decay")
    example = None
    if grouping == "depth_index":
        example = torch.empty(2, built.channels, built.image_size, built.image_size, device="meta")
    return make_plan(
        built.module,
        grouping=grouping,
        grouping_options=grouping_options,
        decay=decay,
        decay_options=decay_options,
        lr=config.lr,
        mult=config.mult,
        freeze=config.freeze,
        freeze_mode=config.freeze_mode,
        lr_overrides=config.lr_overrides,
        no_weight_decay=config.no_weight_decay,
        example_input=example,
    )


def build_schedule(config: RunConfig, plan: Plan, steps: int, steps_per_epoch: int) -> Schedule:
    """The plan's rates at every step: policy, gradual unfreezing and events."""
    from .schedule import make_schedule
    from .standin import MetricPolicy
    from .train import METRICS

    policy, options = _choice(config.policy, "policy")
    every = config.unfreeze.every_steps
    if config.unfreeze.every_epochs:
        every = config.unfreeze.every_epochs * steps_per_epoch
    events = [event.model_dump() for event in config.lr_events]
    schedule = make_schedule(plan, policy, options, steps, steps_per_epoch, events, every)
    shape = schedule.policy.shape
    if isinstance(shape, MetricPolicy) and shape.metric not in METRICS:
        raise UnknownNameError("policy.metric", shape.metric, METRICS, "no such metric")
    return schedule


def build_optimizer(config: RunConfig, plan: Plan) -> torch.optim.Optimizer:
    """The optimizer over the plan's groups."""
    return plan.optimizer(str(config.optimizer.name), **config.optimizer.options)


def build_device(name: str) -> torch.device:
    """`auto` is the first accelerator there is, else the CPU."""
    import torch

    from .targets import why

    if name == "auto":
        if torch.accelerator.is_available():
            return torch.device(torch.accelerator.current_accelerator() or "cpu")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError("device", name, f"cannot be used here; auto, cpu, cuda, cuda:1, mps ({why(error)})") from None
    if device.type == "meta":
        raise ConfigError("device", name, "holds no numbers to train")
    return device


def _choice(section: OpenSection, group: str, options_apart: bool = False) -> tuple[Any, dict[str, Any]]:
    """A name and its options, or a callable of the user's own: a function with its options bound, or an instance."""
    options = dict(section.options)
    if "kind" in options:  # policy=torch: `name` is the scheduler's class
        return options.pop("kind"), {"name": section.name, **options}
    if section.target is None:
        if section.name is None:
            raise ConfigError(f"{group}.name", None, "must be given")
        return section.name, options
    return _own(section.target, options, group, options_apart)


def _own(target: str, options: dict[str, Any], group: str, options_apart: bool) -> tuple[Any, dict[str, Any]]:
    from .targets import located, why

    key = f"{group}._target_"
    found = located(target, key, "class or function")
    shared: dict[str, Any] = {}
    if group == "policy":
        from .policy import common

        shared = {name: options.pop(name) for name in list(options) if name in (common.__kwdefaults__ or {})}
    parameters = inspect.signature(found).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in options:
            if name not in parameters:
                raise UnknownOptionError(f"{group}.{name}", options[name], parameters, f"{target} has no such argument")
    if isinstance(found, type):
        try:
            return found(**options), shared
        except (TypeError, ValueError) as error:
            raise ConfigError(key, target, why(error)) from error
    if options_apart:
        return found, options
    return (_named_partial(found, options) if options else found), shared


def _named_partial(function: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    bound = functools.partial(function, **options)
    functools.update_wrapper(bound, function)
    return bound


def _check_sections(config: RunConfig) -> None:
    """Names and options of the open sections, as far as they can be checked without a model."""
    from .decay import make_decay
    from .grouping import GROUPINGS
    from .options import check_options
    from .policy import POLICIES, make_policy

    decay, options = _choice(config.decay, "decay")
    make_decay(decay, {"mult": config.mult, **options} if decay == "linear" else options)
    grouping, options = _choice(config.grouping, "grouping", options_apart=True)
    if isinstance(grouping, str):
        if grouping not in GROUPINGS:
            raise UnknownNameError("grouping", grouping, GROUPINGS, "no such grouping")
        check_options(GROUPINGS[grouping], options, "grouping")
    policy, options = _choice(config.policy, "policy")
    if isinstance(policy, str) and policy not in POLICIES:
        raise UnknownNameError("policy", policy, POLICIES, "no such policy")
    make_policy(policy, options, lr=config.lr, steps=max(10**6, options.get("warmup_steps") or 0))
    if config.optimizer.name is None:
        raise ConfigError("optimizer.name", None, "must be given")


def _based(data: Any, base: Path) -> Any:
    """The data section with its folder taken relative to where the command was started."""
    if isinstance(data, ImageFolderConfig):
        return data.model_copy(update={"path": str(base / Path(data.path).expanduser())})
    if isinstance(data, TorchvisionConfig):
        return data.model_copy(update={"root": str(base / Path(data.root).expanduser())})
    return data


def _typed_keys(section: str) -> set[str]:
    """Keys below `section` that the command line gave."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not HydraConfig.initialized():
        return set()
    keys: set[str] = set()
    for override in OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task)):
        value = override.value()
        if override.key_or_group == section and isinstance(value, dict):
            keys |= {str(key) for key in value}
        elif override.key_or_group.startswith(f"{section}."):
            keys.add(override.key_or_group.removeprefix(f"{section}.").split(".")[0])
    return keys
