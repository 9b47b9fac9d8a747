"""Networks of a few modules of one class: graph attention, towers of two sizes; a token of a late stage."""

import torch
from torch import nn
from torch.nn import functional

from .registry import mlp, net


def graph():
    return torch.randn(10, 16), torch.randint(0, 10, (2, 30))


class GATConv(nn.Module):
    """A projection, and attention vectors that scale what it gives."""

    def __init__(self, i, o, heads=1):
        super().__init__()
        self.heads, self.o = heads, o
        self.lin = nn.Linear(i, heads * o, bias=False)
        self.att_src, self.att_dst = (nn.Parameter(torch.randn(1, heads, o)) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(heads * o))

    def forward(self, x, edges):
        x = self.lin(x).view(-1, self.heads, self.o)
        scores = (x * self.att_src).sum(-1)[edges[0]] + (x * self.att_dst).sum(-1)[edges[1]]
        messages = x[edges[0]] * functional.leaky_relu(scores, 0.2).softmax(0)[..., None]
        return torch.zeros_like(x).index_add(0, edges[1], messages).flatten(1) + self.bias


@net(graph, [["conv1"], ["conv2"]])
def gat_raw_vectors():
    class GAT(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = GATConv(16, 8, 8), GATConv(64, 7)

        def forward(self, x, edges):
            return self.conv2(functional.elu(self.conv1(x, edges)), edges)

    return GAT()


@net(graph, [["conv1"], ["conv2"], ["fc"]])
def gat_v2():
    class GATv2Conv(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.lin_l, self.lin_r = nn.Linear(i, o), nn.Linear(i, o)
            self.att = nn.Parameter(torch.randn(1, o))

        def forward(self, x, edges):
            left, right = self.lin_l(x), self.lin_r(x)
            scores = (functional.leaky_relu(left[edges[0]] + right[edges[1]]) * self.att).sum(-1, keepdim=True)
            return torch.zeros_like(right).index_add(0, edges[1], left[edges[0]] * scores.softmax(0))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.fc = GATv2Conv(16, 64), GATv2Conv(64, 8), nn.Linear(8, 7)

        def forward(self, x, edges):
            return self.fc(self.conv2(functional.elu(self.conv1(x, edges)), edges).relu())

    return Net()


@net(
    lambda: {"query": torch.randn(4, 40), "document": torch.randn(4, 12)},
    [[f"query_tower.net.{i}", f"document_tower.net.{i}"] for i in (0, 2, 4)],
)
def towers_of_two_sizes():
    class Tower(nn.Module):
        def __init__(self, i):
            super().__init__()
            self.net = mlp(i, 64, 32, 16)

        def forward(self, x):
            return functional.normalize(self.net(x), dim=-1)

    class Search(nn.Module):
        def __init__(self):
            super().__init__()
            self.query_tower, self.document_tower = Tower(40), Tower(12)

        def forward(self, query, document):
            return (self.query_tower(query) * self.document_tower(document)).sum(-1)

    return Search()


@net(
    lambda: torch.randn(1, 3, 32, 32),
    [
        ["stages.0.embed", "stages.0.norm"],
        ["stages.0.blocks.0"],
        ["stages.0.blocks.1"],
        ["stages.1.embed", "stages.1.blocks.0"],
        ["stages.1.blocks.1"],
        ["stages.2.embed", "stages.2.cls_token", "stages.2.blocks.0"],
        ["stages.2.blocks.1", "norm"],
        ["head"],
    ],
    anywhere=["stages.1.norm", "stages.2.norm"],
)
def token_of_the_last_stage():
    class Stage(nn.Module):
        def __init__(self, i, o, depth, token):
            super().__init__()
            self.embed, self.norm = nn.Conv2d(i, o, 2, 2), nn.LayerNorm(o)
            self.cls_token = nn.Parameter(torch.randn(1, 1, o)) if token else None
            self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(o, 2, 2 * o, batch_first=True) for _ in range(depth))

        def forward(self, x):
            x = self.embed(x)
            side = x.shape[-1]
            x = self.norm(x.flatten(2).mT)
            if self.cls_token is not None:
                x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
            for block in self.blocks:
                x = block(x)
            return x if self.cls_token is not None else x.mT.unflatten(2, (side, side))

    class CvT(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = ((3, 8, 2, False), (8, 16, 2, False), (16, 32, 2, True))
            self.stages = nn.ModuleList(Stage(*size) for size in sizes)
            self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

        def forward(self, x):
            for stage in self.stages:
                x = stage(x)
            return self.head(self.norm(x)[:, 0])

    return CvT()
