"""Settings that each are fine and together cannot be: what was asked for and could never come to pass is an error.

Called where all of data, model and plan are known and no weight is allocated yet. What takes effect in part, or is a
limit that is never reached, is a note beneath the plan instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lwexp.config.schema import RunConfig
from lwexp.config.weights_schema import PretrainingConfig
from lwexp.core.patterns import first_matches, matches
from lwexp.core.policy import Policy, is_metric_driven
from lwexp.core.shapes import POLICIES
from lwexp.core.warmup import warmup_option
from lwexp.errors import ConfigError
from lwexp.formatting import one_line

if TYPE_CHECKING:
    from torch import nn

    from lwexp.core.plan import Plan
    from lwexp.core.schedule import Schedule

_LOOKED_AT = 200  # steps whose rates are checked, spread evenly over the training


def check_steps(config: RunConfig, batches: int, steps: int) -> Iterator[str]:
    """Contradictions between lengths; yields notes. `batches` of an epoch, `steps` that are trained in all."""
    if config.accumulate > batches:
        raise ConfigError("accumulate", config.accumulate, f"an epoch has only {batches} batches")
    if config.max_steps is not None and config.max_steps > steps:
        yield f"max_steps={config.max_steps} is never reached: epochs={config.epochs} are {steps} steps"
    made = min(steps, config.max_steps or steps)
    for key, value in (("eval_every_steps", config.eval_every_steps), ("ema.start_step", config.ema.start_step)):
        if value is not None and value >= made and (key != "ema.start_step" or config.ema.decay is not None):
            raise ConfigError(key, value, f"the training has only {made} steps")
    if config.ema.decay is None and (config.ema.start_step or config.ema.every_steps > 1):
        yield "ema changes nothing: ema.decay is null; ema.decay=0.999 averages the weights"
    if config.early_stopping.patience is None and config.early_stopping.min_delta:
        yield "early_stopping.min_delta changes nothing: early_stopping.patience is null"


def check_processes(config: RunConfig, size: int) -> None:
    """What a training on several processes, `size` of them, cannot do."""
    if config.batch_size < size:
        why = f"each of the {size} processes needs a part of the batch"
        raise ConfigError("batch_size", config.batch_size, why)
    if size > 1 and config.parallel == "fsdp" and config.channels_last:
        raise ConfigError("channels_last", True, "parallel=fsdp takes parameters in their usual order only")
    if size > 1 and config.parallel == "fsdp" and config.ema.decay is not None:
        why = "averages whole weights, and parallel=fsdp shards them; parallel=ddp does not"
        raise ConfigError("ema.decay", config.ema.decay, why)


def check_adapters(config: RunConfig) -> None:
    """What a network with adapters cannot do."""
    if config.lora.rank is None:
        return
    if isinstance(config.weights, PretrainingConfig):
        why = f"is not for weights={config.weights.name}, whose weights have no adapters"
        raise ConfigError("lora.rank", config.lora.rank, why)
    if config.wise_ft.alpha is not None:
        why = "averages with the starting weights, which adapters do not move; lora.alpha scales what they add"
        raise ConfigError("wise_ft.alpha", config.wise_ft.alpha, why)


def check_plan(config: RunConfig, plan: Plan) -> None:
    """Contradictions between freezing, rates and patterns."""
    if config.freeze_stats and not plan.frozen_names:
        raise ConfigError("freeze_stats", True, "no parameter is frozen; freeze=[…] says which")
    names = [name for group in plan.groups for name in group.parameter_names]
    rates = config.decay.options.get("rates") or {}
    for key, patterns, earlier in (
        ("lr_overrides", [*config.lr_overrides], "an earlier entry"),
        ("lr_mults", [*config.lr_mults], "an earlier entry"),
        ("decay.rates", [*rates] if config.decay.name == "explicit" else [], "an earlier entry"),
    ):
        written = plan.patterns(patterns, key)
        used = set(first_matches(written, names, key).values())
        for pattern in written:
            if pattern not in used:
                value = {**rates, **config.lr_mults, **config.lr_overrides}[pattern]
                raise ConfigError(f"{key}.{pattern}", value, f"{earlier} covers all it matches; put it first")
    _check_group_options(config, plan)
    moving = any(g.lr > 0 and g.optimizer_names for g in plan.groups) or any(e.lr > 0 for e in config.lr_events)
    if not moving:
        given = {"freeze": config.freeze, "train": config.train, "lr_overrides": config.lr_overrides}
        decay: Any = config.decay.name or config.decay.target
        key, value = next(((key, value) for key, value in given.items() if value), ("decay", decay))
        raise ConfigError(key, value, "the rate of every group is 0, nothing would be trained")


def _check_group_options(config: RunConfig, plan: Plan) -> None:
    """Each option of each pattern must be that of some parameter in the optimizer."""
    own = {name: part.options for g in plan.groups for part in g.parts for name in part.parameter_names}
    for pattern, written in plan.group_options.items():
        for option, value in written.items():
            if not any(matches(pattern, name) and options.get(option) == value for name, options in own.items()):
                why = "no parameter has it: an earlier entry, no_weight_decay or freeze covers all that it matches"
                raise ConfigError(f"group_options.{pattern}.{option}", config.group_options[pattern][option], why)


def check_layerwise(config: RunConfig, plan: Plan) -> None:
    """Refuse to train all layers at one rate where rates were to fall with depth."""
    if plan.no_layerwise_rates and plan.trained_layers > 1:
        raise ConfigError("grouping", config.grouping.name or config.grouping.target, plan.no_layerwise_rates)


def check_schedule(config: RunConfig, schedule: Schedule, steps: int, all_steps: int) -> Iterator[str]:
    """Contradictions between the policy, gradual unfreezing, events and the length of the training; yields notes.

    `steps` are trained, `all_steps` would be without `max_steps`: a training cut short to try it out may end before
    its policy falls.
    """
    _check_events(config, schedule)
    _check_floor(schedule)
    _check_lengths(schedule, all_steps)
    _check_rates(config, schedule, steps)
    yield from _check_unfreezing(config, schedule, steps, all_steps)


def check_model(config: RunConfig, plan: Plan, module: nn.Module) -> Iterator[str]:
    """Options that change nothing in this model; yields notes."""
    from lwexp.training.modes import frozen_norms

    if config.freeze_stats and not frozen_norms(module, plan.frozen_names):
        yield "freeze_stats=true changes nothing: nothing frozen has running statistics, as a batch norm has"
    if config.channels_last and not any(parameter.ndim == 4 for parameter in module.parameters()):
        yield "channels_last=true changes nothing: no weight of the model has four dimensions, as a convolution's has"


def _check_events(config: RunConfig, schedule: Schedule) -> None:
    seen: dict[tuple[int, int], int] = {}
    for number, event in enumerate(config.lr_events):
        for position in schedule.plan.find(event.group, "lr_events.group"):
            before = seen.setdefault((event.step, position), number)
            if before != number:
                name = schedule.plan.groups[position].name
                reason = f"group {name} has another rate at step {event.step}, by lr_events.{before}"
                raise ConfigError(f"lr_events.{number}.lr", event.lr, reason)


def _check_floor(schedule: Schedule) -> None:
    """A relative floor is compared with lr when the policy is made."""
    for phase in schedule.phases:
        for place, policy in enumerate(phase.policies):
            floor = policy.floor * policy.settings.lr
            if not policy.absolute or not floor:
                continue
            for group, own in zip(schedule.plan.groups, phase.of_group, strict=True):
                lr = group.lr * phase.lr_factor
                if own == place and 0 < lr < floor * (1 - 1e-12) and group.optimizer_names:
                    reason = (
                        f"is above the rate {lr:g} of group {group.index} ({group.name}); lower it, or floor=relative"
                    )
                    given = policy.settings.options.get("min_lr")
                    raise ConfigError(f"{policy.settings.key}.min_lr", given, f"the absolute floor {reason}")


def _check_lengths(schedule: Schedule, all_steps: int) -> None:
    """Named policies that the training, or their phase of it, is too short for."""
    for phase in schedule.phases:
        steps = all_steps if len(schedule.phases) == 1 else phase.steps or all_steps
        for policy in phase.policies:
            _check_length(policy, steps, "training" if len(schedule.phases) == 1 else "phase")


def _check_length(policy: Policy, steps: int, what: str) -> None:
    name, options, key = policy.settings.policy, policy.settings.options, policy.settings.key
    left = steps - policy.warmup.steps
    if name not in POLICIES or name in ("constant", "torch") or is_metric_driven(policy):
        return
    if left < 1:
        length, value = warmup_option(options)
        reason = f"the warm-up takes all {steps} steps of the {what}, policy={name} never begins"
        raise ConfigError(f"{key}{length.removeprefix('policy')}", value, reason)
    after = f"the {what} has {left} steps{' after the warm-up' if policy.warmup.steps else ''}"
    for milestone in options.get("milestones") or []:
        if milestone >= left:
            raise ConfigError(f"{key}.milestones", options["milestones"], f"{milestone} never comes, {after}")
    if name == "step" and int(options.get("step_size", 0)) >= left:
        raise ConfigError(f"{key}.step_size", options["step_size"], f"the rate never falls, {after}")
    if policy.floor >= 1:
        raise ConfigError(f"{key}.min_lr", options["min_lr"], "the floor is the base rate lr, the rate never falls")
    if options.get("gamma") == 1 or options.get("decay_fraction") == 0:
        option = "gamma" if "gamma" in options else "decay_fraction"
        raise ConfigError(f"{key}.{option}", options[option], "the rate never changes; policy=constant says so")


def _check_rates(config: RunConfig, schedule: Schedule, steps: int) -> None:
    """Every rate a finite number of at least 0, also of a custom policy."""
    key = "policy.options" if "kind" in config.policy.options else "policy"
    label = config.policy.options.get("options") if key != "policy" else config.policy.name or config.policy.target
    last = min(_LOOKED_AT, steps) - 1
    for step in sorted({round(i * (steps - 1) / max(last, 1)) for i in range(last + 1)}):
        try:
            rates = schedule.rates(step)
            wrong = [rate for rate in rates if not (math.isfinite(rate) and rate >= 0)]
        except Exception as error:
            raise ConfigError(key, label, f"fails at step {step}: {one_line(error, kind=True)}") from error
        if wrong:
            raise ConfigError(key, label, f"gives the rate {wrong[0]} at step {step}; finite ones from 0 on are needed")


def _check_unfreezing(config: RunConfig, schedule: Schedule, steps: int, all_steps: int) -> Iterator[str]:
    every = schedule.unfreeze_every_steps
    indices: Sequence[int] = sorted({g.index for g in schedule.plan.groups if g.optimizer_names and not g.frozen})
    if not every or (len(indices) - 1) * every < steps:
        return
    reached = -(-steps // every)
    given = config.unfreeze.every_steps or config.unfreeze.every_epochs
    key = "unfreeze.every_steps" if config.unfreeze.every_steps else "unfreeze.every_epochs"
    if all_steps <= every:
        reason = f"the training has {all_steps} steps, so no group but the head would ever open"
        raise ConfigError(key, given, reason)
    yield (
        f"{key}={given} opens {reached} of {len(indices)} groups in the {steps} steps of the training; "
        f"the last {len(indices) - reached} stay frozen"
    )
