"""Nested sequences, tables, forecasts, sets, graphs."""

import torch
from torch import nn
from torch.nn import functional

from .registry import each, mlp, net


@net(
    lambda: torch.randint(1, 90, (2, 4, 6)),
    [["embed"], ["word_gru"], ["sent_gru"], ["fc"]],
    anywhere=["word_att", "sent_att"],
)
def hierarchical_attention():
    class Pool(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.proj, self.context = nn.Linear(d, d), nn.Parameter(torch.randn(d))

        def forward(self, h):
            return ((torch.tanh(self.proj(h)) @ self.context).softmax(-1)[..., None] * h).sum(-2)

    class HAN(nn.Module):
        def __init__(self, d=16):
            super().__init__()
            self.embed = nn.Embedding(90, d)
            self.word_gru, self.sent_gru = (nn.GRU(i, d, batch_first=True, bidirectional=True) for i in (d, 2 * d))
            self.word_att, self.sent_att, self.fc = Pool(2 * d), Pool(2 * d), nn.Linear(2 * d, 5)

        def forward(self, docs):
            b, s, w = docs.shape
            h = self.word_att(self.word_gru(self.embed(docs.view(b * s, w)))[0]).view(b, s, -1)
            return self.fc(self.sent_att(self.sent_gru(h)[0]))

    return HAN()


@net(lambda: torch.randn(2, 15, 6), [["encoder"], ["decoder"], ["output"]], under="detector")
def lstm_autoencoder():
    class LSTMAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.LSTM(6, 24, batch_first=True)
            self.decoder = nn.LSTM(24, 24, batch_first=True)
            self.output = nn.Linear(24, 6)

        def forward(self, x):
            _, (h, _) = self.encoder(x)
            z = h[-1][:, None].repeat(1, x.shape[1], 1)
            return self.output(self.decoder(z)[0])

    return LSTMAE()


@net(
    lambda: (torch.randint(0, 90, (2, 8)), torch.randint(0, 90, (2, 6))),
    [["emb"], ["encoder.*_l0", "encoder.*_l0_reverse"], ["classifier.0"], ["classifier.2"], ["classifier.4"]],
    also=[[["emb"], ["encoder"], ["classifier"]]],
)
def infersent_nli():
    class NLI(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb = nn.Embedding(90, 16)
            self.encoder = nn.LSTM(16, 16, bidirectional=True, batch_first=True)
            self.classifier = mlp(128, 64, 64, 3)

        def encode(self, x):
            return self.encoder(self.emb(x))[0].amax(1)

        def forward(self, a, b):
            u, v = self.encode(a), self.encode(b)
            return self.classifier(torch.cat([u, v, (u - v).abs(), u * v], 1))

    return NLI()


@net(lambda: torch.randn(4, 16), [["head_in"], ["layers.3"], ["layers.2"], ["layers.1"], ["layers.0"], ["out"]])
def reversed_list():
    class Decoder(nn.Module):
        def __init__(self, d=16):
            super().__init__()
            self.out = nn.Linear(d, 4)
            self.layers = nn.ModuleList(mlp(d, 2 * d, d) for _ in range(4))
            self.head_in = nn.Linear(16, d)

        def forward(self, x):
            x = self.head_in(x)
            for layer in reversed(self.layers):
                x = x + layer(x)
            return self.out(x)

    return Decoder()


@net(
    lambda: {"x_categ": torch.randint(0, 10, (4, 3)), "x_cont": torch.randn(4, 5)},
    [["embeds", "col"], *each("transformer.layers.#", 3), ["mlp"]],
    anywhere=["norm"],
    under="model",
)
def tab_transformer():
    class TabTransformer(nn.Module):
        def __init__(self, d=16):
            super().__init__()
            self.embeds, self.col = nn.Embedding(30, d), nn.Parameter(torch.randn(3, d))
            self.transformer = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(d, 2, 4 * d, batch_first=True, norm_first=True),
                3,
                enable_nested_tensor=False,
            )
            self.norm, self.mlp = nn.LayerNorm(5), mlp(3 * d + 5, 128, 64, 1)

        def forward(self, x_categ, x_cont):
            x = self.embeds(x_categ + torch.arange(0, 30, 10, device=x_categ.device)) + self.col
            x = self.transformer(x).flatten(1)
            return self.mlp(torch.cat([x, self.norm(x_cont)], 1))

    return TabTransformer()


@net(lambda: torch.randn(4, 24), [*each("stacks.0.blocks.#", 2), *each("stacks.1.blocks.#", 2)], under="forecaster")
def n_beats():
    class Block(nn.Module):
        def __init__(self, h=32):
            super().__init__()
            self.fc = nn.Sequential(nn.Linear(24, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU())
            self.theta_b, self.theta_f = nn.Linear(h, 24), nn.Linear(h, 6)

        def forward(self, x):
            h = self.fc(x)
            return self.theta_b(h), self.theta_f(h)

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(2))

        def forward(self, x):
            total = 0
            for block in self.blocks:
                back, fore = block(x)
                x, total = x - back, total + fore
            return x, total

    class NBeats(nn.Module):
        def __init__(self):
            super().__init__()
            self.stacks = nn.ModuleList(Stack() for _ in range(2))

        def forward(self, x):
            out = 0
            for stack in self.stacks:
                x, fore = stack(x)
                out = out + fore
            return out

    return NBeats()


@net(lambda: torch.randn(2, 24, 5), [*each("mixers.#", 3), ["projection"]], anywhere=["revin"])
def ts_mixer():
    class Mixer(nn.Module):
        def __init__(self, t, c, h=32):
            super().__init__()
            self.norm1, self.time = nn.LayerNorm(c), nn.Linear(t, t)
            self.norm2, self.fc1, self.fc2 = nn.LayerNorm(c), nn.Linear(c, h), nn.Linear(h, c)

        def forward(self, x):
            x = x + functional.relu(self.time(self.norm1(x).transpose(1, 2))).transpose(1, 2)
            return x + self.fc2(functional.relu(self.fc1(self.norm2(x))))

    class TSMixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.revin = nn.ParameterDict({"w": torch.ones(5), "b": torch.zeros(5)})
            self.mixers, self.projection = nn.ModuleList(Mixer(24, 5) for _ in range(3)), nn.Linear(24, 12)

        def forward(self, x):
            x = x * self.revin["w"] + self.revin["b"]
            for m in self.mixers:
                x = m(x)
            x = self.projection(x.transpose(1, 2)).transpose(1, 2)
            return (x - self.revin["b"]) / self.revin["w"]

    return TSMixer()


@net(lambda: (torch.randn(4, 6), torch.randn(4, 10)), [["ctx.0"], ["ctx.2"], ["head"]])
def hyper_network():
    class HyperNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.ctx, self.head = mlp(6, 32, 10 * 16 + 16), nn.Linear(16, 2)

        def forward(self, c, x):
            p = self.ctx(c)
            w, b = p[:, :160].view(-1, 10, 16), p[:, 160:]
            return self.head(torch.tanh((x[:, None] @ w).squeeze(1) + b))

    return HyperNet()


@net(
    lambda: torch.randn(2, 3, 40),
    [["conv1", "bn1"], ["conv2", "bn2"], ["conv3", "bn3"], ["fc1", "bn4"], ["fc2", "bn5"], ["fc3"]],
    under="net",
)
def point_net():
    class PointNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.conv3 = nn.Conv1d(3, 16, 1), nn.Conv1d(16, 32, 1), nn.Conv1d(32, 128, 1)
            self.bn1, self.bn2, self.bn3 = nn.BatchNorm1d(16), nn.BatchNorm1d(32), nn.BatchNorm1d(128)
            self.fc1, self.fc2, self.fc3 = nn.Linear(128, 64), nn.Linear(64, 32), nn.Linear(32, 10)
            self.bn4, self.bn5 = nn.BatchNorm1d(64), nn.BatchNorm1d(32)

        def forward(self, x):
            x = functional.relu(self.bn1(self.conv1(x)))
            x = functional.relu(self.bn2(self.conv2(x)))
            x = self.bn3(self.conv3(x)).amax(2)
            x = functional.relu(self.bn4(self.fc1(x)))
            return self.fc3(functional.relu(self.bn5(self.fc2(x)))).log_softmax(1)

    return PointNet()


@net(lambda: torch.randn(2, 7, 5), [["phi.0"], ["phi.2"], ["phi.4"], ["rho.0"], ["rho.2"]])
def deep_sets():
    class DeepSets(nn.Module):
        def __init__(self):
            super().__init__()
            self.phi, self.rho = mlp(5, 32, 32, 32), mlp(32, 32, 1)

        def forward(self, x):
            return self.rho(self.phi(x).sum(1))

    return DeepSets()


@net(lambda: (torch.randn(6, 20), torch.eye(6)), [["gc1"], ["gc2"], ["gc3"]], under="model")
def gcn_three():
    class GraphConvolution(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(i, o)), nn.Parameter(torch.zeros(o))

        def forward(self, x, adj):
            return torch.mm(adj, torch.mm(x, self.weight)) + self.bias

    class GCN(nn.Module):
        def __init__(self):
            super().__init__()
            self.gc1, self.gc2, self.gc3 = GraphConvolution(20, 16), GraphConvolution(16, 16), GraphConvolution(16, 4)

        def forward(self, x, adj):
            x = functional.dropout(functional.relu(self.gc1(x, adj)), 0.5, self.training)
            return self.gc3(functional.relu(self.gc2(x, adj)), adj).log_softmax(1)

    return GCN()


@net(lambda: (torch.randn(6, 12), torch.ones(6, 6)), [["attention_*"], ["out_att"]])
def gat_heads():
    class Layer(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.W, self.a = nn.Parameter(torch.randn(i, o)), nn.Parameter(torch.randn(2 * o, 1))

        def forward(self, x, adj):
            h = x @ self.W
            o = h.shape[1]
            e = functional.leaky_relu(h @ self.a[:o] + (h @ self.a[o:]).T, 0.2)
            return e.masked_fill(adj == 0, -1e9).softmax(1) @ h

    class GAT(nn.Module):
        def __init__(self):
            super().__init__()
            self.attentions = [Layer(12, 8) for _ in range(3)]
            for i, attention in enumerate(self.attentions):
                self.add_module(f"attention_{i}", attention)
            self.out_att = Layer(24, 3)

        def forward(self, x, adj):
            x = torch.cat([att(x, adj) for att in self.attentions], 1)
            return functional.elu(self.out_att(functional.elu(x), adj)).log_softmax(1)

    return GAT()


@net(
    lambda: (torch.randn(5, 8), torch.randn(5, 3), 1 - torch.eye(5)),
    [["embed"], *each("layers.#", 3), ["readout"]],
    under="lit:gnn",
)
def egnn_molecule():
    class EGCL(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.edge_mlp, self.node_mlp, self.coord_mlp = mlp(2 * d + 1, d, d), mlp(2 * d, d, d), mlp(d, d, 1)

        def forward(self, h, x, adj):
            diff = x[:, None] - x[None]
            n = len(h)
            m = (
                self.edge_mlp(
                    torch.cat(
                        [h[:, None].expand(n, n, -1), h[None].expand(n, n, -1), (diff**2).sum(-1, keepdim=True)], -1
                    )
                )
                * adj[..., None]
            )
            x = x + (diff * self.coord_mlp(m) * adj[..., None]).mean(1)
            return h + self.node_mlp(torch.cat([h, m.sum(1)], -1)), x

    class EGNN(nn.Module):
        def __init__(self, d=24):
            super().__init__()
            self.embed, self.layers, self.readout = (
                nn.Linear(8, d),
                nn.ModuleList(EGCL(d) for _ in range(3)),
                mlp(d, d, 1),
            )

        def forward(self, h, x, adj):
            h = self.embed(h)
            for layer in self.layers:
                h, x = layer(h, x, adj)
            return self.readout(h.sum(0))

    return EGNN()
