"""From the command's overrides and the earlier manifest to points, with the config of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser

from lwexp import redaction
from lwexp.config.compose import has_uniform_rates, settings
from lwexp.config.hydra_errors import or_mistake
from lwexp.config.keys import changes_numbers, is_layerwise
from lwexp.config.overrides import user_overrides
from lwexp.config.schema import RunConfig
from lwexp.errors import LwexpError
from lwexp.experiment.manifest import Arm, Point, SweepManifest

from .merging import merge_unused
from .points import expand, identity, split, values_of, varying_keys
from .trust import Reference, check_secrets, quoted
from .twins import Composed, Job, layerwise_part, missing_twins

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig


class Planner:
    """Plans the points of one sweep. Composes the config of each job once, and keeps it."""

    def __init__(self, config: DictConfig, loader: ConfigLoader) -> None:
        """`config` is that of the sweep."""
        self._config, self._loader = config, loader
        self._run_options: list[str] = []  # overrides of all jobs that change no results, and so belong to no point
        self._composed: dict[Job, RunConfig | LwexpError] = {}
        self._own: set[Job] = set()  # jobs of this command's words, where others come from a file
        self._reference: Reference | None = None  # to which those are held

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Hydra's form of overrides as typed."""
        return OverridesParser.create(config_loader=self._loader).parse_overrides(list(overrides))

    def identity(self, job: Sequence[str]) -> str:
        """Equal for two jobs that ask for the same, however it was typed."""
        return identity(self.parse(redaction.redact_values(list(job))))

    def set_aside(self, overrides: Iterable[str]) -> None:
        """Give `overrides`, which change no results, to every job without making them part of its point."""
        self._run_options += overrides

    def own_words(self, arguments: Sequence[str]) -> list[str]:
        """The command's `arguments` without those by which Hydra takes the config of `from_run`; all jobs have them."""
        words = user_overrides(arguments)
        self.set_aside(argument for argument in arguments if argument not in words)
        return words

    def overrides_of(self, job: Job) -> list[str]:
        """What a job is composed from."""
        return [*self._run_options, *job]

    def distrust(self, before: SweepManifest | None, own: Iterable[Job] = ()) -> None:
        """Refuse code in all jobs but `own`, if the sweep was there `before`: its file holds their settings."""
        if before is not None:
            self._own = set() if self._config.sweep.resume else {*own}
            self._reference = Reference.of(self._config)

    def config_of(self, job: Job) -> RunConfig | LwexpError:
        """The config of a job, or why it is refused. Raises `ConfigError` for a job that must not run at all."""
        if job not in self._composed:
            composed = or_mistake(lambda: self._loader.load_sweep_config(self._config, self.overrides_of(job)))
            if isinstance(composed, LwexpError):
                self._composed[job] = composed
            else:
                if self._reference is not None and job not in self._own:
                    self._reference.check(composed)
                self._composed[job] = or_mistake(partial(self._checked, job, composed))
        return self._composed[job]

    def _config_of_part(self, job: Job) -> RunConfig | LwexpError:
        """The config of a job of this command's words, or of a part of those words."""
        if self._own:
            self._own.add(job)
        return self.config_of(job)

    def _checked(self, job: Job, composed: DictConfig) -> RunConfig:
        if self._reference is not None:
            check_secrets(job)
        return settings(composed)

    def valid(self, jobs: Iterable[Job]) -> list[Composed]:
        """Those of `jobs` whose config is valid, with it."""
        return [(job, found) for job in jobs if isinstance(found := self.config_of(job), RunConfig)]

    def mistakes(self, points: Iterable[Point]) -> dict[Point, LwexpError]:
        """The points whose config cannot be composed or is refused, and why."""
        found = {point: self.config_of(point.overrides) for point in points}
        return {point: error for point, error in found.items() if isinstance(error, LwexpError)}

    def grid(self, arguments: Sequence[str], params: Sequence[str], before: SweepManifest | None) -> SweepManifest:
        """The points that the sweep had, those of the grid of `arguments` and `params`, and the missing uniform twins.

        Raises `ConfigError`.
        """
        overrides = self.parse([*params, *arguments])
        jobs = expand(overrides)
        swept = {o.get_key_element().lstrip("+~") for o in overrides if o.is_sweep_override()}
        constant = [o for o in jobs[0] if split(o)[0] not in swept and not changes_numbers(split(o)[0])]
        self.set_aside(constant)
        jobs = [tuple(o for o in job if o not in constant) for job in jobs]
        self.distrust(before, jobs)
        points = list(before.points) if before else []
        known = {self.identity(point.overrides): i for i, point in enumerate(points)}
        keys = [*swept, *(before.swept if before else ())]
        jobs = self._merged(jobs, swept, known)
        twins = self._twins(self.valid([*(point.overrides for point in points), *jobs]), keys)
        for job in dict.fromkeys([*jobs, *twins]):
            place = known.setdefault(self.identity(job), len(points))
            if place < len(points):
                points[place] = replace(points[place], overrides=job)  # as typed now: secrets are in no file
            else:
                points.append(Point(place, job, baseline=job in twins))
        points = [replace(point, arm=self.arm(point.overrides)) for point in points]
        swept_keys = varying_keys([point.overrides for point in points], before.swept if before else ())
        old = len(before.points) if before else 0
        points[old:] = [_with_values(point, swept_keys) for point in points[old:]]
        return self.manifest(arguments, points, swept_keys, before)

    def manifest(
        self, arguments: Sequence[str], points: Iterable[Point], swept: Sequence[str], before: SweepManifest | None
    ) -> SweepManifest:
        """The manifest of the sweep that the command's overrides `arguments` start or, with `before`, resume."""
        hydra, origin = self._config.hydra, self._config.from_run
        from_run = [] if origin is None else [f"from_run={quoted(str(origin))}"]
        typed = [str(o) for o in hydra.overrides.hydra if split(str(o))[0] not in ("hydra.sweep.dir", "hydra.mode")]
        return SweepManifest(
            points=tuple(points),
            swept=tuple(swept),
            overrides=tuple(redaction.redact(argument) for argument in [*from_run, *arguments]),
            hydra_overrides=tuple(redaction.redact_values(typed)),
            cwd=str(hydra.runtime.cwd) if before is None else before.cwd,
            config_dir=next((str(s.path) for s in hydra.runtime.config_sources if s.provider == "command-line"), ""),
            config_name=str(hydra.job.config_name),
        )

    def arm(self, job: Job) -> Arm:
        """The arm of a job, by its config; the plan of its run says for certain."""
        config = self.config_of(job)
        return "uniform" if isinstance(config, RunConfig) and has_uniform_rates(config) else "layerwise"

    def _merged(self, jobs: Sequence[Job], swept: Collection[str], known: Collection[str]) -> list[Job]:
        """`jobs` without repetitions: options that a point does not use are dropped, unless the sweep has the point."""
        there = [job for job in jobs if self.identity(job) in known]  # of a sweep that an earlier version started
        merged = merge_unused([job for job in jobs if job not in there], swept, self._config_of_part, "job")
        for note in merged.notes():
            print(f"note: {redaction.redact(note)}")
        return [*there, *merged.points]

    def _twins(self, jobs: Sequence[Composed], swept: Sequence[str]) -> list[Job]:
        wanted = self._config.sweep.baseline
        compares = any(map(is_layerwise, swept)) or len({layerwise_part(config) for _, config in jobs}) > 1
        return missing_twins(jobs, self.config_of) if wanted is True or (wanted == "auto" and compares) else []


def _with_values(point: Point, swept: Sequence[str]) -> Point:
    return replace(point, values=redaction.redact_values(values_of(point.overrides, swept)))
