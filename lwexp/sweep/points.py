"""Points as overrides: the combinations of a grid, which jobs are the same, and what sets them apart."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lwexp.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def expand(overrides: Sequence[Override]) -> list[tuple[str, ...]]:
    """The overrides of each job of a grid, the last key varying fastest; each job means what a run of them means.

    Raises `ConfigError` for a range of values without steps, which is for a search.
    """
    choices: list[list[str]] = []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices.append([text_of(override)])
        elif override.is_discrete_sweep():
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            why = "has no steps that a grid could take; give values, or search with hydra/sweeper=optuna"
            raise ConfigError(key, override.get_value_string(), why)
    return list(dict.fromkeys(effective(job) for job in itertools.product(*choices)))


def text_of(override: Override) -> str:
    """An override without a sweep, as Hydra reads it."""
    if override.is_delete() and override.value() is None:
        return override.get_key_element()
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def effective(job: Iterable[str]) -> tuple[str, ...]:
    """`job` without the overrides that later ones of the same key replace. Mappings add to what is there.

    >>> effective(["lr=0.1", "lr_overrides={fc:0.1}", "lr=0.2", "lr_overrides={conv1:0.2}"])
    ('lr_overrides={fc:0.1}', 'lr=0.2', 'lr_overrides={conv1:0.2}')
    """
    kept: list[str] = []
    for override in job:
        key, _, value = override.partition("=")
        if not value.startswith("{"):
            kept = [earlier for earlier in kept if earlier.partition("=")[0] != key]
        kept.append(override)
    return tuple(kept)


def identity(overrides: Iterable[Override]) -> str:
    """Equal for two jobs that ask for the same, however it was typed (0.9, 0.90; another order)."""
    pairs = [(o.get_key_element(), json.dumps(_plain(o), sort_keys=True)) for o in overrides]
    return json.dumps(sorted(pairs, key=lambda pair: pair[0]))  # mappings of one key are merged in their order


def varying_keys(jobs: Sequence[Sequence[str]], before: Sequence[str] = ()) -> list[str]:
    """The keys whose values differ between `jobs`, or that some lack; those of `before` come first."""
    sets = [_values(job) for job in jobs]
    keys = dict.fromkeys(itertools.chain(before, *sets))
    return [key for key in keys if key in before or len({values.get(key) for values in sets}) > 1]


def split(override: str) -> tuple[str, str]:
    """Key and value of an override; the key without the signs that add or delete it."""
    key, _, value = override.partition("=")
    return key.lstrip("+~"), value


def values_of(job: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """The values of `keys` in `job`, as typed."""
    own = _values(job)
    return {key: own[key] for key in keys if key in own}


def _values(job: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for key, value in map(split, job):
        values[key] = f"{values[key]}+{value}" if key in values and value.startswith("{") else value
    return values


def _plain(override: Override) -> Any:
    value = override.value()
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, (bool, float, str, type(None))) else str(value)
