"""Scheduled weight decay and momentum in an optimizer's param groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from lwexp.errors import ConfigError

from .value_policy import Kind, ValuePolicy

# The own weight decay of a group; saved with the optimizer's state, as torch's `initial_lr`.
_OWN = "initial_weight_decay"


def check(optimizer: Optimizer, policies: Sequence[ValuePolicy], planned: float | None) -> None:
    """Raise `ConfigError` for a schedule of what the optimizer does not have; note the groups' own weight decay.

    `planned`: the plan's weight decay.
    """
    name = type(optimizer).__name__
    for policy in policies:
        key = f"{policy.kind}_policy"
        if policy.kind == "momentum":
            lacking = [g for g in optimizer.param_groups if "momentum" not in g and "betas" not in g]
            if lacking:
                raise ConfigError(key, policy.name, f"the optimizer {name} has neither momentum nor betas")
            continue
        for group in optimizer.param_groups:
            if "weight_decay" in group:
                group.setdefault(_OWN, group["weight_decay"])
        if not own_value(optimizer, "weight_decay", planned):
            raise ConfigError(key, policy.name, f"the optimizer {name} has no weight decay; its weight_decay is 0")


def own_value(optimizer: Optimizer, kind: Kind, planned: float | None) -> float:
    """The value of the optimizer without a schedule; of weight decay, where that is 0, the largest of its groups.

    Where the groups' weight decay is made from that of the plan, it is the `planned` one, in any optimizer.
    """
    defaults: Mapping[str, Any] = optimizer.defaults
    if kind == "momentum":
        return float(defaults["momentum"] if "momentum" in defaults else defaults.get("betas", (0.0,))[0])
    own = planned or float(defaults.get("weight_decay") or 0.0)
    return own or max((float(group.get(_OWN, 0.0)) for group in optimizer.param_groups), default=0.0)


def apply(
    optimizer: Optimizer, values: Mapping[str, float], positions: Sequence[int | None], planned: float | None
) -> None:
    """Set the `values` in the groups that belong to the plan; weight decay keeps the ratios of their own."""
    base = own_value(optimizer, "weight_decay", planned) if "weight_decay" in values else 0.0
    for group, position in zip(optimizer.param_groups, positions, strict=True):
        if position is None:
            continue
        if "weight_decay" in values and "weight_decay" in group:
            own = group.setdefault(_OWN, group["weight_decay"])
            group["weight_decay"] = values["weight_decay"] * (own / base) if own != base else values["weight_decay"]
        if "momentum" in values and "momentum" in group:
            group["momentum"] = values["momentum"]
        elif "momentum" in values:
            group["betas"] = (values["momentum"], *group["betas"][1:])
