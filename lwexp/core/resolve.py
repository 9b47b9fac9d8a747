"""Resolves groups, scales, overrides and freezing to the rows of a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from lwexp.errors import ConfigError

from .decay import Decay
from .depth.parameters import Names
from .kinds import Kinds
from .options import at_least, number, rate
from .patterns import KIND, first_matches
from .plan_table import PlanGroup

NamedGroups = Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Override:
    """The rate of some parameters: `factor` times the absolute rate `lr`, or that of the decay where it is None.

    `patterns` are the ones that name these parameters. In a group that they match in part, the parameters are a part
    of their own, named by the patterns.
    """

    patterns: tuple[str, ...]
    lr: float | None = None
    factor: float = 1.0

    def rate(self, planned: float) -> float:
        """The rate, where the decay gives the group the rate `planned`."""
        return (planned if self.lr is None else self.lr) * self.factor


def overrides_of(
    names: Sequence[str],
    freeze: Sequence[str],
    freeze_mode: str,
    *,
    kinds: Kinds,
    lr_overrides: Mapping[str, float],
    lr_mults: Mapping[str, float],
    explicit_rates: Mapping[str, float],
    split_groups: Sequence[str],
) -> dict[str, Override]:
    """The override of each parameter that has one.

    `lr_overrides` take precedence over `decay.rates`, which `lr_mults` multiply as they do any decay. Raises
    `ConfigError` for a parameter that has both a rate and a factor, or that is frozen and has a rate.
    """
    _check_rates(lr_overrides, lr_mults, explicit_rates)
    lr_overrides, lr_mults = kinds.keyed(lr_overrides, "lr_overrides"), kinds.keyed(lr_mults, "lr_mults")
    explicit_rates = kinds.keyed(explicit_rates, "decay.rates")
    found = {}
    for name, pattern in first_matches([*explicit_rates], names, "decay.rates").items():
        found[name] = Override((pattern,), float(explicit_rates[pattern]))
    absolute = first_matches([*lr_overrides], names, "lr_overrides")
    for name, pattern in absolute.items():
        found[name] = Override((pattern,), float(lr_overrides[pattern]))
    relative = first_matches([*lr_mults], names, "lr_mults")
    for name, pattern in relative.items():
        factor, other = lr_mults[pattern], absolute.get(name)
        if other is not None:
            why = f"multiplies the rate of {name}, which lr_overrides.{other} sets to {lr_overrides[other]:g}; drop one"
            raise ConfigError(f"lr_mults.{pattern}", factor, why)
        given = found.get(name, Override(()))
        found[name] = Override(_joined(given.patterns, pattern), given.lr, float(factor))
    frozen = first_matches(freeze, names, "freeze")
    for pattern, factor in lr_mults.items():
        multiplied = [name for name, own in relative.items() if own == pattern]
        if multiplied and all(name in frozen for name in multiplied):
            raise ConfigError(f"lr_mults.{pattern}", factor, "all parameters that it multiplies are frozen; drop one")
    for name, pattern in frozen.items():
        given = found.get(name, Override(()))
        if given.lr is not None and given.rate(0) > 0:
            why = f"is frozen, but {given.patterns[0]} gives it the rate {given.rate(0):g}; drop one"
            raise ConfigError(f"freeze.{pattern}", name, why)
        if freeze_mode == "lr_zero":
            found[name] = Override((pattern,), 0.0)
    for pattern in split_groups:  # all that match, so that each of them holds whole parts
        for name in first_matches([pattern], names, "split_groups"):
            given = found.get(name, Override(()))
            found[name] = Override(_joined(given.patterns, pattern), given.lr, given.factor)
    return found


def first_index(named_groups: NamedGroups, frozen: Collection[str], index_from: str) -> int:
    """The index of the group at which the decay begins to count: 0, or with "trained" that of the first not frozen."""
    if index_from == "all":
        return 0
    return next((i for i, (_, members) in enumerate(named_groups) if not all(n in frozen for n in members)), 0)


def resolve(
    names: Names,
    named_groups: NamedGroups,
    *,
    scale: Decay,
    lr: float,
    frozen: Collection[str],
    left_out: Collection[str],
    overrides: Mapping[str, Override],
    first: int,
    new: Collection[str] | None = None,
) -> tuple[PlanGroup, ...]:
    """The rows for the `named_groups` of a grouping, from the head to the stem.

    A group is split by the overrides of its parameters. `names` are all parameters of the model, `frozen` do not move,
    `left_out` are not in the optimizer. The decay counts the groups from the one with the index `first`.
    `new`: the scales are measured, but for these parameters, which are parts of their own.
    """
    weights = {name: parameter.numel() for name, parameter in names.tensors.items()}
    apart = {name: overrides.get(name, _NONE) for name in new or ()}
    overrides = {**overrides, **{name: replace(o, patterns=_joined(o.patterns, NEW)) for name, o in apart.items()}}
    split = [(name, _split(members, overrides)) for name, members in named_groups]
    times = Counter(label for _, parts in split for label, _, _ in parts)  # the number of groups that each one splits
    taken = {name for name, _ in named_groups}
    rows = []
    for index, (name, parts) in enumerate(split):
        own = scale(max(index - first, 0), len(named_groups) - first)
        for label, override, part in parts:
            part_name = name
            if label:  # named by its patterns, unless that name would be ambiguous
                part_name = label if times[label] == 1 and label not in taken else f"{name}:{label}"
            absolute = override.lr is not None
            rows.append(
                PlanGroup(
                    index=index,
                    depth=len(named_groups) - 1 - index,
                    name=part_name,
                    scale=override.rate(0) / lr if absolute else own * override.factor,
                    lr=override.rate(lr * own),
                    parameter_names=tuple(part),
                    frozen_names=tuple([n for n in part if n in frozen]),
                    optimizer_names=tuple([n for n in part if n not in left_out]),
                    weights=sum([weights[n] for n in part]),
                    trainable_weights=sum([weights[n] for n in part if n not in frozen]),
                    tied_names=tuple([other for n in part for other in names.every[n][1:]]),
                    measured=new is not None
                    and not absolute
                    and not all(n in frozen for n in part)
                    and not any(n in new for n in part),
                )
            )
    return tuple(rows)


_NONE = Override(())
NEW = "new"  # names the part of a group that a new head is


def _split(members: Sequence[str], overrides: Mapping[str, Override]) -> list[tuple[str, Override, list[str]]]:
    """The parts of a group by the overrides of its `members`, those without first; "" for one with the group's name.

    Patterns that all members share do not tell the parts apart, and are in no name.
    """
    if overrides.keys().isdisjoint(members):
        return [("", _NONE, [*members])]
    parts: dict[Override, list[str]] = {_NONE: []}
    for member in members:
        parts.setdefault(overrides.get(member, _NONE), []).append(member)
    found = {override: part for override, part in parts.items() if part}
    shared = set.intersection(*(set(override.patterns) for override in found))
    labels: list[str] = []
    for override in found:
        label = ":".join(
            pattern.removeprefix(KIND).rstrip("?") for pattern in override.patterns if pattern not in shared
        )
        while label in labels:
            label += "_"
        labels.append(label)
    return [(label, override, part) for label, (override, part) in zip(labels, found.items(), strict=True)]


def _joined(patterns: tuple[str, ...], pattern: str) -> tuple[str, ...]:
    return patterns if pattern in patterns else (*patterns, pattern)


def _check_rates(
    lr_overrides: Mapping[str, float], lr_mults: Mapping[str, float], explicit_rates: Mapping[str, float]
) -> None:
    for key, rates in (("lr_overrides", lr_overrides), ("decay.rates", explicit_rates)):
        if not isinstance(rates, Mapping):
            raise ConfigError(key, rates, "must map patterns to rates, e.g. {head: 0.01}")
        for pattern, written in rates.items():
            rate(f"{key}.{pattern}", written)
    if not isinstance(lr_mults, Mapping):
        raise ConfigError("lr_mults", lr_mults, "must map patterns to factors of the rate, e.g. {head: 10}")
    for pattern, written in lr_mults.items():
        number(f"lr_mults.{pattern}", written)
        at_least(f"lr_mults.{pattern}", written, 0)
