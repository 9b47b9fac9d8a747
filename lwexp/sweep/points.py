"""Points as overrides: the combinations of a grid, which jobs are the same, and the missing uniform twins."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lwexp.config.keys import is_layerwise
from lwexp.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    from lwexp.config.schema import RunConfig


def expand(overrides: Sequence[Override]) -> list[tuple[str, ...]]:
    """The overrides of each job of a grid, the last key varying fastest; the last override of a key wins.

    Raises `ConfigError` for a range of values without steps, which is for a search.
    """
    choices: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            why = "has no steps that a grid could take; give values, or search with hydra/sweeper=optuna"
            raise ConfigError(key, override.get_value_string(), why)
    return list(itertools.product(*choices.values()))


def identity(overrides: Iterable[Override]) -> str:
    """Equal for two jobs that ask for the same, however it was typed (0.9, 0.90; another order)."""
    return json.dumps(sorted((o.get_key_element(), json.dumps(_plain(o), sort_keys=True)) for o in overrides))


def varying_keys(jobs: Sequence[Sequence[str]], before: Sequence[str] = ()) -> list[str]:
    """The keys whose values differ between `jobs`, or that some lack; those of `before` come first."""
    sets = [dict(split(override) for override in job) for job in jobs]
    keys = dict.fromkeys(itertools.chain(before, *sets))
    return [key for key in keys if key in before or len({values.get(key) for values in sets}) > 1]


def split(override: str) -> tuple[str, str]:
    """Key and value of an override; the key without the signs that add or delete it."""
    key, _, value = override.partition("=")
    return key.lstrip("+~"), value


def values_of(job: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """The values of `keys` in `job`, as typed."""
    own = dict(split(override) for override in job)
    return {key: own[key] for key in keys if key in own}


# ------------------------------------------------------------------------------------------------------- uniform twins


def is_uniform(config: RunConfig, job: Sequence[str], swept: Sequence[str]) -> bool:
    """Whether the decay gives every group the same rate and no `lr_overrides` are swept.

    `lr_overrides` that all jobs share do not count: they are no part of the comparison.
    """
    parts = [key for key in values_of(job, swept) if key.partition(".")[0] == "lr_overrides"]
    decay = config.decay.name
    return not parts and (decay == "none" or (decay == "linear" and config.mult == 1))


def uniform_twin(config: RunConfig, job: Sequence[str], swept: Sequence[str]) -> tuple[str, ...]:
    """`job` with uniform rates: `mult=1`, or `decay=none` if the decay does not use `mult`; the rest is unchanged."""
    linear = config.decay.name == "linear"
    kept: list[str] = []
    placed = False
    for override in job:
        key, section = split(override)[0], split(override)[0].partition(".")[0]
        if key == "mult" and not placed:
            kept, placed = [*kept, "mult=1"], True
        elif key == "mult" or (section == "decay" and not linear) or (key in swept and section == "lr_overrides"):
            continue
        else:
            kept.append(override)
    if not linear:
        return (*kept, "decay=none")
    return tuple(kept if placed else [*kept, "mult=1"])


def missing_twins(
    jobs: Sequence[tuple[tuple[str, ...], RunConfig]], swept: Sequence[str], same: Callable[[Sequence[str]], str]
) -> list[tuple[str, ...]]:
    """The uniform twins that `jobs` lack: one for each seed, base rate and other setting in which they differ.

    `same` maps a job to its `identity`.
    """

    def rest(job: Sequence[str]) -> str:
        return same([override for override in job if not is_layerwise(split(override)[0])])

    there = {rest(job) for job, config in jobs if is_uniform(config, job, swept)}
    twins = []
    for job, config in jobs:
        if rest(job) not in there:
            there.add(rest(job))
            twins.append(uniform_twin(config, job, swept))
    return twins


def _plain(override: Override) -> Any:
    value = override.value()
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, (bool, float, str, type(None))) else str(value)
