"""Transformers of parallel lists, mixtures of experts, pairs, compiled networks, graphs, operators."""

import torch
from torch import nn
from torch.nn import functional

from .developed_basics import GPT_LEVELS, TinyGPT, gpt_text
from .registry import each, net


@net(
    lambda: torch.randint(0, 100, (2, 10)),
    [["emb", "pos"], *each(["attentions.#", "norm1.#", "ffns.#", "norm2.#"], 4), ["out"]],
)
def transformer_in_lists():
    class XLMLike(nn.Module):
        def __init__(self, d=32, n=4):
            super().__init__()
            self.emb, self.pos = nn.Embedding(100, d), nn.Embedding(32, d)
            self.attentions = nn.ModuleList([nn.MultiheadAttention(d, 2, batch_first=True) for _ in range(n)])
            self.norm1 = nn.ModuleList([nn.LayerNorm(d) for _ in range(n)])
            self.ffns = nn.ModuleList([nn.Sequential(nn.Linear(d, 64), nn.GELU(), nn.Linear(64, d)) for _ in range(n)])
            self.norm2 = nn.ModuleList([nn.LayerNorm(d) for _ in range(n)])
            self.out = nn.Linear(d, 2)

        def forward(self, x):
            x = self.emb(x) + self.pos.weight[: x.shape[1]]
            for i in range(len(self.attentions)):
                x = self.norm1[i](x + self.attentions[i](x, x, x, need_weights=False)[0])
                x = self.norm2[i](x + self.ffns[i](x))
            return self.out(x[:, 0])

    return XLMLike()


@net(lambda: torch.randint(0, 100, (2, 10)), [["embedding", "pos"], *each("encoder.layers.#", 3), ["fc"]])
def nn_transformer_encoder():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(100, 32)
            self.pos = nn.Parameter(torch.zeros(1, 64, 32))
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 3)
            self.fc = nn.Linear(32, 2)

        def forward(self, x):
            x = self.embedding(x) + self.pos[:, : x.shape[1]]
            return self.fc(self.encoder(x).mean(1))

    return Net()


@net(
    lambda: (torch.randint(0, 100, (2, 9)), torch.randint(0, 90, (2, 7))),
    [
        ["src_emb"],
        *each("transformer.encoder.layers.#", 1),
        ["transformer.encoder.layers.1", "transformer.encoder.norm"],
        ["transformer.decoder.layers.0"],
        ["transformer.decoder.layers.1", "transformer.decoder.norm"],
        ["generator"],
    ],
    anywhere=["tgt_emb"],
)
def nn_transformer_translation():
    class Seq2SeqTransformer(nn.Module):
        def __init__(self, d=32):
            super().__init__()
            self.transformer = nn.Transformer(d, 4, 2, 2, 64, batch_first=True)
            self.generator = nn.Linear(d, 90)
            self.src_emb, self.tgt_emb = nn.Embedding(100, d), nn.Embedding(90, d)

        def forward(self, src, tgt):
            return self.generator(self.transformer(self.src_emb(src), self.tgt_emb(tgt)))

    return Seq2SeqTransformer()


@net(
    lambda: (torch.randn(2, 4, 16, 16), torch.tensor([1.0, 2.0]), torch.tensor([1, 2])),
    [["x_embed", "t_embed", "y_embed", "pos"], *each("blocks.#", 4), ["final_layer"]],
)
def dit():
    class DiTBlock(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.norm1, self.norm2 = (
                nn.LayerNorm(d, elementwise_affine=False),
                nn.LayerNorm(d, elementwise_affine=False),
            )
            self.attn = nn.MultiheadAttention(d, 2, batch_first=True)
            self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
            self.adaLN = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))

        def forward(self, x, c):
            s1, k1, g1, s2, k2, g2 = self.adaLN(c)[:, None].chunk(6, -1)
            h = self.norm1(x) * (1 + k1) + s1
            x = x + g1 * self.attn(h, h, h, need_weights=False)[0]
            return x + g2 * self.mlp(self.norm2(x) * (1 + k2) + s2)

    class Final(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.norm = nn.LayerNorm(d, elementwise_affine=False)
            self.linear = nn.Linear(d, 16)
            self.adaLN = nn.Sequential(nn.SiLU(), nn.Linear(d, 2 * d))

        def forward(self, x, c):
            shift, scale = self.adaLN(c)[:, None].chunk(2, -1)
            return self.linear(self.norm(x) * (1 + scale) + shift)

    class DiT(nn.Module):
        def __init__(self, d=32):
            super().__init__()
            self.x_embed = nn.Conv2d(4, d, 2, 2)
            self.t_embed = nn.Sequential(nn.Linear(16, d), nn.SiLU(), nn.Linear(d, d))
            self.y_embed = nn.Embedding(11, d)
            self.pos = nn.Parameter(torch.zeros(1, 64, d))
            self.blocks = nn.ModuleList([DiTBlock(d) for _ in range(4)])
            self.final_layer = Final(d)

        def forward(self, x, t, y):
            x = self.x_embed(x).flatten(2).transpose(1, 2) + self.pos
            freqs = torch.exp(-torch.arange(8, device=x.device) / 2)
            c = self.t_embed(torch.cat([(t[:, None] * freqs).sin(), (t[:, None] * freqs).cos()], -1)) + self.y_embed(y)
            for block in self.blocks:
                x = block(x, c)
            return self.final_layer(x, c)

    return DiT()


@net(lambda: torch.randint(0, 200, (2, 12)), [["tok"], *each("layers.#", 3), ["head"]], under="model")
def moe_transformer():
    class MoE(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.gate = nn.Linear(d, 4, bias=False)
            self.experts = nn.ModuleList(
                [nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d)) for _ in range(4)]
            )

        def forward(self, x):
            weights = self.gate(x).softmax(-1)
            return sum(weights[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))

    class Layer(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.attn = nn.MultiheadAttention(d, 2, batch_first=True)
            self.moe = MoE(d)
            self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)

        def forward(self, x):
            h = self.n1(x)
            x = x + self.attn(h, h, h, need_weights=False)[0]
            return x + self.moe(self.n2(x))

    class LM(nn.Module):
        def __init__(self, d=32):
            super().__init__()
            self.tok = nn.Embedding(200, d)
            self.layers = nn.ModuleList([Layer(d) for _ in range(3)])
            self.head = nn.Linear(d, 200)

        def forward(self, x):
            x = self.tok(x)
            for layer in self.layers:
                x = layer(x)
            return self.head(x)

    return LM()


@net(
    lambda: torch.randn(2, 20),
    [["experts"], ["head"]],
    anywhere=["gate"],
    also=[[["experts.*.0"], ["experts.*.2"], ["head"]]],
)
def soft_mixture():
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(20, 3)
            self.experts = nn.ModuleList(
                [nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(3)]
            )
            self.head = nn.Linear(16, 5)

        def forward(self, x):
            outs = torch.stack([expert(x) for expert in self.experts], 1)
            return self.head((self.gate(x).softmax(-1)[..., None] * outs).sum(1))

    return Mixture()


@net(lambda: (torch.randn(2, 1, 28, 28), torch.randn(2, 1, 28, 28)), [["cnn.0"], ["cnn.3"], ["embed"], ["fc"]])
def siamese():
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.cnn = nn.Sequential(
                nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
            )
            self.embed = nn.Linear(256, 32)
            self.fc = nn.Linear(32, 1)

        def once(self, x):
            return self.embed(self.cnn(x).flatten(1)).relu()

        def forward(self, a, b):
            return self.fc((self.once(a) - self.once(b)).abs())

    return Siamese()


@net(
    lambda: torch.randn(2, 3, 64, 64),
    [
        ["backbone.conv1", "backbone.bn1"],
        *[[f"backbone.layer{s}.{b}"] for s in (1, 2, 3, 4) for b in (0, 1)],
        ["age", "gender", "race"],
    ],
)
def multi_task_resnet():
    import torchvision

    class MultiTask(nn.Module):
        def __init__(self):
            super().__init__()
            self.age, self.gender, self.race = nn.Linear(512, 1), nn.Linear(512, 2), nn.Linear(512, 5)
            self.backbone = torchvision.models.resnet18(weights=None)
            self.backbone.fc = nn.Identity()

        def forward(self, x):
            h = self.backbone(x)
            return {"age": self.age(h), "gender": self.gender(h), "race": self.race(h)}

    return MultiTask()


net(gpt_text, GPT_LEVELS, name="gpt_compiled_function")(lambda: torch.compile(TinyGPT()))


@net(lambda: torch.randn(2, 3, 32, 32), [["f.0", "f.1"], ["f.3", "f.4"], ["fc"]])
def compiled_in_place():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 16, 3, 2),
                nn.BatchNorm2d(16),
                nn.ReLU(),
            )
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            return self.fc(self.f(x).mean((2, 3)))

    model = Net()
    model.compile()
    return model


@net(
    lambda: torch.randn(2, 16, 16, 3),
    [["fc0"], *each(["conv#.weights1", "conv#.weights2", "w#"], 4), ["fc1", "fc2"]],
    also=[[["fc0"], *each(["conv#.weights1", "conv#.weights2", "w#"], 4), ["fc1"], ["fc2"]]],
)
def fno2d():
    class Spectral(nn.Module):
        def __init__(self, c, m):
            super().__init__()
            self.m = m
            self.weights1 = nn.Parameter(torch.randn(c, c, m, m, dtype=torch.cfloat) * 0.02)
            self.weights2 = nn.Parameter(torch.randn(c, c, m, m, dtype=torch.cfloat) * 0.02)

        def forward(self, x):
            ft = torch.fft.rfft2(x)
            out = torch.zeros_like(ft)
            out[:, :, : self.m, : self.m] = torch.einsum("bixy,ioxy->boxy", ft[:, :, : self.m, : self.m], self.weights1)
            out[:, :, -self.m :, : self.m] = torch.einsum(
                "bixy,ioxy->boxy", ft[:, :, -self.m :, : self.m], self.weights2
            )
            return torch.fft.irfft2(out, s=x.shape[-2:])

    class FNO(nn.Module):
        def __init__(self, c=12, m=4):
            super().__init__()
            self.fc0 = nn.Linear(3, c)
            for i in range(4):
                setattr(self, f"conv{i}", Spectral(c, m))
                setattr(self, f"w{i}", nn.Conv2d(c, c, 1))
            self.fc1, self.fc2 = nn.Linear(c, 64), nn.Linear(64, 1)

        def forward(self, x):
            x = self.fc0(x).permute(0, 3, 1, 2)
            for i in range(4):
                x = getattr(self, f"conv{i}")(x) + getattr(self, f"w{i}")(x)
                x = functional.gelu(x) if i < 3 else x
            return self.fc2(functional.gelu(self.fc1(x.permute(0, 2, 3, 1))))

    return FNO()


@net(lambda: (torch.randn(6, 8), torch.eye(6)), [*each(["convs.#", "eps.#", "bns.#"], 3), ["lin"]])
def gin():
    class GIN(nn.Module):
        def __init__(self, d=16):
            super().__init__()
            self.eps = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(3)])
            self.convs = nn.ModuleList(
                [nn.Sequential(nn.Linear(8 if i == 0 else d, d), nn.ReLU(), nn.Linear(d, d)) for i in range(3)]
            )
            self.bns = nn.ModuleList([nn.BatchNorm1d(d) for _ in range(3)])
            self.lin = nn.Linear(d, 2)

        def forward(self, x, adjacency):
            for eps, conv, bn in zip(self.eps, self.convs, self.bns):
                x = functional.relu(bn(conv((1 + eps) * x + adjacency @ x)))
            return self.lin(x.sum(0))

    return GIN()
