"""Networks that nobody tuned the rules for: as users write them, in any number of wrappers."""

from __future__ import annotations

import pytest
from torch import nn

from lwexp.core.depth import find_depths
from tests.helpers.depth_networks import HeadFirst, UNet
from tests.helpers.user_networks import NETWORKS, Wrapper, right


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_or_block_has_the_depth_of_its_use(name: str) -> None:
    build, example, depths = NETWORKS[name]
    model = build()
    found = find_depths(model, "execution", example)
    assert dict(found.by_name) == right(model, depths)


@pytest.mark.parametrize("name", NETWORKS)
def test_wrappers_change_nothing(name: str) -> None:
    build, example, depths = NETWORKS[name]
    model = nn.Sequential(Wrapper("model", Wrapper("model", build())))
    if isinstance(example, tuple):  # a Sequential takes one input
        model = model[0]
    found = find_depths(model, "execution", example)
    prefix = "model.model." if isinstance(example, tuple) else "0.model.model."
    assert {name.removeprefix(prefix): depth for name, depth in found.by_name.items()} == right(build(), depths)


@pytest.mark.parametrize("source", ["auto", "registration"])
@pytest.mark.parametrize("network", [HeadFirst, UNet, NETWORKS["quickstart"][0], NETWORKS["generator"][0]])
def test_wrappers_change_nothing_without_an_input_or_a_pass(network: type, source: str) -> None:
    plain = find_depths(network(), source)
    wrapped = find_depths(nn.Sequential(nn.Identity(), Wrapper("net", network())), source)
    assert {name.removeprefix("1.net."): depth for name, depth in wrapped.by_name.items()} == plain.by_name
