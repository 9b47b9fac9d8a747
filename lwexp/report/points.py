"""What sets runs of any origin apart: the fewest settings that tell them from each other, and their seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lwexp.config.keys import GROUPS, is_data
from lwexp.formatting import few
from lwexp.tracking.reader import StoredRun

from .arms import SEEDS, settings_by_run, varying_keys

_FIRST = ("mult", "decay.name", "lr", "grouping.name", "policy.name", "optimizer.name", "model.name", "data.name")
_LISTED = 6

Point = dict[str, str]


def points_of(children: Sequence[StoredRun]) -> dict[str, Point]:
    """By run, its values of the fewest settings that tell runs apart which differ in more than the seed.

    A setting that follows from others is omitted. Runs without params are omitted.
    """
    known = settings_by_run(children)
    varying = sorted(varying_keys(known), key=lambda key: (_place(key), key.count("."), key))
    kept: list[str] = []
    parts = 1
    for key in varying:
        split = len({tuple(params.get(each) for each in (*kept, key)) for params in known.values()})
        if split > parts:
            kept.append(key)
            parts = split
    return {run: {_typed(key): params[key] for key in kept if key in params} for run, params in known.items()}


def seed_of(run: StoredRun) -> str:
    """The run's seed; where it has none, a word of its own, so that it is paired with no other."""
    return next((run.params[key] for key in SEEDS if key in run.params), f"run {run.id[:8]}")


def cautions(children: Sequence[StoredRun]) -> list[str]:
    """What limits the comparison of such runs, in sentences."""
    known, said = settings_by_run(children), []
    varying = varying_keys(known)
    models = sorted({key for key in varying if key.partition(".")[0] == "model"})
    if models:
        values = sorted({params.get("model.name", params.get(models[0], "")) for params in known.values()})
        said.append(
            f"The runs have different models ({few(_words(models[0], values), _LISTED)}): "
            "a difference to uniform rates is between runs of one model."
        )
    if any(is_data(key) for key in varying):
        said.append("A difference to uniform rates is between runs with the same data and split.")
    unknown = [child for child in children if child.id not in known]
    if unknown:
        said.append(f"{len(unknown)} without params cannot be assigned to a setting: {few(_names(unknown), _LISTED)}.")
    seedless = [child for child in children if child.id in known and not any(key in child.params for key in SEEDS)]
    if seedless:
        said.append(
            f"{len(seedless)} of {len(children)} runs have no param {SEEDS[0]}: they count as repetitions, but cannot "
            "be paired with others, and what cannot be paired is not tested."
        )
    return said


def _words(key: str, values: Iterable[str]) -> list[str]:
    return [value or f"no {key}" for value in values]


def _names(runs: Iterable[StoredRun]) -> list[str]:
    return [run.name for run in runs]


def _place(key: str) -> int:
    return _FIRST.index(key) if key in _FIRST else len(_FIRST)


def _typed(key: str) -> str:
    """The key as a command line has it: a section's name is the section's choice."""
    section, _, name = key.partition(".")
    return section if name == "name" and section in GROUPS else key


def swept(points: Mapping[str, Point]) -> tuple[str, ...]:
    """The keys of `points`, in their order."""
    return tuple(dict.fromkeys(key for point in points.values() for key in point))
