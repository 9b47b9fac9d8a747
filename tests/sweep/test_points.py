"""Points: the grid of a command, and when two jobs are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lwexp.errors import ConfigError
from lwexp.sweep.points import expand, identity, values_of, varying_keys


def parsed(overrides: Sequence[str]) -> list[Any]:
    return OverridesParser.create().parse_overrides(list(overrides))


def same(job: Sequence[str]) -> str:
    return identity(parsed(job))


def test_a_grid_is_every_combination_the_last_key_fastest() -> None:
    jobs = expand(parsed(["model=lstm", "mult=0.9,1.0", "seed=range(0,3)", "+a.b=choice(x,y)", "model=resnet18"]))
    assert len(jobs) == 12
    assert jobs[0] == ("mult=0.9", "seed=0", "+a.b=x", "model=resnet18")
    assert jobs[1] == ("mult=0.9", "seed=0", "+a.b=y", "model=resnet18")
    assert jobs[-1] == ("mult=1.0", "seed=2", "+a.b=y", "model=resnet18")
    assert varying_keys(jobs) == ["mult", "seed", "a.b"]
    assert values_of(jobs[0], varying_keys(jobs)) == {"mult": "0.9", "seed": "0", "a.b": "x"}


def test_a_range_without_steps_is_for_a_search() -> None:
    with pytest.raises(ConfigError, match="hydra/sweeper=optuna"):
        expand(parsed(["lr=interval(0.1,1.0)"]))


@pytest.mark.parametrize(("one", "other"), [
    (["mult=0.9", "seed=0"], ["seed=0", "mult=0.90"]),
    (["mult=1"], ["mult=1.0"]),
    (["lr=1e-3"], ["lr=0.001"]),
    (["freeze=[a,b]"], ["freeze=[a, b]"]),
    (["lr_overrides={fc: 0.1}"], ["lr_overrides={fc:0.1}"]),
    (["weights.path='a'"], ["weights.path=a"]),
])  # fmt: skip
def test_the_same_however_it_is_typed(one: list[str], other: list[str]) -> None:
    assert same(one) == same(other)


@pytest.mark.parametrize(("one", "other"), [
    (["mult=0.9"], ["mult=0.91"]),
    (["seed=1"], ["seed=true"]),
    (["weights.path='1'"], ["weights.path=1"]),
    (["mult=0.9"], ["mult=0.9", "seed=0"]),
])  # fmt: skip
def test_not_the_same(one: list[str], other: list[str]) -> None:
    assert same(one) != same(other)


@pytest.mark.parametrize(("typed", "job"), [
    (["lr_overrides={fc:0.1}", "lr_overrides={conv1:0.2}"], ("lr_overrides={fc:0.1}", "lr_overrides={conv1:0.2}")),
    (["lr_overrides={fc:0.1}", "lr_overrides=null"], ("lr_overrides=null",)),
    (["freeze=[a]", "freeze=[b]"], ("freeze=[b]",)),
    (["a.b=1", "a=null", "a.b=2"], ("a=null", "a.b=2")),
    (["~callbacks"], ("~callbacks",)),
])  # fmt: skip
def test_a_job_has_the_overrides_of_the_command_in_their_order(typed: list[str], job: tuple[str, ...]) -> None:
    assert expand(parsed(typed)) == [job]


def test_mappings_that_are_swept_add_to_one_that_is_not() -> None:
    jobs = expand(parsed(["lr_overrides={fc:0.1}", "lr_overrides={conv1:0.2},{conv1:0.3},null"]))
    assert jobs == [
        ("lr_overrides={fc:0.1}", "lr_overrides={conv1:0.2}"),
        ("lr_overrides={fc:0.1}", "lr_overrides={conv1:0.3}"),
        ("lr_overrides=null",),
    ]
    assert values_of(jobs[0], ["lr_overrides"]) == {"lr_overrides": "{fc:0.1}+{conv1:0.2}"}
    assert same(jobs[0]) != same(jobs[1])
