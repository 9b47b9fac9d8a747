"""Parts of a plan, each for an optimizer of its own, and a second base rate for some parameters of a plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from torch import nn

from lwexp.errors import ConfigError

from .kinds import Kinds
from .options import at_least, number
from .patterns import first_matches
from .plan_table import PlanGroup

Where = str | Sequence[str] | Callable[[str, nn.Parameter], bool]
_Parameters = Mapping[str, nn.Parameter]


def split_names(
    groups: Sequence[PlanGroup], where: Sequence[Where], parameters: _Parameters, kinds: Kinds
) -> list[set[str]]:
    """The parameters of `groups` that each of `where` takes of what those before it left, and last the rest.

    Raises `ConfigError` for a part that has nothing to train.
    """
    left = [name for g in groups for name in g.parameter_names]
    to_train = {name for g in groups for name in g.optimizer_names}
    everything, found = [*left], list[set[str]]()
    for each in where:
        if callable(each):
            taken = {name for name in left if each(name, parameters[name])}
        else:
            patterns = [each] if isinstance(each, str) else [*each]
            taken = {*first_matches(kinds.named(patterns, "split"), everything, "split")} & {*left}
        found.append(taken)
        left = [name for name in left if name not in taken]
    found.append({*left})
    for names, shown in zip(found, [*where, "the rest"], strict=True):
        if not names & to_train:
            raise ConfigError("split", getattr(shown, "__name__", shown), "has nothing to train")
    return found


def part_of(group: PlanGroup, names: Collection[str], parameters: _Parameters) -> PlanGroup:
    """`group` with those of its parameters that are in `names`."""

    def within(members: Sequence[str]) -> tuple[str, ...]:
        return tuple([name for name in members if name in names])

    own, frozen = within(group.parameter_names), within(group.frozen_names)
    if own == group.parameter_names:
        return group
    sizes = {name: parameters[name].numel() for name in own}
    parts = [replace(part, parameter_names=within(part.parameter_names)) for part in group.parts]
    return replace(
        group,
        parameter_names=own,
        frozen_names=frozen,
        optimizer_names=within(group.optimizer_names),
        weights=sum(sizes.values()),
        trainable_weights=sum([sizes[name] for name in own if name not in frozen]),
        parts=tuple([part for part in parts if part.parameter_names]),
    )


def parts_of(groups: Sequence[PlanGroup], names: Collection[str], parameters: _Parameters) -> tuple[PlanGroup, ...]:
    """Of each of `groups` what is in `names`; groups that have nothing there are omitted."""
    found = [part_of(g, names, parameters) for g in groups]
    return tuple([g for g in found if g.parameter_names])


def with_factor(group: PlanGroup, factor: float, suffix: str = "") -> PlanGroup:
    """`group` at `factor` times its rate, its names with `suffix`."""
    parts = tuple([replace(part, name=f"{part.name}{suffix}") for part in group.parts])
    return replace(
        group,
        name=f"{group.name}{suffix}",
        lr=group.lr * factor,
        scale=group.scale * factor,
        base_scale=group.base_scale * factor,
        parts=parts,
    )


def with_second_lr(
    groups: Sequence[PlanGroup], names: Collection[str], factor: float, suffix: str, parameters: _Parameters
) -> tuple[PlanGroup, ...]:
    """`groups` with the parameters `names` at `factor` times their rate; a mixed group becomes two rows."""
    found = []
    for g in groups:
        second = part_of(g, names, parameters)
        if not second.parameter_names:
            found.append(g)
        elif second is g:
            found.append(with_factor(g, factor))
        else:
            found += [part_of(g, {*g.parameter_names} - {*names}, parameters), with_factor(second, factor, suffix)]
    return tuple(found)


def base_lr(key: str, lr: float) -> float:
    """`lr` as a float if it is a base rate, above 0; raises `ConfigError`."""
    lr = number(key, lr)
    at_least(key, lr, 0, strictly=True)
    return lr
