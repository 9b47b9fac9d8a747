"""Autoencoders and U-Nets, residual networks, audio, implicit functions, policies."""

import torch
from torch import nn
from torch.nn import functional

from .registry import each, net


class DoubleConv(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(i, o, 3, padding=1, bias=False),
            nn.BatchNorm2d(o),
            nn.ReLU(),
            nn.Conv2d(o, o, 3, padding=1, bias=False),
            nn.BatchNorm2d(o),
            nn.ReLU(),
        )

    def forward(self, x):
        return self.double_conv(x)


@net(lambda: torch.randn(1, 3, 32, 32), [["inc"], ["down1"], ["down2"], ["down3"], ["up1"], ["up2"], ["up3"], ["outc"]])
def unet_milesial():
    class Down(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(i, o))

        def forward(self, x):
            return self.maxpool_conv(x)

    class Up(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.up = nn.ConvTranspose2d(i, i // 2, 2, 2)
            self.conv = DoubleConv(i, o)

        def forward(self, x, skip):
            return self.conv(torch.cat([skip, self.up(x)], 1))

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.inc = DoubleConv(3, 8)
            self.down1, self.down2, self.down3 = Down(8, 16), Down(16, 32), Down(32, 64)
            self.up1, self.up2, self.up3 = Up(64, 32), Up(32, 16), Up(16, 8)
            self.outc = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x1 = self.inc(x)
            x2 = self.down1(x1)
            x3 = self.down2(x2)
            x4 = self.down3(x3)
            return self.outc(self.up3(self.up2(self.up1(x4, x3), x2), x1))

    return UNet()


@net(lambda: torch.randn(2, 784), [["fc1"], ["fc21", "fc22"], ["fc3"], ["fc4"]])
def vae_pytorch_examples():
    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc21, self.fc22 = nn.Linear(784, 40), nn.Linear(40, 20), nn.Linear(40, 20)
            self.fc3, self.fc4 = nn.Linear(20, 40), nn.Linear(40, 784)

        def forward(self, x):
            h = functional.relu(self.fc1(x.view(-1, 784)))
            mu, logvar = self.fc21(h), self.fc22(h)
            z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
            return torch.sigmoid(self.fc4(functional.relu(self.fc3(z)))), mu, logvar

    return VAE()


@net(
    lambda: torch.randn(2, 1, 28, 28),
    [["encoder.0"], ["encoder.2"], ["encoder.4"], ["decoder.0"], ["decoder.2"], ["decoder.4"]],
)
def conv_autoencoder():
    class AE(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(
                nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 7)
            )
            self.decoder = nn.Sequential(
                nn.ConvTranspose2d(32, 16, 7),
                nn.ReLU(),
                nn.ConvTranspose2d(16, 8, 3, 2, 1, 1),
                nn.ReLU(),
                nn.ConvTranspose2d(8, 1, 3, 2, 1, 1),
                nn.Sigmoid(),
            )

        def forward(self, x):
            return self.decoder(self.encoder(x))

    return AE()


class BasicBlock(nn.Module):
    def __init__(self, i, o, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.shortcut = nn.Sequential()
        if stride != 1 or i != o:
            self.shortcut = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(out + self.shortcut(x))


@net(
    lambda: torch.randn(2, 3, 32, 32),
    [["conv1", "bn1"], *[[f"layer{s}.{b}"] for s in (1, 2, 3) for b in (0, 1)], ["linear"]],
    under="lit:model",
)
def resnet_cifar():
    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
            self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
            self.layer2 = nn.Sequential(BasicBlock(8, 16, 2), BasicBlock(16, 16))
            self.layer3 = nn.Sequential(BasicBlock(16, 32, 2), BasicBlock(32, 32))
            self.linear = nn.Linear(32, 10)

        def forward(self, x):
            x = self.layer3(self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(x))))))
            return self.linear(x.mean((2, 3)))

    return ResNet()


@net(
    lambda: torch.randn(2, 1, 32, 96),
    [
        ["cnn.0"],
        ["cnn.3"],
        ["cnn.6", "cnn.7"],
        ["rnn.*_l0", "rnn.*_l0_reverse"],
        ["rnn.*_l1", "rnn.*_l1_reverse"],
        ["fc"],
    ],
)
def crnn_ocr():
    class CRNN(nn.Module):
        def __init__(self):
            super().__init__()
            self.cnn = nn.Sequential(
                nn.Conv2d(1, 8, 3, 1, 1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(8, 16, 3, 1, 1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(16, 32, 3, 1, 1),
                nn.BatchNorm2d(32),
                nn.ReLU(),
                nn.MaxPool2d((8, 1)),
            )
            self.rnn = nn.LSTM(32, 16, 2, bidirectional=True)
            self.fc = nn.Linear(32, 37)

        def forward(self, x):
            x = self.cnn(x).squeeze(2).permute(2, 0, 1)
            return self.fc(self.rnn(x)[0])

    return CRNN()


@net(
    lambda: torch.randn(2, 1, 64),
    [["causal"], *each(["dilated.#", "res.#", "skip.#"], 5), ["end1", "end2"]],
    also=[[["causal"], *each(["dilated.#", "res.#", "skip.#"], 5), ["end1"], ["end2"]]],
)
def wavenet_lists():
    class WaveNet(nn.Module):
        def __init__(self, c=16, n=5):
            super().__init__()
            self.causal = nn.Conv1d(1, c, 1)
            self.dilated = nn.ModuleList([nn.Conv1d(c, 2 * c, 2, dilation=2**i) for i in range(n)])
            self.res = nn.ModuleList([nn.Conv1d(c, c, 1) for _ in range(n)])
            self.skip = nn.ModuleList([nn.Conv1d(c, c, 1) for _ in range(n)])
            self.end1, self.end2 = nn.Conv1d(c, c, 1), nn.Conv1d(c, 256, 1)

        def forward(self, x):
            x, total = self.causal(x), 0
            for dilated, res, skip in zip(self.dilated, self.res, self.skip):
                a, b = dilated(functional.pad(x, (dilated.dilation[0], 0))).chunk(2, 1)
                h = torch.tanh(a) * torch.sigmoid(b)
                total = total + skip(h)
                x = x + res(h)
            return self.end2(functional.relu(self.end1(functional.relu(total))))

    return WaveNet()


@net(lambda: torch.randn(2, 1, 40), [*each("tcn.network.#", 4), ["linear"]])
def tcn_locuslab():
    class TemporalBlock(nn.Module):
        def __init__(self, i, o, d):
            super().__init__()
            self.conv1 = nn.Conv1d(i, o, 3, padding=2 * d, dilation=d)
            self.conv2 = nn.Conv1d(o, o, 3, padding=2 * d, dilation=d)
            self.d = 2 * d
            self.downsample = nn.Conv1d(i, o, 1) if i != o else None

        def forward(self, x):
            h = functional.relu(self.conv1(x)[..., : -self.d])
            h = functional.relu(self.conv2(h)[..., : -self.d])
            return functional.relu(h + (x if self.downsample is None else self.downsample(x)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Sequential(*[TemporalBlock(1 if i == 0 else 12, 12, 2**i) for i in range(4)])

        def forward(self, x):
            return self.network(x)

    class TCN(nn.Module):
        def __init__(self):
            super().__init__()
            self.tcn = Net()
            self.linear = nn.Linear(12, 10)

        def forward(self, x):
            return self.linear(self.tcn(x)[:, :, -1])

    return TCN()


@net(lambda: torch.randn(2, 2), [*each("linears.#", 5)])
def pinn():
    class PINN(nn.Module):
        def __init__(self, layers=(2, 20, 20, 20, 20, 1)):
            super().__init__()
            self.linears = nn.ModuleList([nn.Linear(layers[i], layers[i + 1]) for i in range(len(layers) - 1)])
            self.activation = nn.Tanh()

        def forward(self, x):
            for layer in self.linears[:-1]:
                x = self.activation(layer(x))
            return self.linears[-1](x)

    return PINN()


@net(
    lambda: torch.randn(5, 63 + 27),
    [*each("pts_linears.#", 8), ["feature_linear", "alpha_linear"], ["views_linears"], ["rgb_linear"]],
    also=[[*each("pts_linears.#", 8), ["feature_linear"], ["views_linears"], ["rgb_linear", "alpha_linear"]]],
)
def nerf():
    class NeRF(nn.Module):
        def __init__(self, width=32):
            super().__init__()
            self.pts_linears = nn.ModuleList(
                [nn.Linear(63, width)] + [nn.Linear(width + 63 if i == 4 else width, width) for i in range(7)]
            )
            self.views_linears = nn.ModuleList([nn.Linear(27 + width, width // 2)])
            self.feature_linear = nn.Linear(width, width)
            self.alpha_linear = nn.Linear(width, 1)
            self.rgb_linear = nn.Linear(width // 2, 3)

        def forward(self, x):
            pts, views = x.split([63, 27], -1)
            h = pts
            for i, layer in enumerate(self.pts_linears):
                h = functional.relu(layer(h))
                if i == 4:
                    h = torch.cat([pts, h], -1)
            alpha = self.alpha_linear(h)
            h = torch.cat([self.feature_linear(h), views], -1)
            h = functional.relu(self.views_linears[0](h))
            return torch.cat([self.rgb_linear(h), alpha], -1)

    return NeRF()


@net(
    lambda: torch.randn(1, 4, 84, 84),
    [["features.0"], ["features.2"], ["features.4"], ["value.0", "advantage.0"], ["value.2", "advantage.2"]],
    also=[[["features.0"], ["features.2"], ["features.4"], ["value", "advantage"]]],
)
def dueling_dqn():
    class Dueling(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(4, 8, 8, 4), nn.ReLU(), nn.Conv2d(8, 16, 4, 2), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()
            )
            self.value = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 1))
            self.advantage = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 6))

        def forward(self, x):
            x = self.features(x).flatten(1)
            value, advantage = self.value(x), self.advantage(x)
            return value + advantage - advantage.mean(1, keepdim=True)

    return Dueling()


@net(lambda: torch.randn(2, 8), [["shared.0"], ["shared.2"], ["actor", "critic"]])
def actor_critic():
    class ActorCritic(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
            self.actor = nn.Linear(64, 4)
            self.critic = nn.Linear(64, 1)

        def forward(self, obs):
            h = self.shared(obs)
            return torch.distributions.Categorical(logits=self.actor(h)), self.critic(h)

    return ActorCritic()


@net(lambda: torch.randn(1, 3, 32, 32), [["f.0"], ["f.3"], ["f.6"], ["f.8"], ["fc.0"], ["fc.3"]], under="seq")
def vgg_scratch():
    class VGG(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Sequential(
                nn.Conv2d(3, 8, 3, 1, 1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(8, 16, 3, 1, 1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(16, 32, 3, 1, 1),
                nn.ReLU(),
                nn.Conv2d(32, 32, 3, 1, 1),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )
            self.fc = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10))

        def forward(self, x):
            return self.fc(self.f(x).flatten(1))

    return VGG()
