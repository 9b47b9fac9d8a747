"""The table of a plan: its groups with their rates and the settings they were made from; no tensors."""

from __future__ import annotations

import hashlib
import json
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from typing import Any, SupportsIndex, overload

from lwexp.errors import ConfigError, UnknownGroupError

from .kinds import NO_KINDS, Kinds
from .recipes.base import Recipe


@dataclass(frozen=True)
class OptimizerPart:
    """A param group of the optimizer: the parameters of one plan group that have the same options.

    `name` is unique in the optimizer; `options` are those that are set besides `params`, `lr` and `name`.
    """

    name: str
    parameter_names: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class PlanGroup:
    """One row of the plan.

    `index` counts from the head (0), `depth` from the stem (0); the parts of a group that an override split share both.
    `lr` is the absolute rate before any policy, `scale` = lr / base rate; `base_scale` is that of a group at full rate,
    1 unless it has a base rate of its own (`Plan.for_muon`). `frozen_names` are the frozen ones of
    `parameter_names`, `optimizer_names` those in the optimizer, and `parts` its param groups that hold them.
    `measured`: the training measures a scale of the group, by which `lr` is then multiplied.
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
    parts: tuple[OptimizerPart, ...] = ()
    base_scale: float = 1.0
    measured: bool = False

    @property
    def frozen(self) -> bool:
        """Whether all parameters of the group are frozen."""
        return len(self.frozen_names) == len(self.parameter_names)


@dataclass(frozen=True, repr=False)
class PlanTable:
    """Groups from the head to the stem, and the settings they were made from; `Plan` adds the parameters.

    A sequence of its groups, which are also found by name: `len(plan)`, `plan[0]` (the head), `plan["layer4"]`,
    `"layer4" in plan`. Positions are rows of the table; a plan index is shared by the rows that an override split.
    """

    groups: tuple[PlanGroup, ...]
    lr: float
    mult: float
    grouping: str
    decay: str
    index_from: str
    model: str
    freeze_mode: str
    no_weight_decay: bool | tuple[str, ...]  # biases, norms and the model's own list; or patterns
    notes: tuple[str, ...]
    undecayed_names: tuple[str, ...]  # what the patterns or, besides biases and norms, the model's own list cover
    no_layerwise_rates: str  # where rates were to fall with depth and all weights have one: why, and the ways out
    group_options: Mapping[str, Mapping[str, Any]] = field(hash=False)  # pattern -> options of the optimizer
    weight_decay: float | None  # of the head; None: the optimizer's, for all groups
    weight_decay_mult: float
    independent_weight_decay: bool
    measured: Mapping[str, Any] | None = field(default=None, kw_only=True, hash=False)  # options of a measured decay
    recipe: Recipe | None = field(default=None, kw_only=True, compare=False)  # for what methods are not given
    schedule_line: str = field(default="", kw_only=True)  # in words, and what identifies its rates; "": not known here

    def __repr__(self) -> str:
        """One line; `print(plan)` shows the table."""
        mult = f" mult={self.mult:g}" if self.decay == "linear" else ""
        many = "group" if len(self) == 1 else "groups"
        return (
            f"<{type(self).__name__} {self.hash} of {self.model}: {len(self)} {many}, grouping={self.grouping} "
            f"decay={self.decay} lr={self.lr:g}{mult}>"
        )

    def __len__(self) -> int:
        """The number of groups, counting the parts of one that an override split."""
        return len(self.groups)

    def __iter__(self) -> Iterator[PlanGroup]:
        """The groups from the head to the stem."""
        return iter(self.groups)

    def __contains__(self, group: object) -> bool:
        """Whether a group has this name, or is this one."""
        return any(group in (g.name, label) or group is g for g, label in zip(self.groups, self.labels, strict=True))

    @overload
    def __getitem__(self, group: SupportsIndex | str) -> PlanGroup: ...
    @overload
    def __getitem__(self, group: slice) -> tuple[PlanGroup, ...]: ...
    def __getitem__(self, group: SupportsIndex | str | slice) -> PlanGroup | tuple[PlanGroup, ...]:
        """The group of a name (also with its index, `01_layer4`) or at a position, or the groups of a slice.

        Raises `UnknownGroupError`, a `KeyError`, for an unknown name and `IndexError` for a position past the ends.
        """
        if isinstance(group, slice):
            return self.groups[group]
        if isinstance(group, str):
            return self.groups[self.find(group)[0]]
        try:
            return self.groups[index(group)]
        except IndexError:
            raise IndexError(f"plan[{group}]: the plan has {len(self)} groups") from None

    @property
    def rates(self) -> dict[str, float]:
        """The planned rate of each group by its name, from the head to the stem, before any policy."""
        return {g.name: g.lr for g in self.groups}

    def rows(self) -> list[dict[str, Any]]:
        """One mapping per group, from the head to the stem, e.g. for `pandas.DataFrame(plan.rows())`.

        `index`, `name`, `depth`, `scale`, `lr`; `tensors`, `weights` and `trainable_weights` are counts, `share` is the
        fraction of all weights, `frozen` whether all parameters are; `parameters`, `frozen_parameters` and `tied` are
        lists of names; `options` maps names of param groups to what the optimizer is given for them alone.
        """
        total = sum(g.weights for g in self.groups) or 1
        return [
            {
                "index": g.index,
                "name": g.name,
                "depth": g.depth,
                "scale": g.scale,
                "lr": g.lr,
                "tensors": len(g.parameter_names),
                "weights": g.weights,
                "trainable_weights": g.trainable_weights,
                "share": g.weights / total,
                "frozen": g.frozen,
                "parameters": [*g.parameter_names],
                "frozen_parameters": [*g.frozen_names],
                "tied": [*g.tied_names],
                "options": {part.name: dict(part.options) for part in g.parts if part.options},
            }
            for g in self.groups
        ]

    @cached_property
    def hash(self) -> str:
        """Ten hexadecimal digits that identify groups, rates, order, freezing and the options of the optimizer."""
        rows = [(g.index, g.name, g.lr, g.parameter_names, g.frozen_names, g.optimizer_names) for g in self.groups]
        settings: list[Any] = [rows, self.no_weight_decay is True]
        settings += [self.undecayed_names] if self.undecayed_names else []
        if self.group_options or self.weight_decay is not None:
            parts = [part for g in self.groups for part in g.parts if part.options]
            settings.append([[part.parameter_names, sorted(part.options.items())] for part in parts])
        if self.measured is not None:
            settings.append([self.decay, sorted(self.measured.items()), [g.measured for g in self.groups]])
        return hashlib.sha256(json.dumps(settings, default=str).encode()).hexdigest()[:10]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """`<index>_<name>` of each group, the index padded with zeros so that text order is plan order."""
        width = max(2, len(str(max(g.index for g in self.groups))))
        return tuple(f"{g.index:0{width}d}_{g.name}" for g in self.groups)

    @property
    def uniform(self) -> bool:
        """Whether every group in the optimizer has its base rate."""
        if any(g.measured for g in self.groups):
            return False
        return all(math.isclose(g.lr, self.lr * g.base_scale, rel_tol=1e-7) for g in self.groups if g.optimizer_names)

    @property
    def frozen_names(self) -> tuple[str, ...]:
        """All frozen parameters, from the head to the stem."""
        return tuple(name for g in self.groups for name in g.frozen_names)

    def patterns(self, written: Sequence[str], key: str) -> list[str]:
        """Patterns with those of kinds (`kind/norm`) as what they stand for. Raises `ConfigError` under `key`."""
        kinds: Kinds = getattr(self, "_kinds", NO_KINDS)  # a plan with its parameters has them
        return kinds.named(written, key)

    def positions(self, param_groups: Iterable[Mapping[str, Any]]) -> list[int | None]:
        """The position in `groups` of each of an optimizer's param groups, by name; None for one of another name."""
        names = {part.name: i for i, g in enumerate(self.groups) for part in g.parts}
        names |= {g.name: i for i, g in enumerate(self.groups)}
        return [names.get(group.get("name", "")) for group in param_groups]

    def find(self, group: int | str, key: str = "group") -> list[int]:
        """Positions in `groups` of a plan index (all its parts) or a name.

        Raises `ConfigError` for an unknown index and `UnknownGroupError` for an unknown name, under `key`.
        """
        if isinstance(group, numbers.Integral) and not isinstance(group, bool):
            found = [i for i, g in enumerate(self.groups) if g.index == group]
            if not found:
                raise ConfigError(key, group, f"the plan has the groups 0 to {self.groups[-1].index}")
            return found
        labels = self.labels
        found = [i for i, g in enumerate(self.groups) if group in (g.name, labels[i])]
        if not found:
            is_index = isinstance(group, str) and group in {str(g.index) for g in self.groups}
            what = "no group has this name, and an index is a number" if is_index else "no such group in the plan"
            raise UnknownGroupError(key, group, [g.name for g in self.groups], what)
        return found
