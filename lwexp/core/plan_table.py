"""The table of a plan: its groups with their rates and the settings they were made from; no tensors."""

from __future__ import annotations

import hashlib
import json
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lwexp.errors import ConfigError, UnknownNameError


@dataclass(frozen=True)
class PlanGroup:
    """One row of the plan.

    `index` counts from the head (0), `depth` from the stem (0); the parts of a group that an override split share both.
    `lr` is the absolute rate before any policy, `scale` = lr / base rate. `frozen_names` are the frozen ones of
    `parameter_names`, `optimizer_names` those in the optimizer.
    """

    index: int
    depth: int
    name: str
    scale: float
    lr: float
    parameter_names: tuple[str, ...]
    frozen_names: tuple[str, ...]
    optimizer_names: tuple[str, ...]
    weights: int
    trainable_weights: int
    tied_names: tuple[str, ...] = ()

    @property
    def frozen(self) -> bool:
        """Whether all parameters of the group are frozen."""
        return len(self.frozen_names) == len(self.parameter_names)


@dataclass(frozen=True)
class PlanTable:
    """Groups from the head to the stem, and the settings they were made from; `Plan` adds the parameters."""

    groups: tuple[PlanGroup, ...]
    lr: float
    mult: float
    grouping: str
    decay: str
    index_from: str
    model: str
    freeze_mode: str
    no_weight_decay: bool
    notes: tuple[str, ...]
    undecayed_names: tuple[str, ...]  # with `no_weight_decay`, besides biases and norms
    no_layerwise_rates: str  # where rates were to fall with depth and all weights have one: why, and the ways out

    @cached_property
    def hash(self) -> str:
        """Ten hexadecimal digits that identify groups, rates, order, freezing and what is not decayed."""
        rows = [(g.index, g.name, g.lr, g.parameter_names, g.frozen_names, g.optimizer_names) for g in self.groups]
        undecayed = [self.undecayed_names] if self.undecayed_names else []
        return hashlib.sha256(json.dumps([rows, self.no_weight_decay, *undecayed]).encode()).hexdigest()[:10]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """`<index>_<name>` of each group, the index padded with zeros so that text order is plan order."""
        width = max(2, len(str(max(g.index for g in self.groups))))
        return tuple(f"{g.index:0{width}d}_{g.name}" for g in self.groups)

    @property
    def uniform(self) -> bool:
        """Whether every group in the optimizer has the base rate."""
        return all(math.isclose(g.lr, self.lr, rel_tol=1e-7) for g in self.groups if g.optimizer_names)

    @property
    def frozen_names(self) -> tuple[str, ...]:
        """All frozen parameters, from the head to the stem."""
        return tuple(name for g in self.groups for name in g.frozen_names)

    @cached_property
    def undecayed_groups(self) -> tuple[str, ...]:
        """For each group, the name in the optimizer of its part without weight decay; unique among all names."""
        taken = {g.name for g in self.groups}
        names = []
        for g in self.groups:
            name = f"{g.name}:no_weight_decay"
            while name in taken:
                name += "_"
            taken.add(name)
            names.append(name)
        return tuple(names)

    def positions(self, param_groups: Iterable[Mapping[str, Any]]) -> list[int | None]:
        """The position in `groups` of each of an optimizer's param groups, by name; None for one of another name."""
        names = {name: i for i, g in enumerate(self.groups) for name in (self.undecayed_groups[i], g.name)}
        return [names.get(group.get("name", "")) for group in param_groups]

    def find(self, group: int | str, key: str = "group") -> list[int]:
        """Positions in `groups` of a plan index (all its parts) or a name.

        Raises `ConfigError` for an unknown index and `UnknownNameError` for an unknown name, under `key`.
        """
        if isinstance(group, numbers.Integral) and not isinstance(group, bool):
            found = [i for i, g in enumerate(self.groups) if g.index == group]
            if not found:
                raise ConfigError(key, group, f"the plan has the groups 0 to {self.groups[-1].index}")
            return found
        labels = self.labels
        found = [i for i, g in enumerate(self.groups) if group in (g.name, labels[i])]
        if not found:
            raise UnknownNameError(key, group, [g.name for g in self.groups], "no such group in the plan")
        return found
