"""Settings: what Hydra composed, checked as a whole before anything is built."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lwexp.errors import ConfigError, LwexpError, UnknownNameError
from lwexp.formatting import few, one_line

from .data_schema import CustomDataConfig
from .defaults import defaults
from .interpolated import typed
from .keys import IN_ORDER, with_lists, with_one_mult
from .monitored import monitored, with_monitor
from .overrides import key_of, keys_below
from .recipes import with_given_lengths
from .schema import PhaseConfig, RunConfig
from .section import OpenSection
from .targets import import_with, named_partial
from .validation import check

if TYPE_CHECKING:
    from omegaconf import DictConfig

_COUNTS = (1, 2, 3, 5, 8, 20, 100)  # of groups, for which the scales of a decay are looked at


def settings(config: DictConfig) -> RunConfig:
    """The checked, typed config of what Hydra composed; everything that needs neither data nor model is refused here.

    Entries of mappings in which the first match wins, `IN_ORDER`, come from the command line first, then from files.
    """
    values = plain(config)
    for section in IN_ORDER:
        entries = values.get(section)
        if isinstance(entries, dict):
            given = keys_below(section, _task_overrides(config))
            values[section] = {key: entries[key] for key in sorted(entries, key=lambda k: str(k) not in given)}
    _check_scheduler(values.get("policy"))
    checked = check(values)
    if checked.unfreeze.every_epochs and checked.unfreeze.every_steps:
        raise ConfigError("unfreeze", "every_epochs and every_steps", "give one of the two")
    monitored(checked.monitor, checked.monitor_mode)
    _check_sections(checked)
    return checked


def plain(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain values, without Hydra's own part; what interpolations gave is typed.

    The multiplier is `mult`, however it was given. Raises `ConfigError` for two different ones. A plateau that names no
    metric observes `monitor`.
    """
    from omegaconf import OmegaConf

    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    values = typed(OmegaConf.to_container(own, resolve=True), OmegaConf.to_container(own, resolve=False), RunConfig)
    values = with_lists({str(key): value for key, value in values.items()})
    folded, given = with_one_mult(values), set(map(key_of, _task_overrides(config)))
    mults = values.get("mult"), folded.get("mult")
    if "mult" in given and mults[0] is not mults[1] and mults[0] != mults[1]:  # nan, which was given once, is itself
        raise ConfigError("decay.mult", mults[1], f"is another name of mult, which is {mults[0]}; give one of them")
    return with_monitor(with_given_lengths(_with_stem_lr(folded, given), given))


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
    keys = dict.fromkeys(config.unfreeze.at, "unfreeze.at")
    for i, phase in enumerate(config.phases):
        trained = [phase.train] if isinstance(phase.train, str) else phase.train or []
        keys |= dict.fromkeys(phase.policies or {}, f"phases.{i}.policies")
        keys |= dict.fromkeys(trained, f"phases.{i}.train")
    return dict.fromkeys(config.policies, "policies") | keys


def base_weight_decay(config: RunConfig) -> float | None:
    """That of the optimizer, where the plan makes those of the groups from it."""
    if config.weight_decay_mult == 1 and not config.independent_weight_decay:
        return None
    from lwexp.core.optim.registry import default_of

    name = str(config.optimizer.name)
    given: float | None = config.optimizer.options.get("weight_decay", default_of(name, "weight_decay"))
    if not given:
        why = f"optimizer={name} has no weight decay" if given is None else "optimizer.weight_decay is 0"
        if config.weight_decay_mult != 1:
            raise ConfigError("weight_decay_mult", config.weight_decay_mult, why)
        raise ConfigError("independent_weight_decay", True, why)
    return given


def base_rate(config: RunConfig) -> float:
    """`lr`, or that of the recipe as it is published, for its batch size. Raises `ConfigError`."""
    lr = config.recipe.lr if config.lr is None else config.lr
    if lr is None:
        raise ConfigError("lr", None, "must be given, or recipe.lr, from which it follows")
    return lr


def has_uniform_rates(config: RunConfig) -> bool:
    """Whether every part of any network trains at the base rate from the first step on."""
    if config.freeze or config.train or config.lr_events or config.unfreeze.every_epochs or config.unfreeze.every_steps:
        return False
    if config.unfreeze.at or config.policies or any(phase.train or phase.policies for phase in config.phases):
        return False
    if any(factor != 1 for factor in config.lr_mults.values()):
        return False
    rates = [*config.lr_overrides.values(), *(config.decay.options.get("rates") or {}).values()]
    if any(rate != base_rate(config) for rate in rates):
        return False
    return has_equal_scales(config)


def has_equal_scales(config: RunConfig) -> bool:
    """Whether the decay gives every group the same scale, 1."""
    from lwexp.core.measured.lookup import is_measured

    if is_measured(choice(config.decay, "decay")[0]):
        return False
    scale = _decay(config)
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
    found = import_with(target, options, group, "class or function")
    # null is "not given": keys of the choice that `_target_` replaces
    options = {name: value for name, value in options.items() if value is not None or name in _parameters(found)}
    if isinstance(found, type):
        try:
            return found(**options), shared
        except (TypeError, ValueError) as error:
            raise ConfigError(key, target, one_line(error, kind=True)) from error
    if options_apart:
        return found, options
    return (named_partial(found, options) if options else found), shared


def _parameters(found: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(found).parameters)


def _with_stem_lr(values: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
    """`values` where `decay.stem_lr` takes the place of a `mult` or `decay.min_scale` that is only the default."""
    decay = values.get("decay")
    if not isinstance(decay, Mapping) or decay.get("stem_lr") is None or decay.get("_target_") is not None:
        return values
    if decay.get("name") == "linear":
        is_given = "mult" in given or values.get("mult") != defaults()["mult"]
        return values if is_given else {**values, "mult": None}
    is_given = "decay.min_scale" in given or decay.get("min_scale") != defaults(f"decay/{decay['name']}").get(
        "min_scale"
    )
    return values if is_given else {**values, "decay": {**decay, "min_scale": None}}


def _decay(config: RunConfig) -> Callable[[int, int], float]:
    """The decay, as far as it is known without a plan: that of a `stem_lr` is the one over two groups."""
    from lwexp.core.decay import make_decay, with_ends

    name, options = choice(config.decay, "decay")
    if name == "linear":
        mult = config.recipe.mult if config.mult is None else config.mult
        if mult is None and options.get("stem_lr") is None:
            raise ConfigError("mult", None, "must be given, or decay.stem_lr, from which it follows")
        options = {"mult": mult, **options}
    if options.get("stem_lr") is not None:
        options = {key: value for key, value in options.items() if key not in ("mult", "min_scale")}
    return make_decay(name, with_ends(name, options, lr=base_rate(config), count=2))


def _check_decay(config: RunConfig) -> None:
    from lwexp.core.measured.lookup import is_measured, make_rule, takes_mult

    decay, options = choice(config.decay, "decay")
    if not is_measured(decay):
        _decay(config)
    elif isinstance(decay, str):
        given = {} if config.mult is None or not takes_mult(decay) else {"mult": config.mult}
        make_rule(decay, {**given, **options})


def _check_sections(config: RunConfig) -> None:
    """Names and options of the open sections, as far as they can be checked without a model."""
    from lwexp.core.grouping import GROUPINGS
    from lwexp.core.options import check_options
    from lwexp.core.phases import policy_of
    from lwexp.core.policy import make_policy

    _check_decay(config)
    grouping, options = choice(config.grouping, "grouping", options_apart=True)
    if isinstance(grouping, str):
        if grouping not in GROUPINGS:
            raise UnknownNameError("grouping", grouping, GROUPINGS, "no such grouping")
        check_options(GROUPINGS[grouping], options, "grouping")
    policy, options = choice(config.policy, "policy")
    make_policy(policy, options, lr=base_rate(config), steps=10**12)  # how long the training is, only the data tell
    for i, phase in enumerate([None, *phase_choices(config.phases)]):
        base = "" if phase is None else f"phases.{i - 1}."
        own = policy_choices(config.policies) if phase is None else phase["policies"]
        found = {f"{base}policies.{pattern}": each for pattern, each in own.items()}
        if phase is not None and phase["policy"] is not None:
            found[f"{base}policy"] = phase["policy"]
        for key, written in found.items():
            make_policy(*policy_of(written, key), lr=base_rate(config), steps=10**12, key=key)
    for name, callback in config.callbacks.items():
        import_with(str(callback.target), callback.options, f"callbacks.{name}", "class")
    for name, metric in config.metrics.items():
        import_with(str(metric.target), metric.options, f"metrics.{name}", "class")
    if isinstance(config.data, CustomDataConfig):
        import_with(config.data.target, config.data.options, "data", "class or function", ".options")
    if config.optimizer.name is None:
        raise ConfigError("optimizer.name", None, "must be given")
    for key, value in config.tags.items():
        if key.startswith(("lwexp.", "mlflow.")):
            why = "names that begin so belong to lwexp and MLflow; name= and notes= set a run's name and description"
            raise ConfigError(f"tags.{key}", value, why)


def _check_scheduler(policy: object) -> None:
    """Of policy=torch: its options and those of the scheduler, which are one level below, are easily confused."""
    if not isinstance(policy, Mapping) or policy.get("kind") != "torch":
        return
    from lwexp.core.policy import COMMON
    from lwexp.core.torch_policy import schedulers_with, torch_scheduler

    own = {"kind", "name", *COMMON, *(torch_scheduler.__kwdefaults__ or {})}
    named = policy.get("name") not in (None, "???")
    for key, value in policy.items():
        takers = [] if key in own else schedulers_with(str(key))
        if takers and not named:
            chosen = f"policy.name={takers[0]} policy.options.{key}={value}"
            why = f"is an option of the scheduler {few(takers, 3, ' or ')}, and none is named; write {chosen}"
            raise ConfigError(f"policy.{key}", value, why)
        if takers:
            why = f"options of the scheduler are one level below; write policy.options.{key}={value}"
            raise ConfigError(f"policy.{key}", value, why)
    if not named:
        why = "must be given: a class of torch.optim.lr_scheduler, such as StepLR, CosineAnnealingLR or OneCycleLR"
        raise ConfigError("policy.name", "???", why)


def _task_overrides(config: DictConfig) -> list[str]:
    """What the command line gives of the composed `config`, without Hydra's own options."""
    from hydra.core.hydra_config import HydraConfig

    if "hydra" in config:
        return list(config.hydra.overrides.task)
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
