"""The names and options that editors and type checkers know are those of the registries."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args, get_type_hints

import timm.optim
import torch

from lwexp import DecayName, GroupingName, OptimizerName, PolicyName, make_plan
from lwexp.core.decay import ALIASES as DECAY_ALIASES
from lwexp.core.decay import DECAYS, DecayOptions
from lwexp.core.grouping import GROUPINGS, GroupingOptions
from lwexp.core.measured import RULES
from lwexp.core.optim.names import (
    OptimizerOptions,
    PrefixedOptimizerName,
    TimmOptimizerName,
    TorchOptimizerName,
)
from lwexp.core.optim.registry import UNSUPPORTED, torch_optimizers
from lwexp.core.plan import Plan
from lwexp.core.policy import PolicyOptions, common
from lwexp.core.schedule import ScheduleOptions
from lwexp.core.shapes import ALIASES, POLICIES

KNOWN = {"steps", "lr", "steps_per_epoch"}  # of the training, filled in where a policy needs them


def options_of(functions: Iterable[Callable[..., Any]]) -> dict[str, set[Any]]:
    """The annotations of the keyword-only arguments, by name."""
    found: dict[str, set[Any]] = {}
    for function in functions:
        hints = get_type_hints(function)
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY:
                found.setdefault(name, set()).add(
                    str(hints[name]).replace("list[int]", "collections.abc.Sequence[int]")
                )
    return found


def written(options: Any) -> dict[str, set[str]]:
    return {name: {str(hint)} for name, hint in get_type_hints(options).items()}


def test_names_are_those_of_the_registries() -> None:
    assert {*get_args(GroupingName)} == GROUPINGS.keys()
    assert {*get_args(DecayName)} == DECAYS.keys() | DECAY_ALIASES.keys() | RULES.keys()
    assert {*get_args(PolicyName)} == POLICIES.keys() | ALIASES.keys()


def test_optimizers_are_those_that_are_installed() -> None:
    assert {*get_args(TorchOptimizerName)} == torch_optimizers().keys() - UNSUPPORTED.keys()
    assert {*get_args(TimmOptimizerName)} == {*timm.optim.list_optimizers()} - torch_optimizers().keys()
    prefixed = get_args(PrefixedOptimizerName)
    assert {*get_args(OptimizerName)} == {*get_args(TorchOptimizerName), *get_args(TimmOptimizerName), *prefixed}
    plan = make_plan(torch.nn.Linear(4, 4, bias=False))
    assert {type(plan.optimizer(name)) for name in prefixed} == {timm.optim.Muon, torch.optim.Muon}


def test_options_are_those_of_the_functions() -> None:
    assert written(GroupingOptions) == options_of(GROUPINGS.values())
    assert written(DecayOptions) == {**options_of(DECAYS.values()), "stem_lr": {"float | None"}}  # of with_ends
    policies = options_of([common, *POLICIES.values()])
    assert written(PolicyOptions) == {name: hints for name, hints in policies.items() if name not in KNOWN}


def test_options_of_schedules_are_the_arguments_of_schedule() -> None:
    own = {name for name, p in inspect.signature(Plan.schedule).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert {*get_type_hints(ScheduleOptions)} == {*get_type_hints(PolicyOptions)} | (own - {"steps"})


def test_options_of_optimizers_are_their_arguments() -> None:
    found: dict[str, None] = {}
    for name in get_args(TorchOptimizerName):
        found.update(dict.fromkeys(inspect.signature(torch_optimizers()[name]).parameters))
    assert {*get_type_hints(OptimizerOptions)} == found.keys() - {"params", "lr"}


def test_an_option_has_one_type_in_all_functions() -> None:
    everything: Mapping[str, set[Any]] = options_of([common, *POLICIES.values()])
    assert {name: hints for name, hints in everything.items() if len(hints) > 1} == {
        "steps": {"<class 'int'>", "int | None"},
    }
