"""Networks whose depths are known, and depths as sets of names."""

from __future__ import annotations

from collections.abc import Mapping

import timm
import torch
from timm.models._manipulate import group_with_matcher
from torch import nn

from lwexp.core.depth import Depths


def groups(depths: Depths) -> list[set[str]]:
    """Names by depth, from the stem."""
    found: list[set[str]] = [set() for _ in range(max(depths.by_name.values()) + 1)]
    for name, depth in depths.by_name.items():
        found[depth].add(name)
    return found


def modules(depths: Depths) -> list[set[str]]:
    """Names of the modules that own parameters, by depth, from the stem."""
    return [{name.rpartition(".")[0] or name for name in names} for names in groups(depths)]


def timm_model(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **options)


def timm_depths(model: nn.Module) -> dict[str, int]:
    return group_with_matcher(model.named_parameters(), model.group_matcher(coarse=False), reverse=True)


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class LSTMClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.lstm = nn.LSTM(8, 8, num_layers=3, batch_first=True)
        self.embedding = nn.Embedding(20, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(ids))[0][:, -1])


class GRUClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(rows)[0].mean(1))


class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(8, 20)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.embedding = nn.Embedding(20, 8)
        self.decoder.weight = self.embedding.weight
        self.position = nn.Parameter(torch.zeros(16, 8))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids) + self.position[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.decoder(self.norm(x))


class HeadFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)
        self.auxiliary = nn.Linear(8, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.unused = nn.Linear(4, 4)
        self.stem = nn.Conv2d(3, 8, 4, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images).flatten(2).mT
        for block in reversed(self.blocks):
            x = block(x)
        return self.fc(x.mean(1))


class Parallel(nn.Module):
    """Two branches of two blocks each on the same input, registered one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.left = nn.Sequential(Block(), Block())
        self.right = nn.Sequential(Block(), Block())
        self.head = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(torch.cat([self.left(x), self.right(x)], -1))


class Mixed(nn.Module):
    """Blocks with branches side by side in each."""

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(Block() for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return sum(branch(x) for branch in self.branches)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.cells = nn.Sequential(self.Cell(), self.Cell())
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(self.stem(x)))


class Recurrent(nn.Module):
    """Two blocks used three times over."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.again = self.blocks[0]
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for _ in range(3):
            for block in self.blocks:
                x = block(x)
        return self.head(x)


def double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Conv2d(4, 2, 1)
        self.ups = nn.ModuleList([double(16 + 8, 8), double(8 + 4, 4)])
        self.downs = nn.ModuleList([double(3, 4), double(4, 8)])
        self.middle = double(8, 16)
        self.resize = nn.ModuleList([nn.ConvTranspose2d(16, 16, 2, 2), nn.ConvTranspose2d(8, 8, 2, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.middle(x)
        for resize, up in zip(self.resize, self.ups, strict=True):
            x = up(torch.cat([resize(x), skips.pop()], 1))
        return self.out(x)


class EncoderDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)
        self.transformer = nn.Transformer(8, 2, 2, 2, 16, batch_first=True)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.head(self.transformer(source, target))


class ByValue(nn.Module):
    """Its course depends on a computed number."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.first = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(-x if x.sum().item() > 0 else x)


class Choosy(nn.Module):
    """No input that could be guessed gets through."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.body = nn.Linear(7, 4)

    def forward(self, table: Mapping[str, torch.Tensor], *, scale: float) -> torch.Tensor:
        return self.head(self.body(table["rows"] * scale))


class Functional(nn.Module):
    """Parameters that no module's own forward takes: a view, a table, a token, attention's fused projections."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.blocks = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(3))
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.table = nn.Parameter(torch.zeros(17, 8))
        self.weight = nn.Parameter(torch.zeros(10, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), nn.functional.linear(x, self.weight.mT)], 1)
        x = x + self.table[: x.shape[1]]
        for block in self.blocks:
            x = x + block(x, x, x)[0]
        return self.head(x[:, 0])


class Stateful(nn.Module):
    """Everything that a careless forward pass would leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.cache: dict[str, torch.Tensor] = {}
        self.last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.cache["x"] = self.last = self.layer(self.drop(self.norm(x)))
        return self.last


class Layered(nn.Module):
    """Stages in a container, each a down-sampling and its blocks; a conv between, a norm before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), double(4, 4))
        self.stages = nn.Sequential(
            nn.Sequential(*(double(4, 4) for _ in range(2))),
            nn.Conv2d(4, 64, 3, 2, 1),
            nn.Sequential(*(double(64, 64) for _ in range(3))),
        )
        self.norm = nn.GroupNorm(1, 64)
        self.pool = nn.Sequential(nn.Conv2d(64, 8, 1), nn.GroupNorm(1, 8), nn.Conv2d(8, 64, 1))
        self.head = nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stages(self.stem(x)))
        return self.head((x * self.pool(x)).mean((2, 3)))


class Described(nn.Module):
    """Three blocks and a description of one's own; `matcher` is what `group_matcher` gives."""

    def __init__(self, matcher: object) -> None:
        super().__init__()
        self.matcher = matcher
        self.norm = nn.LayerNorm(8)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.between = nn.Linear(8, 8)
        self.never = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def group_matcher(self, coarse: bool = False) -> object:
        return self.matcher

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks[1](self.blocks[0](x))
        return self.head(self.norm(self.blocks[2](self.between(x))))


NETWORKS = [
    LSTMClassifier,
    GRUClassifier,
    TiedLanguageModel,
    HeadFirst,
    Parallel,
    Mixed,
    Recurrent,
    UNet,
    EncoderDecoder,
    ByValue,
    Choosy,
    Functional,
    Stateful,
]
