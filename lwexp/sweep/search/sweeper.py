"""`hydra/sweeper=optuna`: trials that Optuna draws, then the best settings again over seeds, with their uniform twins.

Optuna is imported only by what this sweeper calls, so that its absence is one line.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lwexp import redaction
from lwexp.config.schema import RunConfig
from lwexp.errors import ConfigError, LwexpError
from lwexp.experiment.folder import changes_numbers
from lwexp.experiment.manifest import Point, SweepManifest
from lwexp.sweep.launchers.registry import parallel_jobs
from lwexp.sweep.outcome import Outcome
from lwexp.sweep.points import is_layerwise, is_uniform, missing_twins, split, uniform_twin, values_of, varying_keys
from lwexp.sweep.sweeper import GridSweeper

from .settings import SearchSettings, check_search

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from .loop import Arm
    from .space import Space

_PHASE = "lwexp.phase"
_WIDEST = 8  # trials at a time where nobody says: those of one batch know nothing of each other


class OptunaSweeper(GridSweeper):
    """A search in place of a grid; its jobs are points of a sweep like others, run by whatever launcher."""

    def __init__(self, **options: Any) -> None:
        """`options` are the keys of conf/hydra/sweeper/optuna.yaml."""
        super().__init__()
        self._options = options
        self._settings: SearchSettings
        self._space: Space
        self._keys: tuple[str, ...] = ()
        self._seeds: tuple[int, ...] = ()
        self._trial_runs = 0  # if none is given up

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook: check all that can be before anything is drawn."""
        if find_spec("optuna") is None:
            raise ConfigError("hydra/sweeper", "optuna", "needs Optuna: pip install -e '.[optuna]'")
        from .study import make_pruner, make_sampler, pruner_options

        options = OmegaConf.to_container(OmegaConf.create(self._options), resolve=True)
        assert isinstance(options, dict)
        self._settings = check_search({str(key): value for key, value in options.items()})
        sampler, pruner = self._settings.sampler, self._settings.pruner
        # the uniform rates are drawn on their own
        seeds = (sampler.seed, None if sampler.seed is None else sampler.seed + 1)
        self._samplers = [make_sampler(sampler.name, sampler.options, seed) for seed in seeds]
        self._pruner = pruner_options(pruner.name, pruner.startup_trials, pruner.warmup_epochs, pruner.options)
        make_pruner(pruner.name, self._pruner)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        follows_mult = config.decay.get("name") == "linear"
        self._params = {key: v for key, v in (self._settings.params or {}).items() if key != "mult" or follows_mult}

    def sweep(self, arguments: list[str]) -> Any:
        """Run the search that the command's overrides ask for. Raises `SweepFailedError`, `ConfigError`, `RunError`."""
        return self.around(arguments, self._search)

    # ----------------------------------------------------------------------------------------------------- beginning

    def points(self, overrides: Sequence[Override], before: SweepManifest | None) -> list[Point]:
        """The points that the sweep had; others are drawn as the search goes."""
        from .space import parse_space, quoted

        space = parse_space(overrides)
        if not space.searched:
            why = "nothing to search: give an interval, a range or several values, as lr=interval(1e-4,1e-1)"
            raise ConfigError("hydra.sweeper.params", self._params, why)
        self._how = [o for o in space.constants if not changes_numbers(split(o)[0])]
        constants = tuple(o for o in space.constants if o not in self._how)
        if self._settings.storage is not None:
            self._how.append(f"sweep.search.storage={quoted(self._settings.storage)}")
        if space.seeds and self._settings.seeds:
            raise ConfigError(
                "hydra.sweeper.seeds", self._settings.seeds, "the command gives several values of seed too"
            )
        self._space = replace(space, constants=constants)
        self._seeds = space.seeds or tuple(self._settings.seeds or [self._config().seed])
        twin = uniform_twin(self._config(), constants, [])
        apart = varying_keys([constants, twin]) if self._wants_uniform() else []  # as mult=1 sets the twins apart
        self._keys = tuple(dict.fromkeys([*apart, *(key.lstrip("+") for key in space.searched), "seed"]))
        return list(before.points) if before else []

    def swept(self, points: Sequence[Point], before: SweepManifest | None) -> Sequence[str]:
        """What is searched, and the seed."""
        return self._keys

    def _wants_uniform(self) -> bool:
        return self.config.sweep.baseline is not False

    def _config(self) -> RunConfig:
        """The config of the constants; raises what is wrong with it."""
        found = self.checked(self._space.constants)
        if isinstance(found, LwexpError):
            raise found
        return found

    def _announce(self, before: SweepManifest | None) -> None:
        trials = f"{self._settings.n_trials} trials of {', '.join(self._space.searched)}"
        print(f"search in {self.folder}: {trials}, {self._batch()} at a time", flush=True)
        self._told = {point.number: outcome.status for point, outcome in self.outcomes().items()}

    def _batch(self) -> int:
        return self._settings.n_jobs or min(parallel_jobs(self.config) or _WIDEST, _WIDEST)

    # ------------------------------------------------------------------------------------------------------- running

    def _search(self) -> list[Outcome]:
        from .loop import Search

        arms = self._arms()
        self._trial_runs = sum(arm.trials for arm in arms) * len(self._seeds)
        loop = Search(
            arms, seeds=self._seeds, batch=self._batch(), first_number=self._first_unused(), run=self._run_new
        )
        loop.run()
        self._tell(arms)
        self._run_new(self._repeats(arms))
        return list(self.outcomes().values())

    def _run_new(self, points: Sequence[Point]) -> list[Outcome]:
        """Run points after they have their place in the plan of work, where their jobs look them up."""
        known = {point.number for point in self.work.points}
        new = [point for point in points if point.number not in known]
        if new:
            self.work = replace(self.work, points=(*self.work.points, *new))
            self.work.save(self.folder)
            if self.parent is not None:
                self.parent.tell_plan(self.folder, self.work)
        for point in new:
            wrong = self.checked(point.overrides)
            if isinstance(wrong, LwexpError):
                self._refuse(point, wrong)
        return self.run_points(points)

    def _arms(self) -> list[Arm]:
        """The search, and that of the best uniform rates where it leaves anything to draw."""
        from .loop import Arm
        from .study import Study, open_storage

        chosen, space, config = self._settings, self._space, self._config()
        storage = open_storage(chosen.storage, self.folder)
        shared = chosen.storage is not None
        name = chosen.study_name or (self.folder.name if shared else "search")

        def study(name: str, place: int) -> Study:
            return Study(
                storage,
                name,
                direction=chosen.direction,
                sampler=self._samplers[place],
                pruner=(chosen.pruner.name, self._pruner),
                owner=self.folder.name if shared else None,
            )

        layerwise = [key for key in space.searched if is_layerwise(key.lstrip("+"))]
        uniform = not layerwise and is_uniform(config, space.constants, self._keys)
        arms = [Arm(study(name, 0), space, chosen.n_trials, self._keys, uniform=uniform)]
        rest = {key: drawn for key, drawn in space.searched.items() if key not in layerwise}
        if not uniform and rest and chosen.uniform_trials and self._wants_uniform():
            rival = replace(space, searched=rest, constants=uniform_twin(config, space.constants, self._keys))
            arms.append(Arm(study(f"{name}-uniform", 1), rival, chosen.uniform_trials, self._keys, uniform=True))
        return arms

    def _repeats(self, arms: Sequence[Arm]) -> list[Point]:
        """The best settings over seeds and their uniform twins, at their old places if they were run before."""
        jobs = self._best_jobs(arms)
        configs = [(job, found) for job in jobs if isinstance(found := self.checked(job), RunConfig)]
        twins = missing_twins(configs, self._keys, self._identity) if self._wants_uniform() else []
        uniform = {*twins, *(job for job, config in configs if is_uniform(config, job, self._keys))}
        places = {self._identity(p.overrides): p.number for p in self.work.points if p.tags.get(_PHASE) == "repeat"}
        unused = itertools.count(self._first_unused())
        points: dict[int, Point] = {}
        for job in (*jobs, *twins):
            identity = self._identity(job)
            if identity not in places:
                places[identity] = next(unused)
            points.setdefault(
                places[identity],
                Point(
                    places[identity],
                    job,
                    values_of(job, self._keys),
                    arm="uniform" if job in uniform else "layerwise",
                    baseline=job in twins,
                    tags={_PHASE: "repeat"},
                ),
            )
        return list(points.values())

    def _best_jobs(self, arms: Sequence[Arm]) -> list[tuple[str, ...]]:
        """The best settings of the search, and the best uniform one, with each seed."""
        wanted = self._settings.repeat
        shared = sorted({*self._seeds}.intersection(wanted.seeds))
        if shared and wanted.best:
            print(f"note: repeat.seeds has {shared} of the search, which chose settings also for their luck with them")
        return [
            (*arm.space.constants, *(f"{key}={value}" for key, value in trial.values.items()), f"seed={seed}")
            for arm, count in zip(arms, (wanted.best, min(wanted.best, 1)), strict=False)
            for trial, _ in arm.study.best(count)
            for seed in wanted.seeds
        ]

    def _first_unused(self) -> int:
        return max((point.number + 1 for point in self.work.points), default=0)

    # -------------------------------------------------------------------------------------------------------- ending

    def _tell(self, arms: Sequence[Arm]) -> None:
        """What was found, for people and, as search.json, for programs."""
        from .summary import as_json, text

        path = self.folder / "search.json"
        path.write_text(redaction.redact(json.dumps(as_json(arms), indent=1)), encoding="utf-8")
        print(f"\n{redaction.redact(text(arms))}\n", flush=True)
        if self.parent is not None:
            self.parent.keep(path)

    def total(self) -> int:
        """All jobs, with those that have not been drawn yet."""
        repeats = [point for point in self.work.points if point.tags.get(_PHASE) == "repeat"]
        return len(self.work.points) if repeats else max(self._trial_runs, len(self.work.points))

    def bad(self, outcomes: Mapping[Point, Outcome]) -> list[Outcome]:
        """A trial that breaks is a finding, unless all do; a mistake in what was asked for is none."""
        trials = {point: outcome for point, outcome in outcomes.items() if point.tags.get(_PHASE) == "search"}
        found_any = any(outcome.status == "FINISHED" for outcome in trials.values())
        return super().bad({
            point: outcome
            for point, outcome in outcomes.items()
            if point not in trials or outcome.exit_code == 2 or not found_any
        })  # fmt: skip
