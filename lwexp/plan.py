"""The plan: grouping + decay + base rate + freezing + overrides, resolved to one immutable table before training."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from . import table
from .decay import Decay, make_decay
from .errors import ConfigError, UnknownNameError
from .grouping import Grouping, group, head_to_stem
from .options import at_least
from .patterns import first_matches

if TYPE_CHECKING:
    from .schedule import Event
    from .scheduler import PlanScheduler

FREEZE_MODES = ("requires_grad", "lr_zero")
DOMINANT_SHARE = 0.8
_FINER = {"top_module": "depth_index", "by_name": "depth_index", "depth_index": "per_parameter"}


@dataclass(frozen=True)
class PlanGroup:
    """One row of the plan.

    `index` counts from the head (0), `depth` from the stem (0); the parts of a group that an override split share both.
    `lr` is the absolute rate before any policy, `scale` = lr / base rate. `frozen_names` are those of
    `parameter_names` that do not move; `optimizer_names` those that the optimizer is given.
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
        """Whether no parameter of the group moves."""
        return len(self.frozen_names) == len(self.parameter_names)


@dataclass(frozen=True)
class Plan:
    """Every group's place, name and rate. `print(plan)` is the table; make one with `make_plan`."""

    groups: tuple[PlanGroup, ...]
    lr: float
    mult: float
    grouping: str
    decay: str
    model: str
    freeze_mode: str
    no_weight_decay: bool
    notes: tuple[str, ...]
    _parameters: Mapping[str, nn.Parameter] = field(repr=False, compare=False)

    def __str__(self) -> str:
        """The table for a terminal."""
        return table.text(self)

    def to_csv(self) -> str:
        """The table as CSV, one line per group, with all parameter names."""
        return table.csv_text(self)

    def to_json(self) -> str:
        """The whole plan as JSON."""
        return table.json_text(self)

    def to_markdown(self, at_most: int = 8000) -> str:
        """The table as Markdown of `at_most` characters: where it is too long, its first and last rows."""
        return table.markdown(self, at_most)

    @property
    def hash(self) -> str:
        """Ten hexadecimal digits that differ between plans with different groups, rates, order or freezing."""
        rows = [(g.index, g.name, g.lr, g.parameter_names, g.frozen_names, g.optimizer_names) for g in self.groups]
        return hashlib.sha256(json.dumps([rows, self.no_weight_decay]).encode()).hexdigest()[:10]

    @property
    def labels(self) -> tuple[str, ...]:
        """`<index>_<name>` of each group, the index padded with zeros so that text order is plan order."""
        width = max(2, len(str(max(g.index for g in self.groups))))
        return tuple(f"{g.index:0{width}d}_{g.name}" for g in self.groups)

    @property
    def frozen_names(self) -> tuple[str, ...]:
        """All parameters that do not move, head-most first."""
        return tuple(name for g in self.groups for name in g.frozen_names)

    def find(self, group: int | str, key: str = "group") -> list[int]:
        """Positions in `groups` of a plan index (all its parts) or a name; `UnknownNameError` if there is none."""
        if isinstance(group, int) and not isinstance(group, bool):
            found = [i for i, g in enumerate(self.groups) if g.index == group]
            if not found:
                raise ConfigError(key, group, f"the plan has the groups 0 to {self.groups[-1].index}")
            return found
        found = [i for i, g in enumerate(self.groups) if group in (g.name, self.labels[i])]
        if not found:
            raise UnknownNameError(key, group, [g.name for g in self.groups], "no such group in the plan")
        return found

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for any torch or timm optimizer: `params`, `lr` and `name`, from the head to the stem.

        Groups whose parameters are all left out (frozen by `requires_grad`) are absent. With `no_weight_decay`, the
        biases and norms of a group (parameters of fewer than two dimensions) form a second one of the same name with
        `weight_decay` 0.
        """
        groups = []
        for g in self.groups:
            parameters = [self._parameters[name] for name in g.optimizer_names]
            if not self.no_weight_decay:
                groups.append({"params": parameters, "lr": g.lr, "name": g.name})
                continue
            groups.append({"params": [p for p in parameters if p.ndim > 1], "lr": g.lr, "name": g.name})
            groups.append(
                {"params": [p for p in parameters if p.ndim <= 1], "lr": g.lr, "name": g.name, "weight_decay": 0.0}
            )
        groups = [g for g in groups if g["params"]]
        if not groups:
            raise ConfigError("freeze", "*", "every parameter is frozen, nothing is left to train")
        return groups

    def optimizer(self, optimizer: str | type[torch.optim.Optimizer] = "adam", **options: Any) -> torch.optim.Optimizer:
        """The optimizer of a short name (torch's or timm's) or class over `param_groups()`.

        Takes torch's fused kernel where the class and the parameters allow it and `options` do not say otherwise.
        """
        from .optimizer import make_optimizer

        return make_optimizer(optimizer, self.param_groups(), lr=self.lr, options=options)

    def scheduler(
        self,
        optimizer: torch.optim.Optimizer,
        policy: str | Callable[[int], float] = "constant",
        *,
        steps: int | None = None,
        steps_per_epoch: int = 1,
        lr_events: Iterable[Event | Mapping[str, Any]] = (),
        unfreeze_every_steps: int | None = None,
        **options: Any,
    ) -> PlanScheduler:
        """A torch `LRScheduler` that moves every group by `policy`; call `.step()` after each `optimizer.step()`.

        `steps` is the number of optimizer steps of the training; `options` are the policy's. `steps_per_epoch` is used
        by policies that count epochs.
        """
        from .schedule import make_schedule
        from .scheduler import PlanScheduler

        schedule = make_schedule(self, policy, options, steps, steps_per_epoch, lr_events, unfreeze_every_steps)
        return PlanScheduler(optimizer, schedule)

    def lr_table(
        self,
        policy: str | Callable[[int], float] = "constant",
        *,
        steps: int,
        steps_per_epoch: int = 1,
        lr_events: Iterable[Event | Mapping[str, Any]] = (),
        unfreeze_every_steps: int | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """Every group's rate at every step, float64 [steps, groups]; 0 for groups that the optimizer is not given.

        Raises `ConfigError` for policies that look at training (plateau).
        """
        from .schedule import make_schedule

        schedule = make_schedule(self, policy, options, steps, steps_per_epoch, lr_events, unfreeze_every_steps)
        return schedule.table(range(steps))

    def apply_freeze(self, model: nn.Module) -> None:
        """Set `requires_grad` of the frozen parameters of `model` to False (in the mode `lr_zero`: change nothing)."""
        if self.freeze_mode == "requires_grad":
            parameters = dict(model.named_parameters())
            for name in self.frozen_names:
                parameters[name].requires_grad_(False)


def make_plan(
    model: nn.Module,
    *,
    grouping: str | Grouping = "top_module",
    decay: str | Decay = "linear",
    lr: float = 1e-3,
    mult: float = 0.95,
    freeze: Sequence[str] = (),
    freeze_mode: str = "requires_grad",
    lr_overrides: Mapping[str, float] | None = None,
    no_weight_decay: bool = False,
    grouping_options: Mapping[str, Any] | None = None,
    decay_options: Mapping[str, Any] | None = None,
    example_input: object = None,
) -> Plan:
    """Resolve a model and settings to a plan; the model is not changed.

    `lr` is the base rate, that of the head; `mult` belongs to the decay `linear`. `freeze` lists patterns;
    `freeze_mode` leaves those parameters out of the optimizer (`requires_grad`) or keeps them in it at rate 0
    (`lr_zero`). `lr_overrides` maps patterns to absolute rates, the first match wins. `grouping` and `decay` are names
    or callables `model -> groups` and `(index, count) -> scale`. `example_input` (a tensor, tuple or dict) helps
    `depth_index` with models whose input cannot be guessed.

    Raises `ConfigError` with the key, the value and the nearest choices.
    """
    _check_rates(lr, mult, freeze_mode)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if isinstance(parameter, UninitializedParameter):
            raise ConfigError("model", name, "has no shape yet; run a batch through the model before the plan is made")
    grouping_options = dict(grouping_options or {})
    if grouping == "depth_index" and example_input is not None:
        grouping_options.setdefault("example_input", example_input)
    grouped = group(model, grouping, grouping_options)
    decay_options = dict(decay_options or {})
    if decay == "linear":
        decay_options = {"mult": mult, **decay_options}
    scale = make_decay(decay, decay_options)
    rates = _overrides(head_to_stem(model), freeze, freeze_mode, lr_overrides or {}, decay_options.get("rates") or {})
    groups = _resolve(model, grouped.groups, scale, float(lr), set(freeze), freeze_mode, rates)
    plan = Plan(
        groups=groups,
        lr=float(lr),
        mult=float(mult),
        grouping=_name(grouping),
        decay=_name(decay),
        model=type(model).__name__,
        freeze_mode=freeze_mode,
        no_weight_decay=bool(no_weight_decay),
        notes=(*grouped.notes, *_remarks(groups, _name(grouping), _name(decay), mult)),
        _parameters=parameters,
    )
    plan.param_groups()  # nothing left to train is an error here, not at the optimizer
    return plan


def _check_rates(lr: float, mult: float, freeze_mode: str) -> None:
    for key, value in (("lr", lr), ("mult", mult)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(key, value, "must be a number")
        if not math.isfinite(value):
            raise ConfigError(key, value, "must be finite")
        at_least(key, value, 0, strictly=True)
    if freeze_mode not in FREEZE_MODES:
        raise UnknownNameError("freeze_mode", freeze_mode, FREEZE_MODES, "no such mode")


@dataclass(frozen=True)
class _Override:
    """The pattern that took a parameter out of its group's rate, and the rate it gave."""

    pattern: str
    lr: float


def _overrides(
    names: Sequence[str],
    freeze: Sequence[str],
    freeze_mode: str,
    lr_overrides: Mapping[str, float],
    explicit_rates: Mapping[str, float],
) -> dict[str, _Override]:
    """For each parameter with a rate of its own, which pattern gave it; `lr_overrides` come before `decay.rates`."""
    for key, rates in (("lr_overrides", lr_overrides), ("decay.rates", explicit_rates)):
        for pattern, rate in rates.items():
            if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not math.isfinite(rate) or rate < 0:
                raise ConfigError(f"{key}.{pattern}", rate, "a rate must be finite and at least 0")
    found = {n: _Override(p, float(explicit_rates[p])) for n, p in first_matches([*explicit_rates], names, "decay.rates").items()}
    for name, pattern in first_matches([*lr_overrides], names, "lr_overrides").items():
        found[name] = _Override(pattern, float(lr_overrides[pattern]))
    for name, pattern in first_matches(freeze, names, "freeze").items():
        if name in found and found[name].lr > 0:
            override = found[name]
            raise ConfigError(
                f"freeze.{pattern}", name, f"is frozen, but {override.pattern} gives it the rate {override.lr:g}; drop one"
            )
        if freeze_mode == "lr_zero":
            found[name] = _Override(pattern, 0.0)
    return found


def _resolve(
    model: nn.Module,
    named_groups: Iterable[tuple[str, Sequence[str]]],
    scale: Decay,
    lr: float,
    freeze: set[str],
    freeze_mode: str,
    overrides: Mapping[str, _Override],
) -> tuple[PlanGroup, ...]:
    named_groups = list(named_groups)
    parameters = dict(model.named_parameters())
    frozen = set(first_matches(sorted(freeze), [*parameters], "freeze"))
    already = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    left_out = already | (frozen if freeze_mode == "requires_grad" else set())
    tied = _tied_names(model)
    splits = _split_counts(named_groups, overrides)
    taken = {name for name, _ in named_groups}
    rows = []
    for index, (name, members) in enumerate(named_groups):
        parts: dict[_Override | None, list[str]] = {None: []}
        for member in members:
            parts.setdefault(overrides.get(member), []).append(member)
        for override, part in parts.items():
            if not part:
                continue
            own = scale(index, len(named_groups))
            # A part is named by its pattern, unless that name would stand for two groups.
            part_name = name
            if override is not None and len(part) < len(members):
                part_name = override.pattern
                if splits[override.pattern] > 1 or part_name in taken:
                    part_name = f"{name}:{override.pattern}"
            rows.append(
                PlanGroup(
                    index=index,
                    depth=len(named_groups) - 1 - index,
                    name=part_name,
                    scale=own if override is None else override.lr / lr,
                    lr=lr * own if override is None else override.lr,
                    parameter_names=tuple(part),
                    frozen_names=tuple(n for n in part if n in frozen or n in already),
                    optimizer_names=tuple(n for n in part if n not in left_out),
                    weights=sum(parameters[n].numel() for n in part),
                    trainable_weights=sum(parameters[n].numel() for n in part if n not in frozen and n not in already),
                    tied_names=tuple(other for n in part for other in tied.get(n, ())),
                )
            )
    return tuple(rows)


def _split_counts(
    named_groups: Iterable[tuple[str, Sequence[str]]], overrides: Mapping[str, _Override]
) -> dict[str, int]:
    """How many groups each pattern splits."""
    counts: dict[str, int] = {}
    for _, members in named_groups:
        here = [overrides.get(member) for member in members]
        for override in set(here) - {None}:
            if here.count(override) < len(members):
                assert override is not None
                counts[override.pattern] = counts.get(override.pattern, 0) + 1
    return counts


def _tied_names(model: nn.Module) -> dict[str, list[str]]:
    """For the first name of each shared tensor, its other names."""
    first: dict[int, str] = {}
    others: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            others.setdefault(first[id(parameter)], []).append(name)
        else:
            first[id(parameter)] = name
    return others


def _remarks(groups: Sequence[PlanGroup], grouping: str, decay: str, mult: float) -> list[str]:
    notes = []
    if decay == "linear" and mult > 1:
        notes.append(f"mult={mult:g} is above 1: rates rise from the head to the stem")
    total = sum(g.trainable_weights for g in groups)
    by_index: dict[int, int] = {}
    for g in groups:
        by_index[g.index] = by_index.get(g.index, 0) + g.trainable_weights
    index, weights = max(by_index.items(), key=lambda item: item[1])
    if total and weights / total > DOMINANT_SHARE and grouping in _FINER:
        name = next(g.name for g in groups if g.index == index)
        notes.append(
            f"group {index} ({name}) holds {weights / total:.0%} of the trainable weights, so the rates are nearly "
            f"uniform; a finer grouping is grouping={_FINER[grouping]}"
        )
    return notes


def _name(choice: object) -> str:
    return choice if isinstance(choice, str) else getattr(choice, "__name__", type(choice).__name__)
