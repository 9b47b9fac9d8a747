"""An optimizer's state paired with parameters by their names; torch pairs it by position and never looks at names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)
# How a step is computed, not what comes out: these follow the machine.
_IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")


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
        groups.append({**old, **own})
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
