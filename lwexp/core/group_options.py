"""Options of the optimizer for a part of the parameters, and the param groups into which they divide a plan group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from lwexp.errors import ConfigError

from .options import at_least, number
from .patterns import KIND, first_matches
from .plan_table import OptimizerPart, PlanGroup

GroupOptions = Mapping[str, Mapping[str, Any]]
_OF_THE_PLAN = {
    "params": "grouping decides which parameters are in a group",
    "lr": "lr_overrides sets rates, lr_mults multiplies them",
    "initial_lr": "it belongs to torch's schedulers",
    "name": "groups have the plan's names",
    "param_names": "parameters have the model's names",
}


@dataclass(frozen=True)
class Chosen:
    """The options of one parameter, and the patterns that they are from."""

    options: Mapping[str, Any]
    patterns: tuple[str, ...] = ()


def check_group_options(group_options: GroupOptions | None) -> dict[str, dict[str, Any]]:
    """`group_options` as plain values: pattern -> {option: value}, lists as tuples, the weight decay as a float.

    Raises `ConfigError`; which options an optimizer has is known when it is made.
    """
    example = "must map patterns to options of the optimizer, e.g. {head: {weight_decay: 0}}"
    if group_options is not None and not isinstance(group_options, Mapping):
        raise ConfigError("group_options", group_options, example)
    found: dict[str, dict[str, Any]] = {}
    for pattern, written in (group_options or {}).items():
        if not isinstance(written, Mapping) or not written:
            raise ConfigError(f"group_options.{pattern}", written, example)
        for option, value in written.items():
            key = f"group_options.{pattern}.{option}"
            if option in _OF_THE_PLAN:
                raise ConfigError(key, value, f"is no option of a group: {_OF_THE_PLAN[option]}")
            if option == "weight_decay":
                number(key, value)
                at_least(key, value, 0)
            plain = float(value) if option == "weight_decay" else tuple(value) if isinstance(value, list) else value
            found.setdefault(pattern, {})[option] = plain
    return found


def chosen_options(names: Sequence[str], group_options: GroupOptions) -> dict[str, Chosen]:
    """The options of each of `names` that has any; for each option the first pattern that gives it wins."""
    found: dict[str, Chosen] = {}
    for option in dict.fromkeys(option for written in group_options.values() for option in written):
        patterns = [pattern for pattern, written in group_options.items() if option in written]
        for name, pattern in first_matches(patterns, names, "group_options").items():
            before = found.get(name, Chosen({}))
            options = {**before.options, option: group_options[pattern][option]}
            found[name] = Chosen(options, (*dict.fromkeys((*before.patterns, pattern)),))
    return found


def with_parts(
    groups: Iterable[PlanGroup],
    chosen: Mapping[str, Chosen],
    undecayed: Set[str],
    weight_decays: Iterable[float | None],
) -> tuple[PlanGroup, ...]:
    """`groups` with their param groups of the optimizer: one for each set of options, in the order of first appearance.

    `weight_decays` are those of the groups, None where the optimizer's applies. Parameters in `undecayed` have the
    weight decay 0, whatever is `chosen`, and come last. A param group has the name of its plan group; where that has
    several, those with options are called `<name>:<pattern>` (with several patterns `<name>:<pattern>+<pattern>`), and
    `<name>:no_weight_decay` where they are not decayed. Names are unique.
    """
    groups = tuple(groups)
    taken = {g.name for g in groups}
    usual = ({} if decay is None else {"weight_decay": decay} for decay in weight_decays)
    return tuple(
        replace(g, parts=tuple(_parts(g, own, chosen, undecayed, taken))) for g, own in zip(groups, usual, strict=True)
    )


def _parts(
    group: PlanGroup,
    usual: Mapping[str, Any],
    chosen: Mapping[str, Chosen],
    undecayed: Set[str],
    taken: set[str],
) -> Iterator[OptimizerPart]:
    if not usual and all(each.isdisjoint(group.optimizer_names) for each in (chosen.keys(), undecayed)):
        yield from [OptimizerPart(group.name, group.optimizer_names)] if group.optimizer_names else []
        return
    members: dict[tuple[bool, str], list[str]] = {}
    firsts: dict[tuple[bool, str], Chosen] = {}
    plain = Chosen(usual)
    for name in group.optimizer_names:
        own = plain
        if name in chosen:
            own = Chosen({**usual, **chosen[name].options}, chosen[name].patterns)
        key = (False, "")
        if name in undecayed:
            own = Chosen({**own.options, "weight_decay": 0.0}, own.patterns)
        if own.options:
            key = (name in undecayed, repr(sorted(own.options.items())))
        members.setdefault(key, []).append(name)
        firsts.setdefault(key, own)
    for key in sorted(members, key=lambda key: key[0]):
        own, is_undecayed = firsts[key], key[0]
        label = (
            ["+".join(pattern.removeprefix(KIND) for pattern in own.patterns)]
            if own.patterns and len(members) > 1
            else []
        )
        label += ["no_weight_decay"] if is_undecayed else []
        part_name = ":".join([group.name, *label])
        while label and part_name in taken:
            part_name += "_"
        taken.add(part_name)
        yield OptimizerPart(part_name, tuple(members[key]), own.options)
