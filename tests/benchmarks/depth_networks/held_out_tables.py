"""Tables, generators, reinforcement learning, recommenders."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from .registry import each, mlp, net


@net(
    lambda: torch.randn(4, 30),
    [["layers.0", "layers.1"], ["layers.4", "layers.5"], ["layers.8", "layers.9"], ["layers.12"]],
    under="model",
)
def tabular_bn_dropout():
    class TabularNet(nn.Module):
        def __init__(self, sizes=(30, 128, 64, 32)):
            super().__init__()
            layers = []
            for i, o in pairwise(sizes):
                layers += [nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU(), nn.Dropout(0.3)]
            self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 2))

        def forward(self, x):
            return self.layers(x)

    return TabularNet()


@net(lambda: (torch.randn(8, 1), torch.randn(8, 1)), each("linears.#", 6), under="net")
def pinn_burgers():
    class PINN(nn.Module):
        def __init__(self, sizes=(2, 20, 20, 20, 20, 20, 1)):
            super().__init__()
            self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

        def forward(self, x, t):
            a = torch.cat([x, t], dim=1)
            for layer in self.linears[:-1]:
                a = torch.tanh(layer(a))
            return self.linears[-1](a)

    return PINN()


@net(
    lambda: torch.randn(16, 3),
    [["layers1.0"], ["layers1.2"], ["layers1.4"], ["layers2.0"], ["layers2.2"], ["layers2.4"]],
)
def deepsdf_skip():
    class DeepSDF(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("freq", 2.0 ** torch.arange(4))
            self.layers1 = nn.Sequential(
                nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 40), nn.ReLU()
            )
            self.layers2 = nn.Sequential(
                nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1), nn.Tanh()
            )

        def forward(self, p):
            e = (p[..., None] * self.freq).flatten(1)
            e = torch.cat([e.sin(), e.cos()], -1)
            return self.layers2(torch.cat([self.layers1(e), e], -1))

    return DeepSDF()


@net(lambda: torch.randn(4, 20), [["inp"], *each("blocks.#", 4), ["out"]], under="lit:net")
def residual_mlp():
    class Block(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.norm, self.fc1, self.fc2 = nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

        def forward(self, x):
            return x + self.fc2(functional.gelu(self.fc1(self.norm(x))))

    class ResMLP(nn.Module):
        def __init__(self, d=32):
            super().__init__()
            self.inp, self.out = nn.Linear(20, d), nn.Linear(d, 3)
            self.blocks = nn.Sequential(*[Block(d) for _ in range(4)])

        def forward(self, x):
            return self.out(self.blocks(self.inp(x)))

    return ResMLP()


VAE = [
    ["encoder.0"],
    ["encoder.1"],
    ["encoder.2"],
    ["fc_mu", "fc_var"],
    ["decoder_input"],
    ["decoder.0"],
    ["decoder.1"],
]


@net(
    lambda: torch.randn(2, 3, 32, 32),
    [*VAE, ["final_layer"]],
    also=[[*VAE, ["final_layer.0", "final_layer.1"], ["final_layer.3"]]],
)
def conv_vae():
    class VanillaVAE(nn.Module):
        def __init__(self, dims=(8, 16, 32)):
            super().__init__()
            modules, c = [], 3
            for h in dims:
                modules.append(nn.Sequential(nn.Conv2d(c, h, 3, 2, 1), nn.BatchNorm2d(h), nn.LeakyReLU()))
                c = h
            self.encoder = nn.Sequential(*modules)
            self.fc_mu, self.fc_var = nn.Linear(512, 16), nn.Linear(512, 16)
            self.decoder_input = nn.Linear(16, 512)
            up = lambda i, o: nn.Sequential(nn.ConvTranspose2d(i, o, 3, 2, 1, 1), nn.BatchNorm2d(o), nn.LeakyReLU())
            self.decoder = nn.Sequential(up(32, 16), up(16, 8))
            self.final_layer = nn.Sequential(
                nn.ConvTranspose2d(8, 8, 3, 2, 1, 1),
                nn.BatchNorm2d(8),
                nn.LeakyReLU(),
                nn.Conv2d(8, 3, 3, padding=1),
                nn.Tanh(),
            )

        def forward(self, x):
            h = self.encoder(x).flatten(1)
            mu, log_var = self.fc_mu(h), self.fc_var(h)
            z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
            return self.final_layer(self.decoder(self.decoder_input(z).view(-1, 32, 4, 4))), x, mu, log_var

    return VanillaVAE()


@net(
    lambda: torch.randn(4, 8),
    [["feature.0"], ["adv.0", "val.0"], ["adv.2", "val.2"]],
    also=[[["feature.0"], ["adv", "val"]]],
)
def dueling_mlp():
    class Dueling(nn.Module):
        def __init__(self):
            super().__init__()
            self.feature = nn.Sequential(nn.Linear(8, 128), nn.ReLU())
            self.adv, self.val = mlp(128, 128, 4), mlp(128, 128, 1)

        def forward(self, s):
            x = self.feature(s)
            a = self.adv(x)
            return self.val(x) + a - a.mean(1, keepdim=True)

    return Dueling()


@net(
    lambda: torch.randn(4, 17),
    [
        ["actor.l1"],
        ["actor.l2"],
        ["actor.l3"],
        ["critic.l1", "critic.l4"],
        ["critic.l2", "critic.l5"],
        ["critic.l3", "critic.l6"],
    ],
    under="agent",
)
def td3_agent():
    class Actor(nn.Module):
        def __init__(self):
            super().__init__()
            self.l1, self.l2, self.l3 = nn.Linear(17, 64), nn.Linear(64, 64), nn.Linear(64, 6)

        def forward(self, s):
            return torch.tanh(self.l3(functional.relu(self.l2(functional.relu(self.l1(s))))))

    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.l1, self.l2, self.l3 = nn.Linear(23, 64), nn.Linear(64, 64), nn.Linear(64, 1)
            self.l4, self.l5, self.l6 = nn.Linear(23, 64), nn.Linear(64, 64), nn.Linear(64, 1)

        def forward(self, s, a):
            sa = torch.cat([s, a], 1)
            return self.l3(functional.relu(self.l2(functional.relu(self.l1(sa))))), self.l6(
                functional.relu(self.l5(functional.relu(self.l4(sa))))
            )

    class TD3(nn.Module):
        def __init__(self):
            super().__init__()
            self.actor, self.critic = Actor(), Critic()

        def forward(self, s):
            return self.critic(s, self.actor(s))

    return TD3()


@net(lambda: (torch.randn(4, 8), torch.randn(4, 32), torch.randn(4, 32)), [["fc1"], ["lstm"], ["pi", "v"]])
def recurrent_ppo():
    class PPO(nn.Module):
        def __init__(self):
            super().__init__()
            self.pi, self.v = nn.Linear(32, 4), nn.Linear(32, 1)
            self.fc1 = nn.Linear(8, 64)
            self.lstm = nn.LSTMCell(64, 32)

        def forward(self, obs, h, c):
            h, c = self.lstm(functional.relu(self.fc1(obs)), (h, c))
            return functional.softmax(self.pi(h), -1), self.v(h), (h, c)

    return PPO()


@net(
    lambda: torch.randn(4, 16),
    [
        ["generator.model.0"],
        ["generator.model.2", "generator.model.3"],
        ["generator.model.5"],
        ["discriminator.model.0"],
        ["discriminator.model.2"],
        ["discriminator.model.4"],
    ],
    under="gan",
)
def vanilla_gan():
    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(
                nn.Linear(16, 64),
                nn.LeakyReLU(0.2),
                nn.Linear(64, 128),
                nn.BatchNorm1d(128),
                nn.LeakyReLU(0.2),
                nn.Linear(128, 196),
                nn.Tanh(),
            )

        def forward(self, z):
            return self.model(z).view(-1, 1, 14, 14)

    class Discriminator(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(
                nn.Linear(196, 128), nn.LeakyReLU(0.2), nn.Linear(128, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
            )

        def forward(self, img):
            return self.model(img.flatten(1))

    class GAN(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator, self.discriminator = Generator(), Discriminator()

        def forward(self, z):
            return self.discriminator(self.generator(z))

    return GAN()


@net(lambda: torch.randn(8, 6), each("layers.#", 5), under="flow")
def real_nvp():
    class Coupling(nn.Module):
        def __init__(self, flip):
            super().__init__()
            self.flip, self.s, self.t = flip, mlp(3, 32, 32, 3), mlp(3, 32, 32, 3)

        def forward(self, x):
            a, b = x.chunk(2, 1)
            a, b = (b, a) if self.flip else (a, b)
            s = torch.tanh(self.s(a))
            b = b * s.exp() + self.t(a)
            return torch.cat([b, a] if self.flip else [a, b], 1), s.sum(1)

    class RealNVP(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(Coupling(i % 2) for i in range(5))

        def forward(self, x):
            total = 0
            for layer in self.layers:
                x, log_det = layer(x)
                total = total + log_det
            return x, total

    return RealNVP()


@net(
    lambda: torch.randn(4, 10), [["down"], ["func.net.0"], ["func.net.2"], ["fc"]], also=[[["down"], ["func"], ["fc"]]]
)
def neural_ode():
    class Func(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(16, 48), nn.Tanh(), nn.Linear(48, 16))

        def forward(self, t, y):
            return self.net(y)

    class ODENet(nn.Module):
        def __init__(self, steps=5):
            super().__init__()
            self.down, self.func, self.fc, self.steps = nn.Linear(10, 16), Func(), nn.Linear(16, 3), steps

        def forward(self, x):
            y = self.down(x)
            for i in range(self.steps):
                y = y + self.func(i / self.steps, y) / self.steps
            return self.fc(y)

    return ODENet()


@net(
    lambda: (torch.randint(0, 50, (6,)), torch.randint(0, 80, (6,))),
    [["embed*"], ["MLP_layers.1"], ["MLP_layers.4"], ["MLP_layers.7"], ["predict_layer"]],
    under="model",
)
def neu_mf():
    class NCF(nn.Module):
        def __init__(self, d=8):
            super().__init__()
            self.embed_user_GMF, self.embed_item_GMF = nn.Embedding(50, d), nn.Embedding(80, d)
            self.embed_user_MLP, self.embed_item_MLP = nn.Embedding(50, 4 * d), nn.Embedding(80, 4 * d)
            layers = []
            for k in (8, 4, 2):
                layers += [nn.Dropout(0.1), nn.Linear(k * d, k * d // 2), nn.ReLU()]
            self.MLP_layers = nn.Sequential(*layers)
            self.predict_layer = nn.Linear(2 * d, 1)

        def forward(self, user, item):
            gmf = self.embed_user_GMF(user) * self.embed_item_GMF(item)
            h = self.MLP_layers(torch.cat([self.embed_user_MLP(user), self.embed_item_MLP(item)], -1))
            return self.predict_layer(torch.cat([gmf, h], -1)).view(-1)

    return NCF()


DLRM = [["bot_l.2"], ["bot_l.4"], ["top_l.0"], ["top_l.2"], ["top_l.4"]]


@net(
    lambda: (torch.randn(4, 13), torch.randint(0, 100, (4, 5))),
    [["emb_l"], ["bot_l.0"], *DLRM],
    also=[[["emb_l", "bot_l.0"], *DLRM]],
)
def dlrm():
    class DLRMNet(nn.Module):
        def __init__(self, d=16):
            super().__init__()
            self.emb_l = nn.ModuleList(nn.EmbeddingBag(100, d, mode="sum") for _ in range(5))
            self.bot_l, self.top_l = mlp(13, 64, 32, d), mlp(d + 15, 64, 32, 1)

        def forward(self, dense, sparse):
            x = self.bot_l(dense)
            e = [emb(sparse[:, i : i + 1]) for i, emb in enumerate(self.emb_l)]
            t = torch.stack([x, *e], 1)
            z = torch.bmm(t, t.transpose(1, 2))
            i, j = torch.tril_indices(6, 6, -1)
            return torch.sigmoid(self.top_l(torch.cat([x, z[:, i, j]], 1)))

    return DLRMNet()


@net(
    lambda: {"dense": torch.randn(4, 6), "cats": torch.randint(0, 30, (4, 3))},
    [["embeds"], ["deep.0"], ["deep.2"], ["deep.4"]],
    anywhere=["wide"],
)
def wide_and_deep():
    class WideDeep(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = nn.Linear(6, 1)
            self.embeds = nn.ModuleList(nn.Embedding(30, 8) for _ in range(3))
            self.deep = mlp(30, 64, 32, 1)

        def forward(self, dense, cats):
            e = [m(cats[:, i]) for i, m in enumerate(self.embeds)]
            return torch.sigmoid(self.wide(dense) + self.deep(torch.cat([dense, *e], 1)))

    return WideDeep()
