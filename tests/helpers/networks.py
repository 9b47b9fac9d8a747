"""Networks that many tests train or plan."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn


class Block(nn.Module):
    """A convolution and its norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(self.conv(x)).relu()


class TinyNet(nn.Module):
    """Stem, four blocks and a head, with names that tell where a parameter is: 2 + 4 * 3 + 2 = 16 parameters."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.blocks = nn.Sequential(*(Block(4) for _ in range(4)))
        self.head = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))


def conv_network(classes: int = 2, *, channels: int = 1, width: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = {
        "stem": nn.Conv2d(channels, width, 3),
        "norm": nn.BatchNorm2d(width),
        "body": nn.Conv2d(width, 6, 3),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "head": nn.Linear(6, classes),
    }
    return nn.Sequential(OrderedDict(layers))


def same_weights(left: nn.Module, right: nn.Module, but: str = "never") -> bool:
    pairs = zip(left.state_dict().items(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for (name, a), b in pairs if not name.startswith(but))


class Tied(nn.Module):
    """Two names for one tensor, a view, and a tensor that is not contiguous."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        whole = torch.randn(6, 2)
        self.register_buffer("part", whole[1:3])
        self.register_buffer("turned", whole.t())
