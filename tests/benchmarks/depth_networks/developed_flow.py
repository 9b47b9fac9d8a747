"""Prompts, early exits, nested and dense connections, unused blocks, hooks, an input that is a dataclass."""

import dataclasses

import torch
from torch import nn
from torch.nn import functional

from .developed_basics import Block
from .developed_paths import BasicBlock
from .registry import each, net


@net(
    lambda: torch.randn(2, 3, 32, 32),
    [["patch", "pos"], *each(["prompts.#", "blocks.#"], 3), ["prompts.3", "blocks.3", "norm"], ["head"]],
    also=[[["patch", "pos"], *each(["prompts.#", "blocks.#"], 4), ["norm", "head"]]],
)
def deep_prompts():
    class VPT(nn.Module):
        def __init__(self, d=32):
            super().__init__()
            self.patch = nn.Conv2d(3, d, 8, 8)
            self.pos = nn.Parameter(torch.zeros(1, 16, d))
            self.prompts = nn.ParameterList([nn.Parameter(torch.zeros(1, 4, d)) for _ in range(4)])
            self.blocks = nn.ModuleList([Block(d) for _ in range(4)])
            self.norm = nn.LayerNorm(d)
            self.head = nn.Linear(d, 10)

        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2) + self.pos
            for prompt, block in zip(self.prompts, self.blocks):
                x = block(torch.cat([prompt.expand(len(x), -1, -1), x], 1))[:, 4:]
            return self.head(self.norm(x.mean(1)))

    return VPT()


@net(
    lambda: torch.randn(2, 3, 32, 32),
    [["stem"], ["block1", "exit1"], ["block2", "exit2"], ["block3"], ["fc"]],
    also=[
        [["stem"], ["block1"], ["block2"], ["block3"], ["fc", "exit1", "exit2"]],
        [["stem"], ["block1"], ["block2", "exit1"], ["block3", "exit2"], ["fc"]],
    ],
)
def early_exit():
    class Branchy(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            self.block1, self.block2, self.block3 = BasicBlock(8, 8), BasicBlock(8, 16, 2), BasicBlock(16, 32, 2)
            self.exit1, self.exit2 = nn.Linear(8, 10), nn.Linear(16, 10)
            self.fc = nn.Linear(32, 10)

        def forward(self, x):
            a = self.block1(self.stem(x))
            b = self.block2(a)
            c = self.block3(b)
            return self.exit1(a.mean((2, 3))), self.exit2(b.mean((2, 3))), self.fc(c.mean((2, 3)))

    return Branchy()


@net(
    lambda: torch.randn(1, 3, 64, 64),
    [
        ["model.model.0"],
        ["model.model.1.model.1"],
        ["model.model.1.model.3.model.1"],
        ["model.model.1.model.3.model.3.model.1"],
        ["model.model.1.model.3.model.3.model.3", "model.model.1.model.3.model.3.model.4"],
        ["model.model.1.model.3.model.5", "model.model.1.model.3.model.6"],
        ["model.model.1.model.5", "model.model.1.model.6"],
        ["model.model.3"],
    ],
    anywhere=["model.model.1.model.2", "model.model.1.model.3.model.2", "model.model.1.model.3.model.3.model.2"],
)
def pix2pix_unet():
    class Skip(nn.Module):
        def __init__(self, outer, inner, sub=None, outermost=False, innermost=False):
            super().__init__()
            self.outermost = outermost
            down = nn.Conv2d(outer if not outermost else 3, inner, 4, 2, 1, bias=False)
            if outermost:
                model = [down, sub, nn.ReLU(), nn.ConvTranspose2d(2 * inner, 3, 4, 2, 1), nn.Tanh()]
            elif innermost:
                model = [
                    nn.LeakyReLU(0.2),
                    down,
                    nn.ReLU(),
                    nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=False),
                    nn.BatchNorm2d(outer),
                ]
            else:
                model = [
                    nn.LeakyReLU(0.2),
                    down,
                    nn.BatchNorm2d(inner),
                    sub,
                    nn.ReLU(),
                    nn.ConvTranspose2d(2 * inner, outer, 4, 2, 1, bias=False),
                    nn.BatchNorm2d(outer),
                ]
            self.model = nn.Sequential(*model)

        def forward(self, x):
            return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)

    class UnetGenerator(nn.Module):
        def __init__(self):
            super().__init__()
            block = Skip(32, 64, innermost=True)
            block = Skip(16, 32, block)
            block = Skip(8, 16, block)
            self.model = Skip(3, 8, block, outermost=True)

        def forward(self, x):
            return self.model(x)

    return UnetGenerator()


@net(
    lambda: torch.randn(2, 3, 32, 32),
    [
        ["conv1"],
        *[[f"block{s}.layer.{i}"] for s in (1,) for i in range(4)],
        *[["trans1", "block2.layer.0"]],
        *[[f"block2.layer.{i}"] for i in (1, 2, 3)],
        ["bn1"],
        ["fc"],
    ],
    also=[
        [
            ["conv1"],
            *each("block1.layer.#", 4),
            ["trans1", "block2.layer.0"],
            *each("block2.layer.#", 2, 1),
            ["block2.layer.3", "bn1"],
            ["fc"],
        ]
    ],
)
def densenet40():
    class Layer(nn.Module):
        def __init__(self, i, k=12):
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(i), nn.Conv2d(i, k, 3, 1, 1, bias=False)

        def forward(self, x):
            return torch.cat([x, self.conv1(functional.relu(self.bn1(x)))], 1)

    class Dense(nn.Module):
        def __init__(self, i):
            super().__init__()
            self.layer = nn.Sequential(*[Layer(i + 12 * j) for j in range(4)])

        def forward(self, x):
            return self.layer(x)

    class Trans(nn.Module):
        def __init__(self, i):
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(i), nn.Conv2d(i, i, 1, bias=False)

        def forward(self, x):
            return functional.avg_pool2d(self.conv1(functional.relu(self.bn1(x))), 2)

    class DenseNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 24, 3, 1, 1, bias=False)
            self.block1, self.trans1, self.block2 = Dense(24), Trans(72), Dense(72)
            self.bn1 = nn.BatchNorm2d(120)
            self.fc = nn.Linear(120, 10)

        def forward(self, x):
            x = self.block2(self.trans1(self.block1(self.conv1(x))))
            return self.fc(functional.relu(self.bn1(x)).mean((2, 3)))

    return DenseNet()


@net(
    lambda: torch.randn(2, 3, 32, 32),
    [["stem"], ["blocks.0"], ["blocks.1"], ["blocks.3"], ["head"]],
    anywhere=["blocks.2", "blocks.4"],
)
def random_depth_unused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, 1, 1)
            self.blocks = nn.ModuleList([BasicBlock(8, 8) for _ in range(5)])
            self.head = nn.Linear(8, 10)

        def forward(self, x):
            x = self.stem(x)
            for i, block in enumerate(self.blocks):
                if i not in (2, 4):
                    x = block(x)
            return self.head(x.mean((2, 3)))

    return Net()


@net(
    lambda: torch.randn(2, 3, 32, 32),
    [["net.stem"], *each("net.blocks.#", 4), ["neck"], ["head"]],
    also=[[["net.stem"], *each("net.blocks.#", 3), ["net.blocks.3"], ["head", "neck"]]],
)
def features_by_hooks():
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, 1, 1)
            self.blocks = nn.Sequential(*[BasicBlock(8, 8) for _ in range(4)])

        def forward(self, x):
            return self.blocks(self.stem(x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Backbone()
            self.neck = nn.Linear(16, 16)
            self.head = nn.Linear(16, 10)
            self.kept = {}
            for i in (1, 3):
                self.net.blocks[i].register_forward_hook(lambda m, a, o, i=i: self.kept.__setitem__(i, o))

        def forward(self, x):
            self.net(x)
            h = torch.cat([self.kept.pop(1), self.kept.pop(3)], 1).mean((2, 3))
            return self.head(self.neck(h).relu())

    return Net()


@dataclasses.dataclass
class TextBatch:
    ids: torch.Tensor
    mask: torch.Tensor


@net(
    lambda: (TextBatch(torch.randint(0, 100, (2, 9)), torch.ones(2, 9)),),
    [["emb"], *each("layers.#", 3), ["cls"]],
)
def dataclass_input():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb = nn.Embedding(100, 32)
            self.layers = nn.ModuleList([Block(32) for _ in range(3)])
            self.cls = nn.Linear(32, 2)

        def forward(self, batch):
            x = self.emb(batch.ids) * batch.mask[..., None]
            for layer in self.layers:
                x = layer(x)
            return self.cls(x.mean(1))

    return Net()
