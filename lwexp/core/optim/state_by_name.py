"""An optimizer's state paired with parameters by their names; torch pairs it by position and never looks at names."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lwexp.errors import ConfigError
from lwexp.formatting import few

log = logging.getLogger(__name__)
# How a step is computed, not what comes out: these follow the machine.
_IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")


def names_in(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> list[str]:
    """The names of the optimizer's parameters, in its order; raises `ConfigError` for one not among `parameters`."""
    names = {id(p): name for name, p in parameters.items()}
    members = [p for group in optimizer.param_groups for p in group["params"]]
    if any(id(p) not in names for p in members):
        raise ConfigError("optimizer", type(optimizer).__name__, "has parameters that are not in the plan")
    return [names[id(p)] for p in members]


def named_state(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Any]:
    """`optimizer.state_dict()` with the `names` of its parameters in its groups, as `param_names`."""
    state = optimizer.state_dict()
    groups = [{**group, "param_names": [names[i] for i in group["params"]]} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


class LoadedState(NamedTuple):
    """What had no counterpart when an optimizer's state was loaded by name."""

    missing: tuple[str, ...]  # parameters of the optimizer without saved state: they start fresh
    unexpected: tuple[str, ...]  # parameters with saved state that the optimizer does not have


def saved_names(state: Mapping[str, Any]) -> list[str]:
    """The names of a `state_dict()`'s parameters, in its order; raises `ConfigError` if a group lacks them."""
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    if not isinstance(groups, list) or "state" not in state:
        raise ConfigError("state", type(state).__name__, "must be the state_dict() of an optimizer")
    names: dict[int, str] = {}
    for i, group in enumerate(groups):
        if len(group.get("param_names", ())) != len(group["params"]):
            why = "has no param_names; save plan.optimizer_state(optimizer), or make the optimizer of named parameters"
            raise ConfigError("state", f"param_groups[{i}]", why)
        names.update(zip(group["params"], group["param_names"], strict=True))
    if sorted(names) != [*range(len(names))] or len({*names.values()}) != len(names):
        raise ConfigError("state", "param_names", "must name each parameter once")
    return [names[i] for i in range(len(names))]


def load_by_name(
    optimizer: torch.optim.Optimizer, names: Sequence[str], state: Mapping[str, Any], *, strict: bool
) -> LoadedState:
    """Load the state of each parameter by its name; options of the groups stay the optimizer's own.

    With `strict`, a difference between the names, or between the shapes of a parameter and its state, is a
    `ConfigError`, and nothing is loaded.
    """
    theirs = saved_names(state)
    having = {theirs[i] for i in state["state"] if isinstance(i, int)}
    found = LoadedState(
        tuple([name for name in names if name not in having]) if having else (),
        tuple([name for name in theirs if name in having and name not in {*names}]),
    )
    if strict and any(found):
        parts = [f"{what} {few(which)}" for what, which in zip(("lacks", "has also"), found, strict=True) if which]
        raise ConfigError("state", "param_names", f"{'; '.join(parts)} (strict=False takes what fits)")
    parameters = dict(zip(names, chain.from_iterable(g["params"] for g in optimizer.param_groups), strict=True))
    for i, name in enumerate(theirs):
        for value in state["state"].get(i, {}).values() if name in parameters else ():
            if (
                isinstance(value, Tensor)
                and value.ndim
                and value.ndim == parameters[name].ndim
                and (value.shape != parameters[name].shape)
            ):
                why = f"the state of {name} is {[*value.shape]}, the parameter {[*parameters[name].shape]}"
                raise ConfigError("state", name, why)
    nameless = [{key: value for key, value in g.items() if key != "param_names"} for g in state["param_groups"]]
    load_optimizer(optimizer, names, {**state, "param_groups": nameless}, theirs, remap=True)
    return found


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    names: Sequence[str],
    saved: Mapping[str, Any],
    saved_names: Sequence[str],
    *,
    remap: bool,
) -> None:
    """Continue from `saved`, a `state_dict()` whose parameters were called `saved_names`, in its order.

    `names` are those of the optimizer's own. Options of the groups come from `saved`, except with `remap`: then the
    optimizer's own stay, and parameters that `saved` lacks start fresh.
    """
    fresh = optimizer.state_dict()
    positions = {name: i for i, name in enumerate(saved_names)}
    state: dict[Any, Any] = {key: value for key, value in saved["state"].items() if not isinstance(key, int)}
    groups = []
    for group in fresh["param_groups"]:
        olds = [_group_of(saved, positions[names[i]]) for i in group["params"] if names[i] in positions]
        old = max(olds, key=olds.count) if olds else {}  # that most of its parameters come from
        unlike = _unlike(group, old) if remap else []
        if unlike:
            log.warning("optimizer.%s has changed, so the group %s starts fresh", unlike[0], group.get("name"))
        for i in group["params"]:
            position = positions.get(names[i])
            if position in saved["state"] and not unlike:
                state[i] = saved["state"][position]
        own = {key: group[key] for key in (group if remap else ("params", *_IMPLEMENTATION)) if key in group}
        groups.append(copy.deepcopy({**old, **own}))  # groups of one old group share none of its tensors
    optimizer.load_state_dict({**saved, "state": state, "param_groups": groups})
    for i, parameter in enumerate(chain.from_iterable(group["params"] for group in optimizer.param_groups)):
        if i in state:
            for key, value in state[i].items():
                _restore(optimizer.state[parameter], key, value, parameter)


def _group_of(saved: Mapping[str, Any], position: int) -> dict[str, Any]:
    return next(group for group in saved["param_groups"] if position in group["params"])


def _unlike(group: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """Options that decide which tensors the optimizer keeps (amsgrad, centered, momentum) and have changed."""
    return [
        key
        for key, value in group.items()
        if key in old
        and key not in _IMPLEMENTATION
        and (isinstance(value, bool) or key == "momentum")
        and bool(value) != bool(old[key])
    ]


def _restore(state: Any, key: Any, saved: Any, parameter: Tensor) -> None:
    """The type that was saved, torch casts most of it to that of the parameter; and the parameter's order in memory.

    A fused kernel walks through parameter and state side by side, whatever order in memory each is in.
    """
    if not isinstance(saved, Tensor) or not isinstance(state[key], Tensor):
        return
    if state[key].dtype != saved.dtype:
        state[key] = saved.to(state[key].device)
    if saved.shape == parameter.shape and state[key].stride() != parameter.stride():
        state[key] = torch.empty_like(parameter, dtype=saved.dtype).copy_(state[key])
