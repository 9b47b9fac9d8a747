"""Networks inside the wrappers of frameworks, and data that fit them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lwexp import make_plan
from lwexp.core.plan import Plan
from tests.helpers.networks import TinyNet


def tiny_batches(count: int = 8, size: int = 4) -> DataLoader[tuple[torch.Tensor, ...]]:
    """`count` batches of images and labels for `TinyNet`, always the same and in the same order."""
    random = torch.Generator().manual_seed(0)
    images = torch.randn(count * size, 1, 8, 8, generator=random)
    labels = torch.randint(3, (count * size,), generator=random)
    return DataLoader(TensorDataset(images, labels), batch_size=size)


def seeded_tiny() -> TinyNet:
    torch.manual_seed(0)
    return TinyNet()


def without_data(build: type[nn.Module] | object, **options: object) -> nn.Module:
    with torch.device("meta"):
        return build(**options)  # type: ignore[operator, no-any-return]


def bare_and_wrapped(bare: nn.Module, wrapper: nn.Module, prefix: str) -> tuple[Plan, Plan]:
    """The plans by depth of both, after a check that they have the same groups with the same rates."""
    plans = [make_plan(model, grouping="depth_index", lr=0.1, mult=0.9) for model in (bare, wrapper)]
    expected = [(g.lr, {f"{prefix}{name}" for name in g.parameter_names}) for g in plans[0].groups]
    assert [(g.lr, {*g.parameter_names}) for g in plans[1].groups] == expected
    return plans[0], plans[1]


def changed(before: Mapping[str, torch.Tensor], model: nn.Module) -> set[str]:
    """The parameters of `model` that differ from `before`."""
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
