"""Recipes in `make_plan` and the methods of a plan: what the caller does not give is the recipe's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar, cast

from torch import nn

from lwexp.core.options import at_least, whole
from lwexp.core.patterns import KIND, matches
from lwexp.errors import ConfigError

from . import recipe
from .base import Rates, Recipe, weights_of

_Function = TypeVar("_Function", bound=Callable[..., Any])
# What `make_plan` takes by the same name
_OF_THE_PLAN = (
    "freeze", "train", "freeze_mode", "lr_overrides", "lr_mults", "split_groups", "group_options", "no_weight_decay",
    "weight_decay_mult", "independent_weight_decay", "index_from",
)  # fmt: skip
# What `Plan.schedule` takes by the same name
_OF_THE_SCHEDULE = ("policies", "phases", "lr_events", "weight_decay_policy", "momentum_policy")


def found(written: str | Recipe) -> Recipe:
    """The recipe that is written as its name or as itself. Raises `ConfigError`."""
    if not isinstance(written, (str, Recipe)):
        raise ConfigError("recipe", written, "must be a name, or a Recipe")
    return recipe(written) if isinstance(written, str) else written


def fill_plan(make: _Function) -> _Function:
    """`make_plan` whose `recipe` gives the arguments that the caller does not."""

    @wraps(make)
    def call(*args: Any, **given: Any) -> Any:
        model = args[0] if args else given.get("model")
        if given.get("recipe") is None or not isinstance(model, nn.Module):
            return make(*args, **given)
        chosen = found(given.pop("recipe"))
        batch_size = given.pop("batch_size", None)
        if batch_size is not None:
            at_least("batch_size", batch_size := whole("batch_size", batch_size), 1)
        rates = chosen.rates(weights_of(model), batch_size)
        values = _arguments(chosen, rates, given)
        absent = absent_patterns(values.get("lr_mults", {}), model)
        if absent:
            values["lr_mults"] = {key: each for key, each in values["lr_mults"].items() if key not in absent}
        plan = make(*args, **{**given, **values})
        own = [key for key in _arguments(chosen, rates, {}) if key in given and key not in values]
        changed = [f"{key}={getattr(given[key], '__name__', given[key])}" for key in own]
        return replace(plan, recipe=chosen, notes=(*chosen.lines(rates, changed, absent), *plan.notes))

    return cast(_Function, call)


def fill_schedule(make: _Function) -> _Function:
    """`Plan.schedule`: without a policy, the recipe's; so are its phases and the like."""

    @wraps(make)
    def call(self: Any, *args: Any, **given: Any) -> Any:
        if self.recipe is None:
            return make(self, *args, **given)
        policy = args[0] if args else given.pop("policy", None)
        given |= {} if policy is None else {"policy": policy}
        return make(self, **{**_of_schedule(self.recipe, policy is not None, given), **given})

    return cast(_Function, call)


def fill_optimizer(make: _Function) -> _Function:
    """`Plan.optimizer`: without an optimizer, the recipe's."""

    @wraps(make)
    def call(self: Any, *args: Any, **given: Any) -> Any:
        settings = {} if self.recipe is None or args or "optimizer" in given else self.recipe.settings
        name, options = _choice(settings, "optimizer")
        if name is None:
            return make(self, *args, **given)
        if self.weight_decay is not None:
            options.pop("weight_decay", None)
        return make(self, name, **{**options, **given})

    return cast(_Function, call)


def absent_patterns(patterns: Iterable[str], model: nn.Module) -> list[str]:
    """Those that match no parameter: a recipe may name layers that only its own networks have."""
    names = [name for name, _ in model.named_parameters()]
    return [each for each in patterns if not each.startswith(KIND) and not any(matches(each, name) for name in names)]


def split_patterns(settings: Mapping[str, Any]) -> list[str]:
    """The patterns of `settings` whose parameters move otherwise than the rest, and so need groups of their own."""
    found = dict.fromkeys((settings.get("unfreeze") or {}).get("at") or {})
    for phase in settings.get("phases") or ():
        trained = phase.get("train") or []
        found |= dict.fromkeys([*(phase.get("policies") or {}), *([trained] if isinstance(trained, str) else trained)])
    return [*dict.fromkeys(settings.get("policies") or {}), *found]


def _choice(settings: Mapping[str, Any], group: str) -> tuple[Any, dict[str, Any]]:
    section = dict(settings.get(group) or {})
    return section.pop("kind" if "kind" in section else "name", None), section


def _arguments(chosen: Recipe, rates: Rates, given: Mapping[str, Any]) -> dict[str, Any]:
    """What `make_plan` is to be given besides what is given already."""
    settings = chosen.settings
    values: dict[str, Any] = {key: settings[key] for key in _OF_THE_PLAN if key in settings}
    for group in ("grouping", "decay"):
        name, options = _choice(settings, group)
        if name is not None and group not in given:
            values |= {group: name, f"{group}_options": {**options, **(given.get(f"{group}_options") or {})}}
    values |= {key: each for key, each in (("lr", rates.lr), ("mult", rates.mult)) if each is not None}
    if {"mult", "stem_lr"}.intersection(given.get("decay_options") or {}):
        values.pop("mult", None)
    if values.get("weight_decay_mult", 1) != 1 or values.get("independent_weight_decay"):
        values["weight_decay"] = settings["optimizer"]["weight_decay"]
    values["split_groups"] = [*values.get("split_groups", ()), *split_patterns(settings)]
    return {key: each for key, each in values.items() if key not in given or key.endswith("_options")}


def _of_schedule(chosen: Recipe, named: bool, given: Mapping[str, Any]) -> dict[str, Any]:
    settings = chosen.settings
    values = {key: settings[key] for key in _OF_THE_SCHEDULE if key in settings}
    policy, options = _choice(settings, "policy")
    if policy is not None and not named:
        values |= {"policy": policy, **options}
        values = _one_warmup(values, given)
    unfreeze = {key: each for key, each in (settings.get("unfreeze") or {}).items() if each}
    if {"unfreeze_every_steps", "unfreeze_at"}.isdisjoint(given):
        if "every_epochs" in unfreeze and "steps_per_epoch" not in given:
            why = f"must be given: recipe={chosen.name} unfreezes a group every {unfreeze['every_epochs']} epochs"
            raise ConfigError("steps_per_epoch", "???", why)
        if "every_epochs" in unfreeze:
            values["unfreeze_every_steps"] = unfreeze["every_epochs"] * given["steps_per_epoch"]
        values |= {f"unfreeze_{key}": unfreeze[key] for key in ("every_steps", "at") if key in unfreeze}
    return values


def _one_warmup(values: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without the recipe's length of the warm-up where another one is `given`."""
    lengths = {"warmup_steps", "warmup_fraction", "warmup_epochs"}
    return values if lengths.isdisjoint(given) else {key: each for key, each in values.items() if key not in lengths}
