"""Points of a grid that differ only in options which they do not use: one job, so that a grid repeats none."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from lwexp.config.schema import RunConfig
from lwexp.config.unused import Command, unused
from lwexp.formatting import few

from .points import split
from .twins import ConfigOf, Job


@dataclass(frozen=True)
class Merged:
    """The jobs of a grid, each with the points that it stands for, and what they do not use."""

    swept: Collection[str]
    points: dict[Job, list[Job]] = field(default_factory=dict)  # as typed, by the job that is run in their place
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)  # key -> why -> number of points

    def notes(self) -> Iterator[str]:
        """A line for each option that is swept and changes nothing in some of the points."""
        total = sum(map(len, self.points.values()))
        for key, reasons in self.reasons.items():
            for why, count in reasons.items():
                yield f"{key} changes nothing in {count} of {total} points: {why}"
        if total > len(self.points):
            names = [name for job, points in self.points.items() if len(points) > 1 and (name := self._name(job))]
            jobs = "1 job" if len(self.points) == 1 else f"{len(self.points)} different jobs"
            yield f"the {total} points are {jobs}, each is run once" + (f": {few(names, 4)}" if names else "")

    def _name(self, job: Job) -> str:
        return " ".join(override for override in job if split(override)[0] in self.swept)


def merge_unused(jobs: Iterable[Job], swept: Collection[str], config_of: ConfigOf, command: Command) -> Merged:
    """The `jobs` of a grid over the keys `swept`, without those of their overrides that change nothing there."""
    merged = Merged(swept)
    for job in jobs:
        merged.points.setdefault(_reduced(job, swept, config_of, command, merged.reasons), []).append(job)
    return merged


def _reduced(
    job: Job, swept: Collection[str], config_of: ConfigOf, command: Command, reasons: dict[str, dict[str, int]]
) -> Job:
    config = config_of(job)
    if not isinstance(config, RunConfig):
        return job
    idle = unused(config, [key for key, _ in map(split, job) if key in swept], command)
    reduced = tuple(override for override in job if split(override)[0] not in idle)
    if not idle or not isinstance(config_of(reduced), RunConfig):  # a choice whose options are given as well
        return job
    for key, why in idle.items():
        counts = reasons.setdefault(key, {})
        counts[why] = counts.get(why, 0) + 1
    return reduced
