"""From the arms of a study file to settings: every combination of an arm's values, with the options of all arms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.errors import HydraException, OverrideParseException

from lwexp.config import recipes
from lwexp.config.quoting import unparsed
from lwexp.errors import ConfigError, LwexpError
from lwexp.formatting import one_line
from lwexp.sweep.points import effective, expand, split, values_of, varying_keys

from .plan import Setting, refined, typed
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
    shared = _shared(study, common, planner)
    by_arm = {}
    for name, words in study.arms.items():
        jobs = _jobs(name, words_of(words, f"hydra.sweeper.arms.{name}"), planner)
        _check_kept(name, jobs, common)
        by_arm[name] = [(*_without(shared, job), *job) for job in jobs]
    grid = [typed(rate) for rate in study.lr]
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
                raise _blamed(config, arm, study, (common, effective([*shared, *common])), planner)
            found.append(Setting(arm, name, overrides, rates, config.data.train_size))
    return found


def check_the_same(common: Sequence[str], before: Sequence[str], planner: Planner) -> None:
    """Refuse an option with which all runs of a resumed study would be others than those that there are."""
    values = dict(map(split, effective(before)))
    known = {planner.identity((override,)) for override in effective(before)}
    for override in effective(common):
        if planner.identity((override,)) not in known:
            key, value = split(override)
            was = f"has {key}={values[key]}" if key in values else "was started without it"
            raise ConfigError(key, value, f"all runs would be others, as the study {was}; start another one with it")


def _shared(study: StudySettings, common: Sequence[str], planner: Planner) -> tuple[str, ...]:
    """The options of all arms, one value each."""
    for override in planner.parse(common):
        if override.is_sweep_override():
            why = "has several values; only arms vary in a study, as in hydra.sweeper.arms.layers='mult=0.5,0.8'"
            raise ConfigError(override.get_key_element(), override.get_value_string(), why)
    key = "hydra.sweeper.settings"
    jobs = _parsed(words_of(study.settings, key), key, planner)
    if len(jobs) > 1:
        raise ConfigError(key, study.settings, "must have one value of each option; several are for an arm")
    _check_own(key, jobs[0])
    return jobs[0]


def _blamed(
    error: LwexpError, arm: str, study: StudySettings, parts: tuple[Sequence[str], Sequence[str]], planner: Planner
) -> LwexpError:
    """`error` of an arm's config, with the key it comes from; `parts`: the command's options, and with all arms'."""
    common, shared = (planner.config_of((*part, f"lr={typed(study.lr[0])}")) for part in parts)
    if isinstance(common, LwexpError) and str(common) == str(error):
        return common
    if isinstance(shared, LwexpError) and str(shared) == str(error):
        return ConfigError("hydra.sweeper.settings", study.settings, str(error))
    return ConfigError(f"hydra.sweeper.arms.{arm}", study.arms[arm], str(error))


def _check_own(key: str, job: Sequence[str]) -> None:
    own = next((override for override in job if split(override)[0] in _OWN), None)
    if own is not None:
        raise ConfigError(key, own, "an arm fixes all but the base rate and the seed, which the study sets")


def _check_kept(arm: str, jobs: Sequence[Sequence[str]], common: Sequence[str]) -> None:
    """Refuse an option of the command that would replace what `arm` fixes, and by which reports know it."""
    for key, value in map(split, common):
        fixed = [own for job in jobs for name, own in map(split, job) if name == key]
        if any(own != value for own in fixed) and not value.startswith("{"):
            why = f"the arm {arm} fixes it; change hydra.sweeper.arms.{arm}, or omit the option"
            raise ConfigError(key, value, why)


def _jobs(arm: str, words: Sequence[str], planner: Planner) -> list[tuple[str, ...]]:
    """What each setting of an arm fixes."""
    key = f"hydra.sweeper.arms.{arm}"
    jobs = _parsed(words, key, planner)
    for job in jobs:
        _check_own(key, job)
    return jobs


def _parsed(words: Sequence[str], key: str, planner: Planner) -> list[tuple[str, ...]]:
    try:
        jobs = expand(planner.parse(words))
    except LwexpError:  # some are ValueErrors
        raise
    except OverrideParseException as error:
        raise ConfigError(key, " ".join(words), str(unparsed(error.override, []))) from None
    except (HydraException, ValueError) as error:  # such as a range whose step is 0
        raise ConfigError(key, " ".join(words), f"cannot be read: {one_line(error)}") from None
    if not jobs:
        raise ConfigError(key, " ".join(words), "names no value")  # such as a glob that matches nothing
    return jobs


def _without(shared: Sequence[str], job: Sequence[str]) -> list[str]:
    """`shared` without what the recipe of `job` sets itself."""
    name = next((value for key, value in map(split, job) if key == "recipe"), None)
    own = recipes.composed(name) or {}
    return [override for override in shared if split(override)[0].partition(".")[0] not in own]
