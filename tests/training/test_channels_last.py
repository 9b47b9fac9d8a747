"""`channels_last=true`: another order in memory, the same names and values everywhere."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lwexp.config.data_schema import DigitsConfig
from lwexp.core.optim.state_by_name import load_optimizer
from lwexp.data import Preprocessing, eval_loader, open_data
from lwexp.experiment.on_device import put_channels_last
from lwexp.training.checkpoint.weights import load_weights, read_weights, save_weights


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(1), nn.Linear(4 * 36, 2))


def is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_weights_keep_their_names_their_values_and_their_file(tmp_path: Path) -> None:
    plain, turned = network(), network()
    put_channels_last(turned)
    weight = turned[0].weight
    assert is_channels_last(weight)
    save_weights(plain.state_dict(), tmp_path / "plain.safetensors")
    save_weights(turned.state_dict(), tmp_path / "turned.safetensors")
    files = [load_file(tmp_path / f"{name}.safetensors") for name in ("plain", "turned")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    load_weights(turned, read_weights(tmp_path / "plain.safetensors"), tmp_path / "plain.safetensors")
    assert turned[0].weight is weight
    assert is_channels_last(weight)


def test_weights_of_five_dimensions_stay_as_they_are() -> None:
    module = nn.Conv3d(1, 1, 2)
    put_channels_last(module)
    assert module.weight.is_contiguous()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_batches_have_the_same_values(workers: int) -> None:
    values = {"image_size": None, "split_seed": 0, "augment": True, "workers": 0}
    source = open_data(DigitsConfig(name="digits", **values))
    val = source.datasets(Preprocessing(8, 3, (0.5,) * 3, (0.5,) * 3), augment=False, seed=0).val
    loaders = [
        eval_loader(val, batch_size=100, workers=workers, device="cpu", channels_last=turned)
        for turned in (False, True)
    ]
    for (plain, _), (turned, _) in zip(*loaders, strict=True):
        assert is_channels_last(turned)
        assert torch.equal(plain, turned)
    for loader in loaders:
        loader.close()


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_state_of_the_other_order_goes_on_with_the_same_numbers(fused: bool) -> None:
    """torch's fused kernel on a CPU takes each tensor as it lies in memory, and would pair the wrong elements."""
    plain, turned = network(), network()
    put_channels_last(turned)
    images = torch.randn(2, 3, 8, 8)
    first = torch.optim.Adam(plain.parameters(), lr=0.1, fused=fused)
    for _ in range(2):
        plain(images).square().sum().backward()
        first.step()
        first.zero_grad()
    turned.load_state_dict(plain.state_dict())
    second = torch.optim.Adam(turned.parameters(), lr=0.1, fused=fused)
    names = [name for name, _ in turned.named_parameters()]
    load_optimizer(second, names, copy.deepcopy(first.state_dict()), names, remap=False)
    for parameter, other in zip(plain.parameters(), turned.parameters(), strict=True):
        parameter.grad = torch.randn_like(parameter)
        other.grad = torch.empty_like(other).copy_(parameter.grad)
    first.step()
    second.step()
    for parameter, other in zip(plain.parameters(), turned.parameters(), strict=True):
        torch.testing.assert_close(other, parameter, rtol=1e-6, atol=1e-7)
