"""Unusual registration, functional weights, parts beside the path."""

import torch
from torch import nn
from torch.nn import functional

from .registry import each, image, net


@net(lambda: torch.randn(2, 1, 28, 28), [["encoder.0"], ["encoder.2"], ["decoder.0"], ["decoder.2"]], anywhere=["loss"])
def lit_autoencoder():
    class LitAutoEncoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.save = {"lr": 1e-3}
            self.loss = nn.BCEWithLogitsLoss(pos_weight=torch.ones(784))
            self.encoder = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 3))
            self.decoder = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 784))
            self.example_input_array = torch.zeros(1, 1, 28, 28)

        def forward(self, x):
            return self.decoder(self.encoder(x.flatten(1)))

        def training_step(self, batch, index):
            x, _ = batch
            return self.loss(self(x), x.flatten(1))

    return LitAutoEncoder()


@net(
    image,
    [
        ["stem"],
        ["stages.low.0"],
        ["stages.low.1"],
        ["stages.mid.0"],
        ["stages.mid.1"],
        ["stages.high.0"],
        ["stages.high.1"],
        ["heads"],
    ],
    under="net",
)
def module_dict_stages():
    class Block(nn.Module):
        def __init__(self, i, o, s):
            super().__init__()
            self.dw, self.pw, self.bn = nn.Conv2d(i, i, 3, s, 1, groups=i), nn.Conv2d(i, o, 1), nn.BatchNorm2d(o)

        def forward(self, x):
            return functional.relu(self.bn(self.pw(self.dw(x))))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleDict({"colour": nn.Linear(48, 5), "shape": nn.Linear(48, 40)})
            self.stem = nn.Conv2d(3, 12, 3, 1, 1)
            self.stages = nn.ModuleDict(
                {
                    n: nn.Sequential(Block(i, o, 2), Block(o, o, 1))
                    for n, i, o in (("low", 12, 12), ("mid", 12, 24), ("high", 24, 48))
                }
            )

        def forward(self, x):
            x = self.stem(x)
            for stage in self.stages.values():
                x = stage(x)
            x = x.mean((2, 3))
            return {name: head(x) for name, head in self.heads.items()}

    return Net()


@net(
    lambda: torch.randn(2, 1, 28, 28),
    [["vars.0", "vars.1"], ["vars.2", "vars.3"], ["vars.4", "vars.5"], ["vars.6", "vars.7"]],
    under="learner",
)
def maml_learner():
    class Learner(nn.Module):
        def __init__(self):
            super().__init__()
            self.vars = nn.ParameterList()
            for shape in ((16, 1, 3, 3), (16, 16, 3, 3), (16, 16, 3, 3), (5, 144)):
                self.vars.append(nn.Parameter(nn.init.kaiming_normal_(torch.empty(shape))))
                self.vars.append(nn.Parameter(torch.zeros(shape[0])))

        def forward(self, x, weights=None):
            weights = self.vars if weights is None else weights
            for i in range(0, 6, 2):
                x = functional.max_pool2d(
                    functional.relu(functional.conv2d(x, weights[i], weights[i + 1], padding=1)), 2
                )
            return functional.linear(x.flatten(1), weights[6], weights[7])

    return Learner()


@net(lambda: torch.randn(4, 10), [["w1", "b1"], ["w2", "b2"], ["w3", "b3"]])
def raw_parameters_mlp():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w3, self.b3 = nn.Parameter(torch.randn(32, 2)), nn.Parameter(torch.zeros(2))
            self.w2, self.b2 = nn.Parameter(torch.randn(32, 32)), nn.Parameter(torch.zeros(32))
            self.w1, self.b1 = nn.Parameter(torch.randn(10, 32)), nn.Parameter(torch.zeros(32))

        def forward(self, x):
            x = torch.tanh(x @ self.w1 + self.b1)
            x = torch.tanh(x @ self.w2 + self.b2)
            return x @ self.w3 + self.b3

    return Net()


@net(image, [["stem", "stem_norm"], *each("body.#", 3), ["body.3", "norm"], ["classifier"]])
def head_registered_first():
    class Block(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.pwconv2, self.pwconv1, self.norm, self.dwconv = (
                nn.Linear(4 * c, c),
                nn.Linear(c, 4 * c),
                nn.LayerNorm(c),
                nn.Conv2d(c, c, 7, padding=3, groups=c),
            )

        def forward(self, x):
            y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
            return x + self.pwconv2(functional.gelu(self.pwconv1(y))).permute(0, 3, 1, 2)

    class Net(nn.Module):
        def __init__(self, c=24):
            super().__init__()
            self.classifier, self.norm = nn.Linear(c, 200), nn.BatchNorm2d(c)
            self.body = nn.Sequential(*[Block(c) for _ in range(4)])
            self.stem_norm, self.stem = nn.BatchNorm2d(c), nn.Conv2d(3, c, 4, 4)

        def forward(self, x):
            return self.classifier(self.norm(self.body(self.stem_norm(self.stem(x)))).mean((2, 3)))

    return Net()


class NoisyLinear(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.weight_mu, self.weight_sigma = nn.Parameter(torch.randn(o, i)), nn.Parameter(torch.full((o, i), 0.02))
        self.bias_mu, self.bias_sigma = nn.Parameter(torch.zeros(o)), nn.Parameter(torch.full((o,), 0.02))
        self.register_buffer("weight_epsilon", torch.randn(o, i))

    def forward(self, x):
        if self.training:
            return functional.linear(
                x,
                self.weight_mu + self.weight_sigma * self.weight_epsilon,
                self.bias_mu + self.bias_sigma * self.weight_epsilon[:, 0],
            )
        return functional.linear(x, self.weight_mu, self.bias_mu)


@net(
    lambda: torch.randn(4, 8),
    [["feature"], ["noisy1.*_mu"], ["noisy2.*_mu"]],
    anywhere=["noisy1.*_sigma", "noisy2.*_sigma"],
    under="dqn",
)
def noisy_dqn():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.feature, self.noisy1, self.noisy2 = nn.Linear(8, 64), NoisyLinear(64, 64), NoisyLinear(64, 4)

        def forward(self, x):
            return self.noisy2(functional.relu(self.noisy1(functional.relu(self.feature(x)))))

    return Network()


VQ = [["encoder.0"], ["encoder.2"], ["encoder.4"], ["decoder.0"], ["decoder.2"], ["decoder.4"]]


@net(image, VQ, anywhere=["codebook"], under="lit:vqvae")
def vq_vae():
    class VQVAE(nn.Module):
        def __init__(self, d=16):
            super().__init__()
            self.encoder = nn.Sequential(
                nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, d, 1)
            )
            self.codebook = nn.Embedding(64, d)
            self.decoder = nn.Sequential(
                nn.Conv2d(d, 32, 3, padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(32, 16, 4, 2, 1),
                nn.ReLU(),
                nn.ConvTranspose2d(16, 3, 4, 2, 1),
            )

        def forward(self, x):
            z = self.encoder(x)
            flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
            index = torch.cdist(flat, self.codebook.weight).argmin(1)
            q = self.codebook(index).view(z.shape[0], *z.shape[2:], -1).permute(0, 3, 1, 2)
            loss = functional.mse_loss(q.detach(), z) + functional.mse_loss(q, z.detach())
            return self.decoder(z + (q - z).detach()), loss

    return VQVAE()


@net(
    lambda: (torch.randn(2, 16), torch.randint(0, 10, (2,))),
    [["linear"], *each("blocks.#", 2), ["blocks.2", "bn"], ["conv"]],
    anywhere=["label_emb"],
)
def conditional_res_generator():
    class Up(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.bn1, self.c1, self.bn2, self.c2 = (
                nn.BatchNorm2d(i),
                nn.Conv2d(i, o, 3, padding=1),
                nn.BatchNorm2d(o),
                nn.Conv2d(o, o, 3, padding=1),
            )
            self.sc = nn.Conv2d(i, o, 1)

        def forward(self, x):
            up = lambda t: functional.interpolate(t, scale_factor=2)
            return self.c2(functional.relu(self.bn2(self.c1(up(functional.relu(self.bn1(x))))))) + self.sc(up(x))

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.label_emb, self.linear = nn.Embedding(10, 16), nn.Linear(32, 24 * 16)
            self.blocks = nn.ModuleList([Up(24, 24), Up(24, 16), Up(16, 8)])
            self.bn, self.conv = nn.BatchNorm2d(8), nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, z, y):
            x = self.linear(torch.cat([z, self.label_emb(y)], 1)).view(-1, 24, 4, 4)
            for b in self.blocks:
                x = b(x)
            return torch.tanh(self.conv(functional.relu(self.bn(x))))

    return Generator()


@net(
    lambda: torch.randn(4, 20), [["input"], *each(["nonlinear.#", "linear.#", "gate.#"], 3), ["output"]], under="model"
)
def highway_lists():
    class Highway(nn.Module):
        def __init__(self, d=32, n=3):
            super().__init__()
            self.nonlinear, self.linear, self.gate = (
                nn.ModuleList(nn.Linear(d, d) for _ in range(n)) for _ in range(3)
            )
            self.input, self.output = nn.Linear(20, d), nn.Linear(d, 5)

        def forward(self, x):
            x = self.input(x)
            for n, linear, g in zip(self.nonlinear, self.linear, self.gate):
                gate = torch.sigmoid(g(x))
                x = gate * functional.relu(n(x)) + (1 - gate) * linear(x)
            return self.output(x)

    return Highway()
