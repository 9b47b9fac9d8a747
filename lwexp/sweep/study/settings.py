"""The options of `hydra/sweeper=study`, checked before anything is trained."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from lwexp.config.defaults import CONF
from lwexp.config.section import Positive, Section
from lwexp.config.validation import validate
from lwexp.errors import ConfigError, UnknownNameError

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[list[Seed], Field(min_length=1)]
Words = str | list[str]


class StudySettings(Section):
    """All of `hydra.sweeper`."""

    arms: dict[str, Words]
    only: list[str]
    settings: Words
    lr: Annotated[list[Positive], Field(min_length=1)]
    widen: Annotated[int, Field(ge=0)]
    reference: str
    primary: list[str]
    search_seeds: Seeds
    seeds: Seeds
    finals: Literal["arms", "settings"]


def check_study(values: Mapping[str, Any]) -> StudySettings:
    """The typed settings. Raises `ConfigError` for the first key that is wrong."""
    found = validate(StudySettings, values, "hydra.sweeper.")
    if not found.arms:
        known = ", ".join(sorted(path.stem for path in (CONF / "study").glob("*.yaml")))
        raise ConfigError("study", "null", f"which arms? Name a study: {known}; or give hydra.sweeper.arms")
    for key, names in {"reference": [found.reference], "primary": found.primary, "only": found.only}.items():
        for name in names:
            if name not in found.arms:
                raise UnknownNameError(f"hydra.sweeper.{key}", name, found.arms, "no such arm")
    for key, seeds in {"search_seeds": found.search_seeds, "seeds": found.seeds}.items():
        if twice := [seed for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]:
            raise ConfigError(f"hydra.sweeper.{key}", twice[0], "is given twice, but a seed is run once")
    if sorted({*found.lr}) != found.lr:
        raise ConfigError("hydra.sweeper.lr", found.lr, "must rise from value to value")
    if not found.only:
        return found
    kept = {found.reference, *found.only}
    arms = {name: words for name, words in found.arms.items() if name in kept}
    return found.model_copy(update={"arms": arms, "primary": [name for name in found.primary if name in kept]})


def words_of(value: Words, key: str) -> list[str]:
    """The overrides that a text holds, separated by blanks and quoted as for a shell. Raises `ConfigError`."""
    try:
        return shlex.split(value) if isinstance(value, str) else list(value)
    except ValueError as error:
        raise ConfigError(key, value, f"cannot be read: {error}") from None
