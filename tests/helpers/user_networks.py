"""Networks as users write them, each with an input and the right depths: modules by depth, from the stem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from tests.helpers.depth_networks import Block, double

IDS = torch.ones(2, 12, dtype=torch.long)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any, list[str]]] = {}


def network(example: Any, *depths: str) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Enter the decorated builder into `NETWORKS`; `depths`: names of modules, separated by blanks, for each depth."""

    def enter(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        NETWORKS[build.__name__] = (build, example, [*depths])
        return build

    return enter


def right(model: nn.Module, depths: Sequence[str]) -> dict[str, int]:
    """Depth by name of a parameter; `a.rnn@l0` is the first layer of an RNN."""
    found: dict[str, int] = {}
    for depth, modules in enumerate(depths):
        for module in modules.split():
            prefix, _, layer = module.partition("@")
            for name, _ in model.named_parameters():
                inside = name == prefix or name.startswith(f"{prefix}.")
                if inside and (not layer or f"_{layer}" in name):
                    found[name] = depth
    return found


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Wrapper(nn.Module):
    """A pure container: one network under a name of one's own."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.name = name
        setattr(self, name, inner)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.name)(*args, **kwargs)


class Built(nn.Module):
    """Modules by name and a forward pass as a function of the network and its inputs."""

    def __init__(self, run: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: Any) -> Any:
        return self.run(self, *inputs)


@network(torch.zeros(2, 28), "stack.0", "stack.2", "stack.4")
def quickstart() -> nn.Module:
    return Wrapper("stack", nn.Sequential(*mlp(28, 32, 32, 10)))


@network(torch.zeros(2, 8), "lit.model.net.0", "lit.model.net.2", "lit.model.net.4")
def wrapped_thrice() -> nn.Module:
    return Wrapper("lit", Wrapper("model", Wrapper("net", mlp(8, 16, 16, 3))))


@network(torch.zeros(2, 9, 1, 1), "main.0 main.1", "main.3 main.4", "main.6")
def generator() -> nn.Module:
    up = [nn.ConvTranspose2d(9, 16, 4), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 8, 4, 2, 1)]
    return Wrapper("main", nn.Sequential(*up, nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1)))


@network(torch.zeros(2, 8), "q1.0 q2.0", "q1.2 q2.2", "q1.4 q2.4")
def twin_critics() -> nn.Module:
    return Built(lambda net, x: (net.q1(x), net.q2(x)), q1=mlp(8, 16, 16, 1), q2=mlp(8, 16, 16, 1))


@network(
    torch.zeros(2, 8), "q.0.0 q.1.0 q.2.0 q.3.0", "q.0.2 q.1.2 q.2.2 q.3.2", "q.0.4 q.1.4 q.2.4 q.3.4"
)  # fmt: skip
def ensemble() -> nn.Module:
    members = nn.ModuleList(mlp(8, 16, 16, 1) for _ in range(4))
    return Built(lambda net, x: torch.stack([member(x) for member in net.q]), q=members)


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.mlp = nn.Embedding(50, 16), mlp(16, 32, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.table(ids))


@network((IDS[0], IDS[0]), "user.table item.table", "user.mlp.0 item.mlp.0", "user.mlp.2 item.mlp.2")
def two_towers() -> nn.Module:
    return Built(lambda net, u, i: (net.user(u) * net.item(i)).sum(-1), user=Tower(), item=Tower())


class LanguageModel(nn.Module):
    """Its untied head outweighs its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5000, 8)
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5000, bias=False)

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(ids))


@network(IDS, "lm.table", "lm.layers.0", "lm.layers.1", "lm.layers.2 lm.norm", "lm.head")
def large_head() -> nn.Module:
    return Wrapper("lm", LanguageModel())


@network(IDS, "lm.table", "lm.layers.0", "lm.layers.1", "lm.layers.2 lm.norm", "lm.head value")
def value_head() -> nn.Module:
    def run(net: Any, ids: torch.Tensor) -> Any:
        hidden = net.lm.hidden(ids)
        return net.lm.head(hidden), net.value(hidden)

    return Built(run, value=nn.Linear(8, 1), lm=LanguageModel())


@network(torch.zeros(2, 64), "encoder.0", "encoder.2", "encoder.4", "decoder.0", "decoder.2", "decoder.4")
def autoencoder() -> nn.Module:
    parts = {"decoder": mlp(4, 16, 32, 64), "encoder": mlp(64, 32, 16, 4)}
    return Built(lambda net, x: net.decoder(net.encoder(x)), **parts)


@network(torch.zeros(2, 8), "critic.0 actor.0", "critic.2 actor.2", "critic.4 actor.4")
def policy_as_distribution() -> nn.Module:
    parts = {"critic": mlp(8, 16, 16, 1), "actor": mlp(8, 16, 16, 3)}
    return Built(lambda net, x: (torch.distributions.Categorical(logits=net.actor(x)), net.critic(x)), **parts)


@network(
    (IDS, IDS), "source.0 target.0", "source.1@l0", "source.1@l1", "target.1@l0", "target.1@l1", "out"
)  # fmt: skip
def translation() -> nn.Module:
    def half() -> nn.ModuleList:
        return nn.ModuleList([nn.Embedding(20, 8), nn.LSTM(8, 8, 2, batch_first=True)])

    def run(net: Any, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        _, state = net.source[1](net.source[0](source))
        return net.out(net.target[1](net.target[0](target), state)[0])

    return Built(run, out=nn.Linear(8, 20), target=half(), source=half())


@network(IDS, "table", "encoder@l0", "decoder", "out")
def greedy_decoder() -> nn.Module:
    def run(net: Any, ids: torch.Tensor) -> torch.Tensor:
        state = net.encoder(net.table(ids))[1][0]
        token, steps = torch.zeros(ids.shape[0], dtype=torch.long), []
        for _ in range(3):
            state = net.decoder(net.table(token), state)
            steps.append(net.out(state))
            token = steps[-1].argmax(-1)
        return torch.stack(steps, 1)

    cell, encoder = nn.GRUCell(8, 16), nn.GRU(8, 16, batch_first=True)
    return Built(run, out=nn.Linear(16, 20), decoder=cell, encoder=encoder, table=nn.Embedding(20, 8))


class RawLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (8, 16, 16, 3)
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(a, b)) for a, b in pairwise(widths))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(b)) for b in widths[1:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = (x @ weight + bias).relu()
        return x


@network(torch.zeros(2, 8), "weights.0 biases.0", "weights.1 biases.1", "weights.2 biases.2")
def raw_layers() -> nn.Module:
    return RawLayers()


@network(
    torch.zeros(2, 4, 16), "start", *(f"filters.{i} gates.{i} skips.{i} mixes.{i}" for i in range(4)), "end1 end2"
)  # fmt: skip
def layers_in_parallel_lists() -> nn.Module:
    def convs() -> nn.ModuleList:
        return nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(4))

    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        x, total = net.start(x), torch.zeros(())
        for filters, gate, skip, mix in zip(net.filters, net.gates, net.skips, net.mixes, strict=True):
            inner = filters(x).tanh() * gate(x).sigmoid()
            total = total + skip(inner)
            x = x + mix(inner)
        return net.end2(net.end1(total).relu())

    lists = {name: convs() for name in ("mixes", "gates", "skips", "filters")}
    return Built(run, **lists, start=nn.Conv1d(4, 8, 1), end1=nn.Conv1d(8, 8, 1), end2=nn.Conv1d(8, 2, 1))


@network(
    torch.zeros(2, 1, 16, 24), "cnn.0 cnn.1", "cnn.3 cnn.4", "cnn.6 cnn.7", "rnn@l0", "rnn@l1", "fc"
)  # fmt: skip
def recognizer() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs in (1, 8, 8):
        layers += [nn.Conv2d(inputs, 8, 3, padding=1), nn.BatchNorm2d(8), nn.MaxPool2d((2, 1))]
    rnn = nn.LSTM(16, 16, 2, bidirectional=True, batch_first=True)

    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        return net.fc(net.rnn(net.cnn(x).permute(0, 3, 1, 2).flatten(2))[0])

    return Built(run, fc=nn.Linear(32, 10), rnn=rnn, cnn=nn.Sequential(*layers))


@network(torch.zeros(2, 5, 8), "stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "head")
def skipped_blocks() -> nn.Module:
    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        for i in (0, 3):
            x = net.blocks[i](x)
        return net.head(x.mean(1))

    return Built(run, stem=nn.Linear(8, 8), blocks=nn.ModuleList(Block() for _ in range(4)), head=nn.Linear(8, 2))


@network((torch.zeros(2, 5, 8), torch.zeros(2, 8)), "inward time", "blocks.0", "blocks.1", "blocks.2", "last outward")
def late_modulation() -> nn.Module:
    def run(net: Any, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        x, condition = net.inward(x), net.time(time).relu()
        for block in net.blocks:
            x = block(x + condition[:, None])
        return net.outward(x * net.last(condition)[:, None])

    parts = {name: nn.Linear(8, 8) for name in ("last", "outward", "inward", "time")}
    return Built(run, blocks=nn.ModuleList(Block() for _ in range(3)), **parts)


@network(
    torch.zeros(2, 3, 16, 16), "stem", "stages.0", "stages.1", "stages.2", "heads.0 heads.1 heads.2"
)  # fmt: skip
def heads_in_a_list() -> nn.Module:
    def run(net: Any, x: torch.Tensor) -> list[torch.Tensor]:
        x, outputs = net.stem(x), []
        for stage in net.stages:
            x = stage(x)
            outputs.append(x)
        return [head(x) for head, x in zip(net.heads, outputs, strict=True)]

    stages = nn.ModuleList(double(4, 4) for _ in range(3))
    return Built(run, heads=nn.ModuleList(double(4, 2) for _ in range(3)), stages=stages, stem=nn.Conv2d(3, 4, 1))


class Merging(nn.Module):
    """Blocks, and a layer at their end that halves the data, as in transformers' Swin."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.downsample = nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x.reshape(x.shape[0], -1, 2 * x.shape[2]))


@network(
    torch.zeros(2, 16, 8), "stem", "stages.0.blocks.0", "stages.0.blocks.1", "stages.0.downsample stages.1.blocks.0",
    "stages.1.blocks.1 stages.1.downsample", "head",
)  # fmt: skip
def merging_stages() -> nn.Module:
    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        return net.head(net.stages(net.stem(x)).mean(1))

    return Built(run, head=nn.Linear(8, 2), stages=nn.Sequential(Merging(8), Merging(8)), stem=nn.Linear(8, 8))


@network(
    torch.zeros(2, 3, 16, 16), "features.conv.0", "features.conv.3", "features.conv.6", "classifier.1", "classifier.3"
)  # fmt: skip
def nested_containers() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs in (3, 8, 8):
        layers += [nn.Conv2d(inputs, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 10))
    features = Wrapper("conv", nn.Sequential(*layers))
    return Built(lambda net, x: net.classifier(net.features(x)), classifier=classifier, features=features)
