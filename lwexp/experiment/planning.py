"""From the config to the plan of a network and to its schedule."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from lwexp.config.compose import (
    base_rate,
    base_weight_decay,
    choice,
    phase_choices,
    policy_choices,
    split_patterns,
)  # fmt: skip
from lwexp.config.monitored import monitored
from lwexp.config.recipes import changed_options, composed, recipe_of
from lwexp.config.schema import RunConfig
from lwexp.errors import NoLayerwiseRatesWarning, UnknownNameError
from lwexp.tasks import METRICS, Task

if TYPE_CHECKING:
    from lwexp.core.plan import Plan
    from lwexp.core.schedule import Schedule
    from lwexp.models.build import BuiltModel
    from lwexp.training.monitor import Monitor


def build_plan(config: RunConfig, built: BuiltModel) -> Plan:
    """The plan that the config's grouping, decay, freezing and overrides give the model."""
    from lwexp.core.grouping import takes_input
    from lwexp.core.kinds import Kinds
    from lwexp.core.make_plan import make_plan
    from lwexp.core.measured.lookup import with_new_head
    from lwexp.core.patterns import first_matches
    from lwexp.core.recipes.base import weights_of
    from lwexp.core.recipes.use import absent_patterns

    grouping, grouping_options = choice(config.grouping, "grouping", options_apart=True)
    decay, decay_options = with_new_head(*choice(config.decay, "decay"), built.new_names)
    names, splits = [name for name, _ in built.module.named_parameters()], split_patterns(config)
    kinds = Kinds.of(built.module)
    for pattern, key in splits.items():
        first_matches(kinds.named([pattern], key), names, key)
    recipe = recipe_of(config)
    rates = recipe.rates(weights_of(built.module), config.batch_size * config.accumulate)
    falls = config.decay.options.get("stem_lr") is None  # else the multiplier follows from the ends
    of_recipe = (composed(config.recipe.name) or {}).get("lr_mults", {})
    absent = absent_patterns((key for key in config.lr_mults if key in of_recipe), built.module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoLayerwiseRatesWarning)  # `check_plan` refuses such a plan, a preview shows it
        plan = make_plan(
            built.module,
            grouping=grouping,
            grouping_options=grouping_options,
            decay=decay,
            decay_options=decay_options,
            lr=rates.lr if config.lr is None and rates.lr is not None else base_rate(config),
            mult=rates.mult if config.mult is None and falls else config.mult,
            freeze=config.freeze,
            train=config.train,
            freeze_mode=config.freeze_mode,
            lr_overrides=config.lr_overrides,
            lr_mults={key: factor for key, factor in config.lr_mults.items() if key not in absent},
            split_groups=[*config.split_groups, *splits],
            group_options=config.group_options,
            no_weight_decay=config.no_weight_decay,
            weight_decay=base_weight_decay(config),
            weight_decay_mult=config.weight_decay_mult,
            independent_weight_decay=config.independent_weight_decay,
            index_from=config.index_from,
            example_input=built.example if takes_input(grouping) else None,
        )
    if str(config.optimizer.name).lower() == "muon":
        chosen = config.optimizer.options
        absolute = [*config.lr_overrides, *(decay_options.get("rates") or {})]
        plan = plan.for_muon(chosen.get("adamw_lr"), chosen.get("adamw"), keep=absolute)
    lines = recipe.lines(rates, changed_options(config), absent) if recipe.name else ()
    return replace(plan, model=config.model.label, notes=(*lines, *plan.notes))


def build_monitor(config: RunConfig, task: Task) -> Monitor:
    """The metric that decides which evaluation is the best. Raises `UnknownNameError` for one that `task` has not."""
    from lwexp.training.monitor import Monitor

    named = monitored(config.monitor, config.monitor_mode)
    if named is None:
        return Monitor.of(task)
    known = metrics_of(config, task)
    if named[0] not in known:
        raise UnknownNameError("monitor", named[0], known, "no such metric of an evaluation")
    return Monitor(*named)


def metrics_of(config: RunConfig, task: Task) -> list[str]:
    """The metrics of an evaluation on the validation split."""
    return [f"val/{name}" for name in (*METRICS[task], *config.metrics)]


def build_schedule(
    config: RunConfig, plan: Plan, steps: int, steps_per_epoch: int, task: Task = "classification"
) -> Schedule:
    """The plan's rates at every step: policies, phases, gradual unfreezing and events."""
    from lwexp.core.torch_policy import MetricPolicy

    policy, options = choice(config.policy, "policy")
    every = config.unfreeze.every_steps
    if config.unfreeze.every_epochs:
        every = config.unfreeze.every_epochs * steps_per_epoch
    events = [event.model_dump() for event in config.lr_events]
    schedule = plan.schedule(
        policy,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        policies=policy_choices(config.policies),
        phases=phase_choices(config.phases),
        lr_events=events,
        unfreeze_every_steps=every,
        unfreeze_at=config.unfreeze.at,
        weight_decay_policy=config.weight_decay_policy.model_dump(exclude_none=True, by_alias=True),
        momentum_policy=config.momentum_policy.model_dump(exclude_none=True, by_alias=True),
        **options,
    )
    metrics = metrics_of(config, task)
    for made in schedule.policies:
        if isinstance(made.shape, MetricPolicy) and made.shape.metric not in metrics:
            raise UnknownNameError(f"{made.settings.key}.metric", made.shape.metric, metrics, "no such metric")
    return schedule
