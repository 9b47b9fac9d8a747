"""Resolves groups, scales, overrides and freezing to the rows of a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lwexp.errors import ConfigError

from .decay import Decay
from .depth.parameters import Names
from .options import rate
from .patterns import first_matches
from .plan_table import PlanGroup


@dataclass(frozen=True)
class Override:
    """A pattern that overrides the rate of its parameters, and that rate."""

    pattern: str
    lr: float


def overrides_of(
    names: Sequence[str],
    freeze: Sequence[str],
    freeze_mode: str,
    lr_overrides: Mapping[str, float],
    explicit_rates: Mapping[str, float],
) -> dict[str, Override]:
    """The override of each parameter that has one; `lr_overrides` take precedence over `decay.rates`."""
    for key, rates in (("lr_overrides", lr_overrides), ("decay.rates", explicit_rates)):
        if not isinstance(rates, Mapping):
            raise ConfigError(key, rates, "must map patterns to rates, e.g. {head: 0.01}")
        for pattern, written in rates.items():
            rate(f"{key}.{pattern}", written)
    found = {}
    for name, pattern in first_matches([*explicit_rates], names, "decay.rates").items():
        found[name] = Override(pattern, float(explicit_rates[pattern]))
    for name, pattern in first_matches([*lr_overrides], names, "lr_overrides").items():
        found[name] = Override(pattern, float(lr_overrides[pattern]))
    for name, pattern in first_matches(freeze, names, "freeze").items():
        if name in found and found[name].lr > 0:
            override = found[name]
            why = f"is frozen, but {override.pattern} gives it the rate {override.lr:g}; drop one"
            raise ConfigError(f"freeze.{pattern}", name, why)
        if freeze_mode == "lr_zero":
            found[name] = Override(pattern, 0.0)
    return found


def resolve(
    names: Names,
    named_groups: Iterable[tuple[str, Sequence[str]]],
    *,
    scale: Decay,
    lr: float,
    freeze: set[str],
    freeze_mode: str,
    overrides: Mapping[str, Override],
    index_from: str,
) -> tuple[PlanGroup, ...]:
    """The rows for the `named_groups` of a grouping, from the head to the stem.

    A group is split by the overrides of its parameters. `names` are all parameters of the model. The decay counts all
    groups (`index_from` "all"), or those from the first one that has a parameter to train ("trained").
    """
    named_groups = list(named_groups)
    frozen = set(first_matches(sorted(freeze), [*names.tensors], "freeze"))
    already = {name for name, parameter in names.tensors.items() if not parameter.requires_grad}
    left_out = already | (frozen if freeze_mode == "requires_grad" else set())
    still = frozen | already
    weights = {name: parameter.numel() for name, parameter in names.tensors.items()}
    splits = _split_counts(named_groups, overrides)
    taken = {name for name, _ in named_groups}
    first = 0
    if index_from == "trained":
        first = next((i for i, (_, members) in enumerate(named_groups) if not still.issuperset(members)), 0)
    rows = []
    for index, (name, members) in enumerate(named_groups):
        parts: dict[Override | None, list[str]] = {None: []}
        for member in members:
            parts.setdefault(overrides.get(member), []).append(member)
        for override, part in parts.items():
            if not part:
                continue
            own = scale(max(index - first, 0), len(named_groups) - first)
            # A part is named by its pattern, unless that name would be ambiguous.
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
                    frozen_names=tuple([n for n in part if n in still]),
                    optimizer_names=tuple([n for n in part if n not in left_out]),
                    weights=sum([weights[n] for n in part]),
                    trainable_weights=sum([weights[n] for n in part if n not in still]),
                    tied_names=tuple([other for n in part for other in names.every[n][1:]]),
                )
            )
    return tuple(rows)


def _split_counts(
    named_groups: Iterable[tuple[str, Sequence[str]]], overrides: Mapping[str, Override]
) -> dict[str, int]:
    """The number of groups that each pattern splits."""
    counts: dict[str, int] = {}
    for _, members in named_groups:
        here = Counter([overrides[member] for member in members if member in overrides])
        for override, count in here.items():
            if count < len(members):
                counts[override.pattern] = counts.get(override.pattern, 0) + 1
    return counts
