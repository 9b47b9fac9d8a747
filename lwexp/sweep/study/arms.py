"""From the arms of a study file to settings: every combination of an arm's values, with the options of all arms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lwexp.config import recipes
from lwexp.errors import ConfigError, LwexpError
from lwexp.sweep.points import effective, expand, split, values_of, varying_keys

from .plan import Setting, refined, shown
from .settings import StudySettings, words_of

if TYPE_CHECKING:
    from lwexp.sweep.planning import Planner

_OWN = ("lr", "seed")  # what the study itself sets


def make_settings(study: StudySettings, common: Sequence[str], planner: Planner) -> list[Setting]:
    """The settings of all arms, with the rates that each tries; `common` are the command's own overrides.

    Raises `ConfigError` for an arm that no config can be made of, or that sets the base rate or the seed.
    """
    for override in common:
        if (key := split(override)[0]) in _OWN:
            own = {"lr": "hydra.sweeper.lr", "seed": "hydra.sweeper.seeds"}[key]
            raise ConfigError(key, override.partition("=")[2], f"is searched or repeated by a study; give {own}=[…]")
    shared = _parsed(words_of(study.settings, "hydra.sweeper.settings"), "hydra.sweeper.settings", planner)[0]
    by_arm = {
        name: _jobs(name, words_of(words, f"hydra.sweeper.arms.{name}"), shared, planner)
        for name, words in study.arms.items()
    }
    grid = [shown(rate) for rate in study.lr]
    trials = max(map(len, by_arm.values())) * len(grid)
    found = []
    for arm, jobs in by_arm.items():
        keys = varying_keys(jobs)
        for job in jobs:
            rates = refined(study.lr, -(-trials // len(jobs))) if arm == study.reference else [*grid]
            name = " ".join(f"{key}={value}" for key, value in values_of(job, keys).items())
            overrides = effective([*job, *common])
            config = planner.config_of((*overrides, f"lr={rates[0]}"))
            if isinstance(config, LwexpError):
                raise ConfigError(f"hydra.sweeper.arms.{arm}", study.arms[arm], str(config))
            found.append(Setting(arm, name, overrides, rates, config.data.train_size))
    return found


def _jobs(arm: str, words: Sequence[str], shared: Sequence[str], planner: Planner) -> list[tuple[str, ...]]:
    """The overrides of each setting of an arm."""
    key = f"hydra.sweeper.arms.{arm}"
    jobs = _parsed(words, key, planner)
    for job in jobs:
        own = next((override for override in job if split(override)[0] in _OWN), None)
        if own is not None:
            raise ConfigError(key, own, "an arm fixes all but the base rate and the seed, which the study sets")
    return [(*_without(shared, job), *job) for job in jobs]


def _parsed(words: Sequence[str], key: str, planner: Planner) -> list[tuple[str, ...]]:
    try:
        return expand(planner.parse(words))
    except LwexpError:
        raise
    except Exception as error:  # Hydra's parser has several
        raise ConfigError(key, " ".join(words), f"cannot be read: {str(error).splitlines()[0]}") from None


def _without(shared: Sequence[str], job: Sequence[str]) -> list[str]:
    """`shared` without what the recipe of `job` sets itself."""
    name = next((value for key, value in map(split, job) if key == "recipe"), None)
    own = recipes.composed(name) or {}
    return [override for override in shared if split(override)[0].partition(".")[0] not in own]
