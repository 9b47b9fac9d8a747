"""Networks with their right depths: `net` registers a builder, `Network.references` reads what is written."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

Levels = Sequence[Sequence[str]]  # from the stem to the head: for each depth, the patterns of its parameters


@dataclass(frozen=True)
class Network:
    """A network of plain user code: how to build it, an input, and its right depths.

    A pattern is a parameter's or module's name, in which `*` stands for anything. `also` are further right answers;
    `anywhere` are patterns of parameters whose place is open, which are not compared.
    """

    name: str
    build: Callable[[], nn.Module]
    example: Callable[[], Any]
    levels: Levels
    anywhere: Sequence[str]
    also: Sequence[Levels]
    prefix: str  # of the parameters' names, in the container around the network
    module: str  # where it is written

    def references(self, names: Iterable[str]) -> list[dict[str, int]]:
        """Each right answer, as depths by the parameter's name. Every parameter and every pattern must be met."""
        names = list(names)
        return [self._reference(levels, names) for levels in (self.levels, *self.also)]

    def _reference(self, levels: Levels, names: Iterable[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        used = set()
        for name in names:
            full = name.removeprefix("_orig_mod.")
            if not full.startswith(self.prefix):
                raise ValueError(f"{self.name}: {name} is not under {self.prefix}")
            inner = full.removeprefix(self.prefix)
            if any(_matches(pattern, inner) for pattern in self.anywhere):
                continue
            hits = ((depth, p) for depth, patterns in enumerate(levels) for p in patterns if _matches(p, inner))
            hit = next(hits, None)
            if hit is None:
                raise ValueError(f"{self.name}: no answer for {name}")
            found[name] = hit[0]
            used.add(hit)
        unused = [p for depth, patterns in enumerate(levels) for p in patterns if (depth, p) not in used]
        if unused:
            raise ValueError(f"{self.name}: patterns without a parameter: {unused}")
        return found


def _matches(pattern: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")


class Holder(nn.Module):
    """A user's container, or containers in each other."""

    def __init__(self, network: nn.Module, path: str) -> None:
        super().__init__()
        self.first, _, rest = path.partition(".")
        setattr(self, self.first, Holder(network, rest) if rest else network)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.first)(*args, **kwargs)


class Lit(nn.Module):
    """Shaped like a LightningModule: a network, a loss, hyperparameters, steps."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.hparams = {"lr": 1e-3}
        self.criterion = nn.CrossEntropyLoss()
        self.name = name
        setattr(self, name, network)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.name)(*args, **kwargs)

    def training_step(self, batch: Any, index: int) -> Any:
        x, y = batch
        return self.criterion(self(x), y)

    def configure_optimizers(self) -> Any:
        raise NotImplementedError


class Normalize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.mean


NETWORKS: dict[str, Network] = {}


def net(
    example: Callable[[], Any],
    levels: Levels,
    *,
    anywhere: Sequence[str] = (),
    also: Sequence[Levels] = (),
    under: str = "",
    name: str = "",
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register a network. `under` puts it into a container: "model", "a.b", "lit:model" (`Lit`) or "seq"."""
    prefix = {"": "", "seq": "1."}.get(under, under.removeprefix("lit:") + ".")

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        def built() -> nn.Module:
            network = build()
            if not under:
                return network
            if under.startswith("lit:"):
                return Lit(network, under.removeprefix("lit:"))
            return nn.Sequential(Normalize(), network) if under == "seq" else Holder(network, under)

        key = name or build.__name__
        if key in NETWORKS:
            raise ValueError(f"two networks of the name {key}")
        NETWORKS[key] = Network(key, built, example, levels, anywhere, also, prefix, build.__module__)
        return build

    return register


def each(patterns: str | Sequence[str], count: int, start: int = 0) -> list[list[str]]:
    """`count` levels, with the numbers from `start` on in place of `#` in the patterns."""
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return [[pattern.replace("#", str(i)) for pattern in patterns] for i in range(start, start + count)]


def image() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32)


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
