"""Further networks of a few modules of one class, written after the rules of developed_pairs.py."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from .registry import net


@net(
    lambda: (torch.randn(10, 16), torch.randint(0, 10, (2, 30))),
    [["conv1"], ["conv2"], ["readout"]],
)
def graph_transformer_pair():
    class Conv(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(i, o) for _ in range(3))
            self.skip = nn.Linear(i, o, bias=False)
            self.gain = nn.Parameter(torch.ones(1, o))

        def forward(self, x, edges):
            q, k, v = self.query(x)[edges[1]], self.key(x)[edges[0]], self.value(x)[edges[0]]
            weights = (q * k).sum(-1, keepdim=True).softmax(0)
            return torch.zeros(x.shape[0], v.shape[1]).index_add(0, edges[1], v * weights) * self.gain + self.skip(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.readout = Conv(16, 64), Conv(64, 16), nn.Linear(16, 3)

        def forward(self, x, edges):
            return self.readout(self.conv2(self.conv1(x, edges).relu(), edges).relu().mean(0))

    return Net()


@net(
    lambda: (torch.randn(2, 3, 16, 16), torch.randint(0, 50, (2, 9))),
    [
        ["image.features.0", "text.table"],
        ["image.features.2", "text.rnn"],
        ["image.out", "text.out"],
    ],
    also=[
        [["image.features.0", "text.table"], ["image.features.2"], ["text.rnn"], ["image.out", "text.out"]],
        [["text.table"], ["image.features.0", "text.rnn"], ["image.features.2"], ["image.out", "text.out"]],
    ],
    anywhere=["scale"],
)
def image_text_cosine():
    class Image(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU())
            self.out = nn.Linear(32, 24)

        def forward(self, x):
            return self.out(self.features(x).mean((2, 3)))

    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.rnn, self.out = nn.Embedding(50, 32), nn.GRU(32, 48, batch_first=True), nn.Linear(48, 24)

        def forward(self, ids):
            return self.out(self.rnn(self.table(ids))[1][-1])

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.text, self.image, self.scale = Text(), Image(), nn.Parameter(torch.tensor(2.0))

        def forward(self, image, ids):
            a, b = functional.normalize(self.image(image), dim=-1), functional.normalize(self.text(ids), dim=-1)
            return self.scale.exp() * a @ b.T

    return Both()


@net(
    lambda: torch.randn(4, 30),
    [["encoder.0"], ["encoder.2"], ["encoder.4"], ["decoder.0"], ["decoder.2"], ["decoder.4"]],
)
def autoencoder_of_one_class():
    class MLP(nn.Sequential):
        def __init__(self, *sizes):
            parts = []
            for i, o in pairwise(sizes):
                parts += [nn.Linear(i, o), nn.ReLU()]
            super().__init__(*parts[:-1])

    class Autoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = MLP(30, 128, 64, 4), MLP(4, 16, 24, 30)

        def forward(self, x):
            return self.decoder(self.encoder(x))

    return Autoencoder()
