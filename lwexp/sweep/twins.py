"""Uniform twins: the run that a layer-wise one is compared with, of the same base rate, seed and rest.

What counts is the composed config, whatever keys or files it came from. The plan of each run says afterwards whether
its rates are uniform (`lwexp.lr.uniform`); reports go by that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence

from lwexp.config.compose import has_uniform_rates
from lwexp.config.keys import USER_KEYED, changes_numbers, flatten, is_layerwise
from lwexp.config.overrides import key_of
from lwexp.config.schema import RunConfig
from lwexp.errors import LwexpError

Job = tuple[str, ...]  # the overrides of one job
Composed = tuple[Job, RunConfig]
ConfigOf = Callable[[Job], RunConfig | LwexpError]

# Layer-wise settings with the override that ends each, also where a file sets it
_RESETS = {
    "lr_overrides": "lr_overrides=null",
    "lr_mults": "lr_mults=null",
    "freeze": "freeze=[]",
    "train": "train=[]",
    "freeze_stats": "freeze_stats=false",
    "lr_events": "lr_events=[]",
    "policies": "policies=null",
    "phases": "phases=[]",
    "unfreeze.every_epochs": "unfreeze.every_epochs=null",
    "unfreeze.every_steps": "unfreeze.every_steps=null",
    "unfreeze.at": "unfreeze.at=null",
}


def layerwise_part(config: RunConfig) -> str:
    """All settings of how rates differ between the parts of a network: equal for jobs that agree in them."""
    return _as_text(config, layerwise=True)


def rest_of(config: RunConfig) -> str:
    """All other settings that change the numbers of a training, the seed and the base rate among them."""
    return _as_text(config, layerwise=False)


def missing_twins(jobs: Iterable[Composed], config_of: ConfigOf) -> list[Job]:
    """The uniform twins that `jobs` lack: one for each seed, base rate and other setting in which they differ."""
    jobs = list(jobs)
    there = {rest_of(config) for _, config in jobs if has_uniform_rates(config)}
    twins = []
    for job, config in jobs:
        if (rest := rest_of(config)) in there:
            continue
        there.add(rest)
        twin = uniform_twin(job, config, config_of)
        if twin is None:
            print(f"note: no uniform twin can be made of {' '.join(job)}: its config leaves no way to equal rates")
        else:
            twins.append(twin)
    return twins


def uniform_twin(job: Job, config: RunConfig, config_of: ConfigOf) -> Job | None:
    """`job` with uniform rates: `mult=1`, or `decay=none` if the decay does not use `mult`; the rest is unchanged.

    None if a file of the user's sets what no override can end.
    """
    linear = ("mult=1", "decay.mult=1") if config.decay.name == "linear" else ()  # the second where a file has that key
    ways: list[tuple[str, ...]] = [(decay,) for decay in linear]
    if config.decay.options.get("stem_lr") is not None:
        ways += [(decay, "decay.stem_lr=null") for decay in linear]  # where a file has that key
    for decay, *more in (*ways, ("decay=none",)):
        twin = (*_uniform(job, config, decay), *more)
        found = config_of(twin)
        if isinstance(found, RunConfig) and has_uniform_rates(found) and rest_of(found) == rest_of(config):
            return twin
    return None


def _uniform(job: Sequence[str], config: RunConfig, decay: str) -> Job:
    needed = [*(reset for key, reset in _RESETS.items() if _sets(config, key)), decay]
    kept: list[str] = []
    for override in job:
        reset = _reset(override, decay)
        if reset is None or (reset and reset not in needed):
            kept.append(override)
        elif reset and reset not in kept:
            kept.append(reset)
    return (*kept, *(reset for reset in needed if reset not in kept))


def _reset(override: str, decay: str) -> str | None:
    """The override to put in the place of one that sets rates apart, empty for nothing; None for another one."""
    key = key_of(override)
    if key == "mult" or key.partition(".")[0] == "decay":
        if key == "decay" and decay != "decay=none" and "{" not in override:
            return None  # decay=linear
        return decay if key == decay.partition("=")[0] else ""
    return next((_RESETS[known] for known in _RESETS if key == known or key.startswith(f"{known}.")), None)


def _sets(config: RunConfig, key: str) -> bool:
    section, _, name = key.partition(".")
    value = getattr(config, section)
    return bool(getattr(value, name) if name else value)


def _as_text(config: RunConfig, *, layerwise: bool) -> str:
    values = flatten(config.model_dump(mode="json"), keep=USER_KEYED)
    return json.dumps(dict(_relevant(values.items(), layerwise)), sort_keys=True)


def _relevant(items: Iterable[tuple[str, object]], layerwise: bool) -> Iterator[tuple[str, object]]:
    for key, value in items:
        if changes_numbers(key) and is_layerwise(key) == layerwise:
            yield key, value
