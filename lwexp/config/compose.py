"""Settings: what Hydra composed, checked as a whole before anything is built."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lwexp.errors import ConfigError, LwexpError, UnknownNameError, UnknownOptionError
from lwexp.formatting import one_line

from .interpolated import typed
from .keys import with_one_mult
from .overrides import key_of, keys_below
from .schema import CallbackConfig, OpenSection, PhaseConfig, RunConfig
from .validation import check

if TYPE_CHECKING:
    from omegaconf import DictConfig

_COUNTS = (1, 2, 3, 5, 8, 20, 100)  # of groups, for which the scales of a decay are looked at


def settings(config: DictConfig) -> RunConfig:
    """The checked, typed config of what Hydra composed; everything that needs neither data nor model is refused here.

    Entries of `lr_overrides` and `policies` given on the command line come before those of a file.
    """
    values = plain(config)
    for section in ("lr_overrides", "policies"):
        entries = values.get(section)
        if isinstance(entries, dict):
            given = keys_below(section, _task_overrides(config))
            values[section] = {key: entries[key] for key in sorted(entries, key=lambda k: str(k) not in given)}
    checked = check(values)
    if checked.unfreeze.every_epochs and checked.unfreeze.every_steps:
        raise ConfigError("unfreeze", "every_epochs and every_steps", "give one of the two")
    _check_sections(checked)
    return checked


def plain(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain values, without Hydra's own part; what interpolations gave is typed.

    The multiplier is `mult`, however it was given. Raises `ConfigError` for two different ones.
    """
    from omegaconf import OmegaConf

    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    values = typed(OmegaConf.to_container(own, resolve=True), OmegaConf.to_container(own, resolve=False), RunConfig)
    values = {str(key): value for key, value in values.items()}
    folded = with_one_mult(values)
    if folded.get("mult") != values.get("mult") and "mult" in map(key_of, _task_overrides(config)):
        why = f"is another name of mult, which is {values['mult']}; give one of them"
        raise ConfigError("decay.mult", folded["mult"], why)
    return folded


def callback(section: CallbackConfig, name: str) -> Any:
    """The object that `callbacks.<name>` describes. Raises `ConfigError` for what its class refuses."""
    found = _import_with(str(section.target), section.options, f"callbacks.{name}", "class")
    try:
        return found(**section.options)
    except Exception as error:  # a class of the user's may raise anything
        why = f"cannot be made: {one_line(error, kind=True)}"
        raise ConfigError(f"callbacks.{name}", section.target, why) from error


def choice(section: OpenSection, group: str, options_apart: bool = False) -> tuple[Any, dict[str, Any]]:
    """A name and its options, or a callable of the user's own: a function with its options bound, or an instance."""
    options = dict(section.options)
    if "kind" in options:  # policy=torch: `name` is the scheduler's class
        return options.pop("kind"), {"name": section.name, **options}
    if section.target is None:
        if section.name is None:
            raise ConfigError(f"{group}.name", None, "must be given")
        return section.name, options
    return _own(section.target, options, group, options_apart)


def policy_choice(written: str | OpenSection, key: str) -> dict[str, Any]:
    """A policy below `policies` or `phases` as `lwexp.core.phases.policy_of` takes it."""
    if isinstance(written, str):
        return {"kind": written}
    policy, options = choice(written, key)
    return {"kind": policy, **options}


def phase_choices(phases: Sequence[PhaseConfig]) -> list[dict[str, Any]]:
    """The phases as `Plan.schedule` takes them."""
    return [
        {
            **phase.model_dump(exclude={"policy", "policies"}),
            "policy": None if phase.policy is None else policy_choice(phase.policy, f"phases.{i}.policy"),
            "policies": policy_choices(phase.policies or {}, f"phases.{i}.policies"),
        }
        for i, phase in enumerate(phases)
    ]


def policy_choices(policies: Mapping[str, str | OpenSection], key: str = "policies") -> dict[str, dict[str, Any]]:
    """The policies of patterns as `Plan.schedule` takes them."""
    return {pattern: policy_choice(written, f"{key}.{pattern}") for pattern, written in policies.items()}


def split_patterns(config: RunConfig) -> dict[str, str]:
    """Patterns whose parameters need groups of their own, since they move otherwise than the rest, and their keys."""
    keys = {pattern: "unfreeze.at" for pattern in config.unfreeze.at}
    for i, phase in enumerate(config.phases):
        trained = [phase.train] if isinstance(phase.train, str) else phase.train or []
        keys |= {pattern: f"phases.{i}.policies" for pattern in phase.policies or {}}
        keys |= {pattern: f"phases.{i}.train" for pattern in trained}
    return {pattern: "policies" for pattern in config.policies} | keys


def has_uniform_rates(config: RunConfig) -> bool:
    """Whether every part of any network trains at the base rate from the first step on."""
    if config.freeze or config.lr_events or config.unfreeze.every_epochs or config.unfreeze.every_steps:
        return False
    if config.unfreeze.at or config.policies or any(phase.train or phase.policies for phase in config.phases):
        return False
    name, options = choice(config.decay, "decay")
    if name == "linear":
        options = {"mult": config.mult, **options}
    rates = [*config.lr_overrides.values(), *(options.get("rates") or {}).values()]
    if any(rate != config.lr for rate in rates):
        return False
    from lwexp.core.decay import make_decay

    scale = make_decay(name, options)
    try:
        return all(math.isclose(scale(i, count), 1, rel_tol=1e-7) for count in _COUNTS for i in range(count))
    except LwexpError:  # a function of the user's own, for other numbers of groups
        return False


def _own(target: str, options: dict[str, Any], group: str, options_apart: bool) -> tuple[Any, dict[str, Any]]:

    key = f"{group}._target_"
    shared: dict[str, Any] = {}
    if group.startswith(("policy", "policies.", "phases.")):
        from lwexp.core.policy import COMMON

        shared = {name: options.pop(name) for name in list(options) if name in COMMON}
    found = _import_with(target, options, group, "class or function")
    if isinstance(found, type):
        try:
            return found(**options), shared
        except (TypeError, ValueError) as error:
            raise ConfigError(key, target, one_line(error, kind=True)) from error
    if options_apart:
        return found, options
    return (_named_partial(found, options) if options else found), shared


def _import_with(target: str, options: Mapping[str, Any], section: str, what: str) -> Callable[..., Any]:
    """What `target` names, whose arguments `options` must be."""
    from .targets import import_object

    found = import_object(target, f"{section}._target_", what)
    parameters = inspect.signature(found).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name, value in options.items():
            if name not in parameters:
                raise UnknownOptionError(f"{section}.{name}", value, parameters, f"{target} has no such argument")
    return found


def _named_partial(function: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    bound = functools.partial(function, **options)
    functools.update_wrapper(bound, function)
    return bound


def _check_sections(config: RunConfig) -> None:
    """Names and options of the open sections, as far as they can be checked without a model."""
    from lwexp.core.decay import make_decay
    from lwexp.core.grouping import GROUPINGS
    from lwexp.core.options import check_options
    from lwexp.core.phases import policy_of
    from lwexp.core.policy import make_policy

    decay, options = choice(config.decay, "decay")
    make_decay(decay, {"mult": config.mult, **options} if decay == "linear" else options)
    grouping, options = choice(config.grouping, "grouping", options_apart=True)
    if isinstance(grouping, str):
        if grouping not in GROUPINGS:
            raise UnknownNameError("grouping", grouping, GROUPINGS, "no such grouping")
        check_options(GROUPINGS[grouping], options, "grouping")
    policy, options = choice(config.policy, "policy")
    make_policy(policy, options, lr=config.lr, steps=10**12)  # how long the training is, only the data tell
    for i, phase in enumerate([None, *phase_choices(config.phases)]):
        base = "" if phase is None else f"phases.{i - 1}."
        own = policy_choices(config.policies) if phase is None else phase["policies"]
        found = {f"{base}policies.{pattern}": each for pattern, each in own.items()}
        if phase is not None and phase["policy"] is not None:
            found[f"{base}policy"] = phase["policy"]
        for key, written in found.items():
            make_policy(*policy_of(written, key), lr=config.lr, steps=10**12, key=key)
    for name, callback in config.callbacks.items():
        _import_with(str(callback.target), callback.options, f"callbacks.{name}", "class")
    if config.optimizer.name is None:
        raise ConfigError("optimizer.name", None, "must be given")


def _task_overrides(config: DictConfig) -> list[str]:
    """What the command line gives of the composed `config`, without Hydra's own options."""
    from hydra.core.hydra_config import HydraConfig

    if "hydra" in config:
        return list(config.hydra.overrides.task)
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
