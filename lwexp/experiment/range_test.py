"""Range tests of a run that is not trained: the network, the batches and the optimizer that the run would have."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from lwexp.config.schema import RunConfig
from lwexp.core.finding.curve import RangeTest
from lwexp.core.finding.find_lr import FoundRates, find_rates, fixed_groups, trained_groups
from lwexp.distributed.world import World, join
from lwexp.errors import ConfigError
from lwexp.host.console import console
from lwexp.training.modes import train_mode
from lwexp.training.probing import Probing
from lwexp.training.seeding import deterministic, explained_operations

from . import on_device
from .instantiate import Experiment, make_experiment
from .place import JobPlace
from .source_task import start_from_source_task
from .summary import summary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundHere:
    """What the range tests of a run have found."""

    experiment: Experiment
    rates: FoundRates


def find_rates_of(config: RunConfig, place: JobPlace) -> FoundHere:
    """Range tests of what `config` would train, as `config.find` says; policies, phases and events are off.

    Where a launcher has started several processes, each calls this and does its share. Raises `LwexpError`.
    """
    test = RangeTest(**config.find.model_dump(exclude={"groups"}))
    test.check()
    world = join()
    try:
        with deterministic(config.deterministic), explained_operations():
            found = _find(config, place, world, test)
    except BaseException as error:
        world.leave(error)
        raise
    world.leave()
    return found


def _find(config: RunConfig, place: JobPlace, world: World, test: RangeTest) -> FoundHere:
    on_all_ranks = world.on_all_ranks
    device = on_device.get_ready(config, place.base, world)
    experiment = on_all_ranks(
        lambda: make_experiment(
            config, place.base, overrides=place.overrides, command="find", processes=world.size,
        )
    )  # fmt: skip
    plan = experiment.plan
    absolute = [*config.lr_overrides, *(config.decay.options.get("rates") or {})]
    fixed = fixed_groups(plan, absolute)
    if not trained_groups(plan, absolute):
        raise ConfigError("lr_overrides", absolute, "set every rate, so no base rate can be found")
    log.info("%s\n", summary(experiment, device, world.size, width=console.width))
    log.info("%s\n", plan)
    with on_all_ranks(lambda: on_device.open_loaders(experiment, place.base, device, world)) as loaders:
        learner = on_all_ranks(lambda: on_device.build_learner(experiment, device, world))
        start_from_source_task(experiment, learner, place.base, world)
        on_device.parallelize_learner(learner, config, world)
        train_mode(learner.model, plan.frozen_names if config.freeze_stats else ())
        progress = on_device.start_progress(experiment)
        probe = Probing(
            learner, progress, loaders.train, config.accumulate, config.clip_grad_norm, world
        ).probe()  # fmt: skip
        planned = [g.lr for g in plan.groups]
        measurement = learner.scheduler.measurement
        if measurement is not None and not measurement.rule.after_epochs:  # of such a rule all scales are 1 at first
            with console.doing("measuring the scales of the groups"):
                learner.scheduler.measure_with(probe)
            planned = [lr * s for lr, s in zip(planned, measurement.scales, strict=True)]
        tested = trained_groups(plan, absolute) if config.find.groups else []

        def started(position: int | None) -> None:
            number = "" if position is None else f" ({tested.index(position) + 1} of {len(tested)})"
            what = "the base rate" if position is None else f"the rate of {plan.labels[position]}"
            console.now(f"range test of {what}{number}")

        rates = find_rates(probe, test, tested=tested, planned=planned, fixed=fixed, started=started)
    return FoundHere(experiment, rates)
