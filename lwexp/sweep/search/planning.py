"""From the options of a search and the command's overrides to its studies, and from those to the runs that repeat."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from optuna.distributions import CategoricalDistribution

from lwexp.config.compose import has_uniform_rates
from lwexp.config.keys import changes_numbers, is_layerwise
from lwexp.config.monitored import monitored
from lwexp.config.schema import RunConfig
from lwexp.errors import ConfigError, LwexpError
from lwexp.experiment.manifest import Point
from lwexp.sweep.planning import Planner
from lwexp.sweep.points import split, values_of, varying_keys
from lwexp.sweep.twins import Job, missing_twins, uniform_twin

from .loop import Arm
from .pruning import DIRECTIONS
from .settings import SearchSettings
from .space import Space, parse_space, quoted
from .study import Study, make_pruner, make_sampler, open_storage, pruner_options

PHASE = "lwexp.phase"


def check_components(settings: SearchSettings) -> None:
    """Create the sampler and the pruner of `settings` once. Raises `ConfigError`."""
    make_sampler(settings.sampler.name, settings.sampler.options, settings.sampler.seed)
    make_pruner(*_pruner(settings))


@dataclass(frozen=True)
class SearchPlan:
    """What a search draws from and runs: all that follows from its command."""

    settings: SearchSettings
    space: Space  # its constants change results; others are set aside for all jobs
    config: RunConfig  # of the constants
    keys: tuple[str, ...]  # in which its points differ
    seeds: tuple[int, ...]  # of every trial
    with_uniform: bool  # whether uniform rates are searched and repeated as well
    rival: Space | None  # of uniform rates, over all but the layer-wise options; None if it is not wanted or possible


def plan_search(
    settings: SearchSettings, params: Mapping[str, Any], arguments: Sequence[str], planner: Planner, *, uniform: bool
) -> SearchPlan:
    """The search that the overrides `arguments` ask for; `params` are searched unless they set the key.

    Raises `ConfigError` if there is nothing to search, or the constants are refused.
    """
    space = parse_space(planner.parse([*(f"{key}={value}" for key, value in params.items()), *arguments]))
    if not space.searched:
        why = "nothing to search: give an interval, a range or several values, as lr=interval(1e-4,1e-1)"
        raise ConfigError("hydra.sweeper.params", dict(params), why)
    if space.seeds and settings.seeds:
        raise ConfigError("hydra.sweeper.seeds", settings.seeds, "the command gives several values of seed too")
    planner.set_aside(o for o in space.constants if not changes_numbers(split(o)[0]))
    if settings.storage is not None:
        planner.set_aside([f"sweep.search.storage={quoted(settings.storage)}"])
    space = replace(space, constants=tuple(o for o in space.constants if changes_numbers(split(o)[0])))
    config = planner.config_of(space.constants)
    if isinstance(config, LwexpError):
        raise config
    rival = _uniform_rival(space, planner) if uniform else None
    apart = varying_keys([space.constants, rival.constants]) if rival else []  # as mult=1 sets the uniform twins apart
    keys = dict.fromkeys([*apart, *(key.lstrip("+") for key in space.searched), "seed"])
    seeds = space.seeds or tuple(settings.seeds or [config.seed])
    return SearchPlan(settings, space, config, tuple(keys), seeds, uniform, rival)


def _uniform_rival(space: Space, planner: Planner) -> Space | None:
    """The space with uniform rates: of all choices in it, a file's own layer-wise rates are ended too."""
    rest = {key: drawn for key, drawn in space.searched.items() if not is_layerwise(key.lstrip("+"))}
    categorical = {key: drawn.choices for key, drawn in rest.items() if isinstance(drawn, CategoricalDistribution)}
    constants = space.constants
    for drawn in [(), *((f"{key}={choice}",) for key, choices in categorical.items() for choice in choices)]:
        for job, config in planner.valid([(*constants, *drawn)]):
            twin = uniform_twin(job, config, planner.config_of)
            if twin is None:
                return None
            constants = tuple(override for override in twin if override not in drawn)
    return replace(space, searched=rest, constants=constants)


def make_arms(plan: SearchPlan, folder: Path) -> list[Arm]:
    """The search, and that of the best uniform rates if that leaves anything to draw. Raises `RunError`.

    `folder` is the sweep's, which holds the studies unless the search names a storage.
    """
    settings, space, config = plan.settings, plan.space, plan.config
    storage = open_storage(settings.storage, folder)
    shared = settings.storage is not None
    name = settings.study_name or (folder.name if shared else "search")

    def study(name: str, seed: int | None) -> Study:
        return Study(
            storage,
            name,
            direction=settings.direction or direction_of(config),
            sampler=make_sampler(settings.sampler.name, settings.sampler.options, seed),
            pruner=_pruner(settings),
            owner=folder.name if shared else None,
        )

    seed = settings.sampler.seed
    layerwise = [key for key in space.searched if is_layerwise(key.lstrip("+"))]
    uniform = not layerwise and has_uniform_rates(config)
    arms = [Arm(study(name, seed), space, settings.n_trials, plan.keys, uniform=uniform)]
    rival = plan.rival
    if not uniform and rival is not None and rival.searched and settings.uniform_trials:
        own = study(f"{name}-uniform", None if seed is None else seed + 1)  # drawn independently
        arms.append(Arm(own, rival, settings.uniform_trials, plan.keys, uniform=True))
    return arms


def direction_of(config: RunConfig) -> Literal["maximize", "minimize"]:
    """Where the monitored metric of the runs is good; that of the data's task is known to the runs only."""
    named = monitored(config.monitor, config.monitor_mode)
    return "maximize" if named is None else DIRECTIONS[named[1]]


def repeats(plan: SearchPlan, arms: Sequence[Arm], planner: Planner, points: Sequence[Point]) -> list[Point]:
    """The best settings over seeds and their uniform twins; those of `points` that were repeats keep their numbers."""
    jobs = _best_jobs(plan, arms)
    valid = planner.valid(jobs)
    twins = missing_twins(valid, planner.config_of) if plan.with_uniform else []
    places = {planner.identity(p.overrides): p.number for p in points if p.tags.get(PHASE) == "repeat"}
    unused = itertools.count(first_unused(points))
    found: dict[int, Point] = {}
    for job in (*jobs, *twins):
        identity = planner.identity(job)
        if identity not in places:
            places[identity] = next(unused)
        found.setdefault(
            places[identity],
            Point(
                places[identity],
                job,
                values_of(job, plan.keys),
                arm=planner.arm(job),
                baseline=job in twins,
                tags={PHASE: "repeat"},
            ),
        )
    return list(found.values())


def first_unused(points: Sequence[Point]) -> int:
    """The number of the next point."""
    return max((point.number + 1 for point in points), default=0)


def _best_jobs(plan: SearchPlan, arms: Sequence[Arm]) -> list[Job]:
    """The best settings of the search, and the best uniform one, with each seed."""
    repeat = plan.settings.repeat
    shared = sorted({*plan.seeds}.intersection(repeat.seeds))
    if shared and repeat.best:
        print(f"note: repeat.seeds has {shared} of the search, which chose settings also for their luck with them")
    return [
        (*arm.space.constants, *(f"{key}={value}" for key, value in trial.values.items()), f"seed={seed}")
        for arm, count in zip(arms, (repeat.best, min(repeat.best, 1)), strict=False)
        for trial, _ in arm.study.best(count)
        for seed in repeat.seeds
    ]


def _pruner(settings: SearchSettings) -> tuple[str | None, dict[str, Any]]:
    pruner = settings.pruner
    return pruner.name, pruner_options(pruner.name, pruner.startup_trials, pruner.warmup_epochs, pruner.options)
