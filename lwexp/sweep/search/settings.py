"""The options of `hydra/sweeper=optuna`, checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from lwexp.config.section import Count, Section
from lwexp.config.validation import validate

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class SamplerSettings(Section):
    """The sampler: one of Optuna's by its short name, and its keyword arguments."""

    name: str
    seed: Seed | None
    options: dict[str, Any]


class PrunerSettings(Section):
    """The pruner: one of Optuna's by its short name, None for none, and its keyword arguments."""

    name: str | None
    startup_trials: Annotated[int, Field(ge=0)]
    warmup_epochs: Annotated[int, Field(ge=0)]
    options: dict[str, Any]


class RepeatSettings(Section):
    """How many of the best settings are repeated, over which seeds."""

    best: Annotated[int, Field(ge=0)]
    seeds: Annotated[list[Seed], Field(min_length=1)]


class SearchSettings(Section):
    """All of `hydra.sweeper`."""

    n_trials: Count
    n_jobs: Count | None
    params: dict[str, Any] | None
    seeds: Annotated[list[Seed], Field(min_length=1)] | None
    direction: Literal["maximize", "minimize"] | None
    sampler: SamplerSettings
    pruner: PrunerSettings
    uniform_trials: Annotated[int, Field(ge=0)]
    repeat: RepeatSettings
    storage: str | None
    study_name: Annotated[str, Field(min_length=1)] | None


def check_search(values: Mapping[str, Any]) -> SearchSettings:
    """The typed settings; `ConfigError` names the first key that is wrong."""
    return validate(SearchSettings, values, "hydra.sweeper.")
