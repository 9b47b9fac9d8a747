"""Points: the grid of a command, when two jobs are the same, and which uniform twins are missing."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from lwexp.errors import ConfigError
from lwexp.sweep.points import expand, identity, is_uniform, missing_twins, split, values_of, varying_keys


def parsed(overrides: Sequence[str]) -> list[Any]:
    return OverridesParser.create().parse_overrides(list(overrides))


def same(job: Sequence[str]) -> str:
    return identity(parsed(job))


def config(job: Sequence[str]) -> Any:
    """The part of a config that decides on twins."""
    values = dict(split(override) for override in job)
    decay = SimpleNamespace(name=values.get("decay", "linear"))
    return SimpleNamespace(decay=decay, mult=float(values.get("mult", 0.95)))


def test_a_grid_is_every_combination_the_last_key_fastest() -> None:
    jobs = expand(parsed(["model=lstm", "mult=0.9,1.0", "seed=range(0,3)", "+a.b=choice(x,y)", "model=resnet18"]))
    assert len(jobs) == 12
    assert jobs[0] == ("model=resnet18", "mult=0.9", "seed=0", "+a.b=x")
    assert jobs[1] == ("model=resnet18", "mult=0.9", "seed=0", "+a.b=y")
    assert jobs[-1] == ("model=resnet18", "mult=1.0", "seed=2", "+a.b=y")
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


@settings(deadline=None)
@given(
    mults=st.lists(st.sampled_from(["0.8", "0.9", "1", "1.0", "1.1"]), min_size=1, unique=True),
    rates=st.lists(st.sampled_from(["0.1", "0.01"]), min_size=1, unique=True),
    seeds=st.lists(st.sampled_from(["0", "1", "2"]), min_size=1, unique=True),
    decays=st.lists(st.sampled_from(["linear", "cosine", "none"]), min_size=1, unique=True),
)
def test_every_seed_and_rate_has_one_uniform_twin(
    mults: list[str], rates: list[str], seeds: list[str], decays: list[str]
) -> None:
    grid = [f"mult={','.join(mults)}", f"lr={','.join(rates)}", f"seed={','.join(seeds)}", f"decay={','.join(decays)}"]
    jobs = expand(parsed(grid))
    swept = ["mult", "lr", "seed", "decay"]
    twins = missing_twins([(job, config(job)) for job in jobs], swept, same)
    assert all(is_uniform(config(job), job, swept) for job in twins)
    uniform = [job for job in jobs if is_uniform(config(job), job, swept)]
    places = [(dict(map(split, job))["lr"], dict(map(split, job))["seed"]) for job in twins]
    assert len(set(places)) == len(places)  # at most one is added for each
    assert not set(places) & {(dict(map(split, job))["lr"], dict(map(split, job))["seed"]) for job in uniform}
    there = {(dict(map(split, job))["lr"], dict(map(split, job))["seed"]) for job in [*uniform, *twins]}
    assert there == {(rate, seed) for rate in rates for seed in seeds}
    again = missing_twins([(job, config(job)) for job in [*jobs, *twins]], swept, same)
    assert again == []


def test_a_twin_leaves_the_rest_and_drops_swept_rates_of_parts() -> None:
    jobs = expand(parsed(["lr_overrides.fc=0.1,0.2", "optimizer=sgd", "lr_overrides.conv1=0.3", "mult=0.9"]))
    twins = missing_twins([(job, config(job)) for job in jobs], ["lr_overrides.fc"], same)
    assert twins == [("optimizer=sgd", "lr_overrides.conv1=0.3", "mult=1")]


def test_groupings_share_their_twin() -> None:
    jobs = expand(parsed(["grouping=top_module,per_parameter", "seed=0,1", "mult=0.9"]))
    twins = missing_twins([(job, config(job)) for job in jobs], ["grouping", "seed"], same)
    assert twins == [("grouping=top_module", f"seed={seed}", "mult=1") for seed in (0, 1)]
