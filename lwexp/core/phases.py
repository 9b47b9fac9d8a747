"""Which policy moves which group, and when: policies per pattern, and phases that follow one another.

A training without phases is a single one. Each policy of a phase counts the steps of its phase only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lwexp.errors import ConfigError, UnknownOptionError

from .options import at_least, between, number, whole
from .patterns import first_matches
from .plan_table import PlanTable
from .policy import Policy, make_policy

LENGTHS = ("steps", "epochs", "fraction")
KEYS = (*LENGTHS, "train", "policy", "policies", "lr_factor")


@dataclass(frozen=True)
class Phase:
    """`steps` optimizer steps from `start` on; None: as many as there are.

    `of_group` has for each group of the plan the place of its policy in `policies`; None: the group rests, at rate 0.
    `lr_factor` multiplies all rates of the plan.
    """

    start: int
    steps: int | None
    policies: tuple[Policy, ...]
    of_group: tuple[int | None, ...]
    lr_factor: float = 1.0


@dataclass(frozen=True)
class Training:
    """What phases are made for."""

    plan: PlanTable
    policy: str | Callable[[int], float]
    options: Mapping[str, Any]
    policies: Mapping[str, Any]
    steps: int | None
    steps_per_epoch: int


def make_phases(training: Training, phases: Sequence[Mapping[str, Any]]) -> tuple[Phase, ...]:
    """The `phases` of a training as they are written, or the single one. Raises `ConfigError`."""
    if not phases:
        return (_phase(training, {}, "", 0, training.steps),)
    _check(phases)
    starts, end = _starts(phases, training.steps, training.steps_per_epoch)
    lengths = [*(b - a for a, b in pairwise(starts)), None if end is None else end - starts[-1]]
    return tuple(
        _phase(training, written, f"phases.{i}.", start, length)
        for i, (written, start, length) in enumerate(zip(phases, starts, lengths, strict=True))
    )


def match_groups(plan: PlanTable, patterns: Sequence[str], key: str, *, in_order: bool = True) -> list[str | None]:
    """For each group of the plan the first of `patterns` that covers it, None if none does.

    Raises `ConfigError` under `key` for a pattern that matches nothing or a part of a group only, and, `in_order`, for
    one that an earlier pattern hides.
    """
    patterns = plan.patterns(patterns, key)
    found = first_matches(patterns, [name for g in plan.groups for name in g.parameter_names], key)
    for pattern in patterns:
        if in_order and pattern not in found.values():
            raise ConfigError(key, pattern, "an earlier pattern covers all it matches; put it first")
    of_group = []
    for group in plan.groups:
        covering = [found.get(name) for name in group.optimizer_names or group.parameter_names]
        if (in_order and len(set(covering)) > 1) or (None in covering and any(covering)):
            pattern = next(each for each in covering if each is not None)
            why = f"covers a part of the group {group.name} only; make_plan(..., split_groups=[{pattern!r}]) splits it"
            raise ConfigError(key, pattern, why)
        of_group.append(covering[0])
    return of_group


def policy_of(written: Any, key: str) -> tuple[str | Callable[[int], float], dict[str, Any]]:
    """A policy and its options: a name, a callable `step -> factor`, or a mapping with `name` and options.

    `kind` instead of `name` is for policies that have an option `name`: `{kind: torch, name: StepLR}`.
    """
    if isinstance(written, str) or (callable(written) and not isinstance(written, Mapping)):
        return written, {}
    if not isinstance(written, Mapping):
        raise ConfigError(key, written, "must be the name of a policy, or a mapping: {name: cosine, warmup_steps: 10}")
    options = {str(name): value for name, value in written.items()}
    named = options.pop("kind" if "kind" in options else "name", None)
    if named is None:
        raise ConfigError(f"{key}.name", "???", "must be given")
    return named, options


def _phase(training: Training, written: Mapping[str, Any], prefix: str, start: int, steps: int | None) -> Phase:
    plan, policies = training.plan, written.get("policies") or training.policies
    own_policies = f"{prefix}policies" if written.get("policies") else "policies"
    if not isinstance(policies, Mapping):
        raise ConfigError(own_policies, policies, "must map patterns to policies, e.g. {head: {name: cosine}}")
    factor = number(f"{prefix}lr_factor", written.get("lr_factor", 1.0))
    at_least(f"{prefix}lr_factor", factor, 0, strictly=True)
    matched = match_groups(plan, [*policies], own_policies)
    used: dict[str | None, Policy] = {}
    lengths: dict[str, Any] = {"lr": plan.lr * factor, "steps": steps, "steps_per_epoch": training.steps_per_epoch}
    for pattern, each in policies.items():
        key = f"{own_policies}.{pattern}"
        used[pattern] = make_policy(*policy_of(each, key), **lengths, key=key)
    if None in matched:
        if written.get("policy") is not None:
            key = f"{prefix}policy"
            used[None] = make_policy(*policy_of(written["policy"], key), **lengths, key=key)
        else:
            used[None] = make_policy(training.policy, training.options, **lengths)
    places = {pattern: i for i, pattern in enumerate(used)}
    trained = _trained(plan, written.get("train"), f"{prefix}train")
    of_group = tuple(places[pattern] if moves else None for pattern, moves in zip(matched, trained, strict=True))
    return Phase(start, steps, tuple(used.values()), of_group, factor)


def _trained(plan: PlanTable, patterns: str | Sequence[str] | None, key: str) -> list[bool]:
    """For each group whether a phase trains it; None: all."""
    if patterns is None:
        return [True] * len(plan.groups)
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, Sequence) or not patterns or not all(isinstance(each, str) for each in patterns):
        raise ConfigError(key, patterns, "must be a pattern or a list of them, e.g. [head]")
    trained = [pattern is not None for pattern in match_groups(plan, patterns, key, in_order=False)]
    if not any(moves and g.optimizer_names and not g.frozen for g, moves in zip(plan.groups, trained, strict=True)):
        raise ConfigError(key, list(patterns), "everything it matches is frozen, nothing would be trained")
    return trained


def _check(phases: Sequence[Mapping[str, Any]]) -> None:
    example = "[{epochs: 1, train: [head]}, {policy: cosine}]"
    if isinstance(phases, (str, Mapping)) or not isinstance(phases, Sequence):
        raise ConfigError("phases", phases, f"must be a list of mappings, e.g. {example}")
    for i, written in enumerate(phases):
        if not isinstance(written, Mapping):
            raise ConfigError(f"phases.{i}", written, f"must be a mapping, as in {example}")
        for key in written:
            if key not in KEYS:
                raise UnknownOptionError(f"phases.{i}.{key}", written[key], KEYS)
        given = [key for key in LENGTHS if written.get(key) is not None]
        if len(given) > 1:
            why = f"is given beside {given[0]}={written[given[0]]}; give one of them"
            raise ConfigError(f"phases.{i}.{given[1]}", written[given[1]], why)
        if not given and i < len(phases) - 1:
            raise ConfigError(f"phases.{i}.steps", "???", "must be given, or epochs or fraction; the last may lack it")


def _starts(
    phases: Sequence[Mapping[str, Any]], steps: int | None, steps_per_epoch: int
) -> tuple[list[int], int | None]:
    """The steps at which the phases start, and the end of the last, None if it is unknown."""
    last, starts = 0.0, [0]  # where a phase ends; fractions and epochs are added up before they are rounded
    for i, written in enumerate(phases):
        key = next((key for key in LENGTHS if written.get(key) is not None), None)
        if key is None:
            break
        named, value = f"phases.{i}.{key}", written[key]
        if key == "steps":
            last += whole(named, value)
        elif key == "epochs":
            last += number(named, value) * steps_per_epoch
        else:
            between(named, number(named, value), 0, 1)
            if steps is None:
                raise ConfigError(named, value, "needs the number of optimizer steps")
            last += value * steps
        if round(last) <= starts[-1]:
            raise ConfigError(named, value, "a phase needs at least one optimizer step")
        starts.append(round(last))
    end = starts.pop() if len(starts) > len(phases) else steps
    if steps is not None and end != steps:
        why = f"the phases take {end} optimizer steps, the training has {steps}"
        raise ConfigError("phases", len(phases), f"{why}; without a length the last one takes what is left")
    if end is not None and starts[-1] >= end:
        why = f"would start at step {starts[-1]}, the training has the steps 0 to {end - 1}"
        written = {key: value for key, value in phases[-1].items() if value not in (None, {}, 1.0)}
        raise ConfigError(f"phases.{len(phases) - 1}", written or "{}", f"{why}; it needs a longer training")
    return starts, end
