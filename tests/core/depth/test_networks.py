"""Depths of networks of plain user code against right depths written by hand (see depth_of_networks.py)."""

from __future__ import annotations

import sys

import pytest

from tests.helpers.commands import ROOT

sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
import depth_of_networks
from depth_networks import SETS, networks

EXACT = 0.93  # measured: 149 of 156


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the networks' own code
def test_the_order_of_execution_is_right_for_networks_of_users() -> None:
    found = {n.name: depth_of_networks.look(n, "execution") for of in SETS for n in networks(of)}
    assert len(found) == sum(len(networks(of)) for of in SETS) == 156
    by_verdict = {
        verdict: {name for name, one in found.items() if one.verdict == verdict}
        for verdict in depth_of_networks.VERDICTS
    }
    assert not by_verdict["one depth"] | by_verdict["error"] | by_verdict["wrong order"]
    assert len(by_verdict["exact"]) >= EXACT * len(found), by_verdict


@pytest.mark.parametrize(
    "name",
    ["gat_raw_vectors", "gat_v2", "towers_of_two_sizes", "two_tower_retrieval", "token_of_the_last_stage", "list_vit"],
)
@pytest.mark.filterwarnings("ignore")  # of the networks' own code
def test_the_depths_of_a_network_are_right(name: str) -> None:
    (network,) = (network for of in SETS for network in networks(of) if network.name == name)
    found = depth_of_networks.look(network, "execution")
    assert found.verdict == "exact", depth_of_networks.details(network, found)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ([0, 1, 1, 2], "exact"),
        ([0, 1, 2, 3], "finer"),
        ([0, 0, 0, 1], "coarser"),
        ([0, 0, 1, 2], "mixed"),
        ([1, 0, 1, 2], "wrong order"),
        ([0, 0, 0, 0], "one depth"),
    ],
)
def test_verdicts(found: list[int], verdict: str) -> None:
    right = {"a": 0, "b": 1, "c": 1, "d": 2}
    assert depth_of_networks.compare(dict(zip("abcd", found, strict=True)), right) == verdict
