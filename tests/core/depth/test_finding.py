"""Every source gives every parameter a depth, without gaps and without side effects."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from lwexp.core.depth import find_depths
from lwexp.errors import UnknownNameError
from tests.helpers.depth_networks import (
    NETWORKS,
    Choosy,
    HeadFirst,
    LSTMClassifier,
    Parallel,
    Stateful,
    UNet,
    modules,
    timm_model,
)

SOURCES = ["auto", "execution", "registration"]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
@pytest.mark.parametrize("source", ["auto", "registration"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_every_parameter_has_a_depth_and_depths_have_no_gaps(network: type, source: str, device: str) -> None:
    model = network().to(device)
    depths = find_depths(model, source)
    assert list(depths.by_name) == [name for name, _ in model.named_parameters()]
    assert set(depths.by_name.values()) == set(range(max(depths.by_name.values()) + 1))


@pytest.mark.parametrize("network", [HeadFirst, LSTMClassifier, Parallel, UNet])
def test_depths_are_the_same_on_the_meta_device_and_from_run_to_run(network: type) -> None:
    assert find_depths(network()) == find_depths(network().to("meta")) == find_depths(network())


@pytest.mark.parametrize("source", SOURCES)
def test_the_model_stays_exactly_as_it_is(source: str) -> None:
    model = Stateful().train()
    model.norm.eval()
    model.layer.weight.requires_grad_(False)
    seen: list[object] = []
    model.layer.register_forward_hook(lambda *_: seen.append(1))
    before, rng = pickle.dumps(dict(model.state_dict())), torch.get_rng_state()
    tensors = [*model.parameters(), *model.buffers()]
    find_depths(model, source)
    assert pickle.dumps(dict(model.state_dict())) == before
    assert all(old is new for old, new in zip(tensors, [*model.parameters(), *model.buffers()], strict=True))
    assert torch.equal(torch.get_rng_state(), rng)
    assert (model.training, model.norm.training, model.layer.training) == (True, False, True)
    assert not model.layer.weight.requires_grad
    assert model.layer.bias.requires_grad
    assert (seen, model.cache, model.last) == ([], {}, None)


def test_a_model_without_parameters_has_no_depths() -> None:
    assert find_depths(nn.ReLU()).by_name == {}


def test_a_single_layer_has_depth_zero() -> None:
    assert find_depths(nn.Linear(3, 2)).by_name == {"weight": 0, "bias": 0}


def test_an_unknown_source_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"grouping\.source=exection: .*did you mean execution\?"):
        find_depths(nn.Linear(3, 2), "exection")


def test_without_an_input_that_fits_auto_takes_the_order_of_registration_and_says_so() -> None:
    depths = find_depths(Choosy())
    assert depths.source == "registration"
    assert modules(depths) == [{"head"}, {"body"}]
    assert "no forward pass got through, tried" in depths.notes[0]
    assert "order in which modules were registered" in depths.notes[1]


def test_many_layers_take_time_in_proportion() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(1500)))
    assert max(find_depths(model, "execution").by_name.values()) == 1499


def test_registration_orders_whole_blocks_and_says_what_it_is() -> None:
    depths = find_depths(timm_model("convnext_atto"), "registration")
    assert depths.source == "registration"
    assert len(depths.notes) == 1
    assert depths.by_name["stages.1.downsample.1.weight"] == depths.by_name["stages.1.blocks.0.mlp.fc1.weight"] == 3
    assert max(depths.by_name.values()) == 13


def test_freezing_moves_no_depth() -> None:
    model = HeadFirst()
    expected = find_depths(model).by_name
    model.stem.requires_grad_(False)
    model.blocks[0].up.weight.requires_grad_(False)
    assert find_depths(model).by_name == expected
