"""Multilayer perceptrons, small convolutional networks, generators, transformers, recurrent networks."""

import torch
from torch import nn
from torch.nn import functional

from .registry import each, net


@net(lambda: torch.randn(2, 1, 28, 28), [["linear_relu_stack.0"], ["linear_relu_stack.2"], ["linear_relu_stack.4"]])
def quickstart_mlp():
    class NeuralNetwork(nn.Module):
        def __init__(self):
            super().__init__()
            self.flatten = nn.Flatten()
            self.linear_relu_stack = nn.Sequential(
                nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
            )

        def forward(self, x):
            return self.linear_relu_stack(self.flatten(x))

    return NeuralNetwork()


@net(lambda: torch.randn(2, 20), [["0"], ["2"], ["4"], ["6"]])
def plain_sequential():
    return nn.Sequential(
        nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
    )


@net(lambda: torch.randn(2, 20), [["layers.0", "norms.0"], ["layers.1", "norms.1"], ["layers.2", "norms.2"], ["out"]])
def mlp_with_lists():
    class MLP(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(32, 5)
            self.layers = nn.ModuleList([nn.Linear(20, 32), nn.Linear(32, 32), nn.Linear(32, 32)])
            self.norms = nn.ModuleList([nn.BatchNorm1d(32) for _ in range(3)])

        def forward(self, x):
            for layer, norm in zip(self.layers, self.norms):
                x = norm(layer(x)).relu()
            return self.out(x)

    return MLP()


@net(lambda: torch.randn(2, 3, 32, 32), [["conv1"], ["conv2"], ["fc1"], ["fc2"], ["fc3"]])
def lenet_tutorial():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 6, 5)
            self.pool = nn.MaxPool2d(2, 2)
            self.conv2 = nn.Conv2d(6, 16, 5)
            self.fc1 = nn.Linear(16 * 5 * 5, 120)
            self.fc2 = nn.Linear(120, 84)
            self.fc3 = nn.Linear(84, 10)

        def forward(self, x):
            x = self.pool(functional.relu(self.conv1(x)))
            x = self.pool(functional.relu(self.conv2(x))).flatten(1)
            return self.fc3(functional.relu(self.fc2(functional.relu(self.fc1(x)))))

    return Net()


@net(
    lambda: torch.randn(2, 3, 32, 32),
    [["features.0", "features.1"], ["features.4", "features.5"], ["features.8", "features.9"], ["classifier"]],
)
def small_cnn_features():
    class CNN(nn.Module):
        def __init__(self):
            super().__init__()

            def block(i, o):
                return [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]

            self.features = nn.Sequential(*block(3, 16), *block(16, 32), *block(32, 64))
            self.classifier = nn.Linear(64, 10)

        def forward(self, x):
            return self.classifier(self.features(x).mean((2, 3)))

    return CNN()


@net(
    lambda: torch.randn(2, 3, 64, 64),
    [["main.0"], ["main.2", "main.3"], ["main.5", "main.6"], ["main.8", "main.9"], ["main.11"]],
)
def dcgan_discriminator():
    class Discriminator(nn.Module):
        def __init__(self, ndf=8):
            super().__init__()
            layers, width = [nn.Conv2d(3, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)], ndf
            for _ in range(3):
                layers += [
                    nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
                    nn.BatchNorm2d(2 * width),
                    nn.LeakyReLU(0.2),
                ]
                width *= 2
            self.main = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 0, bias=False), nn.Sigmoid())

        def forward(self, x):
            return self.main(x)

    return Discriminator()


@net(
    lambda: torch.randn(2, 100, 1, 1),
    [["main.0", "main.1"], ["main.3", "main.4"], ["main.6", "main.7"], ["main.9", "main.10"], ["main.12"]],
)
def dcgan_generator():
    class Generator(nn.Module):
        def __init__(self, ngf=8):
            super().__init__()
            width = ngf * 8
            layers = [nn.ConvTranspose2d(100, width, 4, 1, 0, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            for _ in range(3):
                layers += [
                    nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False),
                    nn.BatchNorm2d(width // 2),
                    nn.ReLU(),
                ]
                width //= 2
            self.main = nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())

        def forward(self, z):
            return self.main(z)

    return Generator()


@net(lambda: torch.randn(2, 100), [["net.0"], ["net.1"], ["net.2"], ["net.3"], ["net.4"]])
def siren():
    class Sine(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.linear = nn.Linear(i, o)

        def forward(self, x):
            return torch.sin(30 * self.linear(x))

    class Siren(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(Sine(100, 32), Sine(32, 32), Sine(32, 32), Sine(32, 32), nn.Linear(32, 1))

        def forward(self, coords):
            return self.net(coords)

    return Siren()


@net(
    lambda: (torch.randn(2, 8), torch.randn(2, 2)),
    each(["q1.#", "q2.#"], 1) + each(["q1.#", "q2.#"], 1, 2) + each(["q1.#", "q2.#"], 1, 4),
)
def twin_critic():
    class Critic(nn.Module):
        def __init__(self):
            super().__init__()

            def q():
                return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

            self.q1, self.q2 = q(), q()

        def forward(self, state, action):
            x = torch.cat([state, action], -1)
            return self.q1(x), self.q2(x)

    return Critic()


class Block(nn.Module):
    def __init__(self, d, heads=2):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = nn.MultiheadAttention(d, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        h = self.ln1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.ln2(x))


class TinyGPT(nn.Module):
    def __init__(self, vocabulary=5000, d=32, depth=4, tied=False):
        super().__init__()
        self.tok = nn.Embedding(vocabulary, d)
        self.pos = nn.Embedding(64, d)
        self.blocks = nn.ModuleList([Block(d) for _ in range(depth)])
        self.ln_f = nn.LayerNorm(d)
        self.head = nn.Linear(d, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tok.weight

    def forward(self, idx):
        x = self.tok(idx) + self.pos(torch.arange(idx.shape[1], device=idx.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


def gpt_text():
    return torch.randint(0, 5000, (2, 16))


GPT_LEVELS = [["tok", "pos"], *each("blocks.#", 3), ["blocks.3", "ln_f"], ["head"]]
net(gpt_text, GPT_LEVELS, name="gpt_big_head")(TinyGPT)
net(gpt_text, GPT_LEVELS, name="gpt_big_head_wrapped", under="model")(TinyGPT)
net(gpt_text, GPT_LEVELS, name="gpt_big_head_lit", under="lit:net")(TinyGPT)
net(gpt_text, GPT_LEVELS[:-1], name="gpt_tied", under="lm")(lambda: TinyGPT(tied=True))
net(lambda: torch.randint(0, 90, (2, 16)), GPT_LEVELS, name="gpt_small_vocabulary", under="core")(
    lambda: TinyGPT(90, 32, 4)
)


@net(
    lambda: torch.randn(2, 3, 32, 32),
    [["patch", "cls", "pos"], *each("encoder.#", 3), ["encoder.3", "norm"], ["head"]],
    under="vit",
)
def vit_scratch():
    class ViT(nn.Module):
        def __init__(self, d=32):
            super().__init__()
            self.patch = nn.Conv2d(3, d, 8, 8)
            self.cls = nn.Parameter(torch.zeros(1, 1, d))
            self.pos = nn.Parameter(torch.zeros(1, 17, d))
            self.encoder = nn.Sequential(*[Block(d) for _ in range(4)])
            self.norm = nn.LayerNorm(d)
            self.head = nn.Linear(d, 10)

        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
            return self.head(self.norm(self.encoder(x))[:, 0])

    return ViT()


@net(lambda: torch.randint(0, 100, (2, 12)), [["embedding"], ["lstm.*_l0"], ["lstm.*_l1"], ["fc"]])
def lstm_classifier():
    class LSTM(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(100, 16)
            self.lstm = nn.LSTM(16, 24, num_layers=2, batch_first=True)
            self.fc = nn.Linear(24, 2)

        def forward(self, text):
            _, (h, _) = self.lstm(self.embedding(text))
            return self.fc(h[-1])

    return LSTM()


@net(
    lambda: (torch.randint(0, 50, (2, 7)), torch.randint(0, 60, (2, 5))),
    [
        ["encoder.embedding"],
        ["encoder.rnn.*_l0"],
        ["encoder.rnn.*_l1"],
        ["decoder.rnn.*_l0"],
        ["decoder.rnn.*_l1"],
        ["decoder.fc"],
    ],
    anywhere=["decoder.embedding"],
)
def seq2seq_gru():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 16)
            self.rnn = nn.GRU(16, 24, 2, batch_first=True)

        def forward(self, src):
            return self.rnn(self.embedding(src))[1]

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(60, 16)
            self.rnn = nn.GRU(16, 24, 2, batch_first=True)
            self.fc = nn.Linear(24, 60)

        def forward(self, token, hidden):
            out, hidden = self.rnn(self.embedding(token), hidden)
            return self.fc(out), hidden

    class Seq2Seq(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = Encoder(), Decoder()

        def forward(self, src, trg):
            hidden = self.encoder(src)
            outs = []
            token = trg[:, :1]
            for _ in range(trg.shape[1]):
                out, hidden = self.decoder(token, hidden)
                outs.append(out)
                token = out.argmax(-1)
            return torch.cat(outs, 1)

    return Seq2Seq()
