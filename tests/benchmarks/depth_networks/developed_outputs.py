"""Several inputs, outputs or networks in one."""

import torch
from torch import nn
from torch.nn import functional

from .developed_basics import Block
from .developed_paths import BasicBlock, DoubleConv
from .registry import each, net


@net(lambda: torch.randn(2, 6), [["trunk.0"], ["trunk.2"], ["mu", "log_std"]])
def gaussian_policy():
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_std = nn.Linear(32, 2)
            self.trunk = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
            self.mu = nn.Linear(32, 2)

        def forward(self, obs):
            h = self.trunk(obs)
            return torch.distributions.Normal(self.mu(h), self.log_std(h).exp())

    return Policy()


@net(
    lambda: torch.randn(2, 40, 20),
    [["latents", "input_proj"], ["cross"], *each("selfs.#", 3), ["decoder"], ["out"]],
    also=[
        [["latents", "input_proj"], ["cross"], *each("selfs.#", 3), ["decoder", "out"]],
        [["latents", "input_proj", "cross"], *each("selfs.#", 3), ["decoder", "out"]],
        [["latents", "input_proj", "cross"], *each("selfs.#", 3), ["decoder"], ["out"]],
    ],
    anywhere=["query"],
)
def perceiver_small():
    class Perceiver(nn.Module):
        def __init__(self, d=32):
            super().__init__()
            self.decoder = nn.MultiheadAttention(d, 2, batch_first=True)
            self.query = nn.Parameter(torch.randn(1, 1, d))
            self.latents = nn.Parameter(torch.randn(1, 8, d))
            self.input_proj = nn.Linear(20, d)
            self.cross = nn.MultiheadAttention(d, 2, batch_first=True)
            self.selfs = nn.ModuleList([Block(d) for _ in range(3)])
            self.out = nn.Linear(d, 5)

        def forward(self, x):
            x = self.input_proj(x)
            z = self.latents.expand(len(x), -1, -1)
            z = z + self.cross(z, x, x, need_weights=False)[0]
            for block in self.selfs:
                z = block(z)
            q = self.query.expand(len(x), -1, -1)
            return self.out(self.decoder(q, z, z, need_weights=False)[0][:, 0])

    return Perceiver()


@net(
    lambda: torch.randn(2, 1, 64, 50),
    [
        ["conv.0", "conv.1"],
        ["conv.3", "conv.4"],
        ["rnn_layers.0"],
        ["rnn_layers.1"],
        ["rnn_layers.2"],
        ["classifier"],
    ],
    also=[
        [["conv"], ["rnn_layers.0"], ["rnn_layers.1"], ["rnn_layers.2"], ["classifier"]],
        [
            ["conv.0", "conv.1"],
            ["conv.3", "conv.4"],
            ["rnn_layers.0"],
            ["rnn_layers.1"],
            ["rnn_layers.2"],
            ["classifier.0"],
            ["classifier.2"],
        ],
    ],
)
def deepspeech():
    class BiGRU(nn.Module):
        def __init__(self, i, h):
            super().__init__()
            self.norm = nn.LayerNorm(i)
            self.gru = nn.GRU(i, h, batch_first=True, bidirectional=True)

        def forward(self, x):
            return self.gru(functional.gelu(self.norm(x)))[0]

    class SpeechRecognition(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Sequential(
                nn.Conv2d(1, 8, 3, 2, 1),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 8, 3, 2, 1),
                nn.BatchNorm2d(8),
                nn.ReLU(),
            )
            self.rnn_layers = nn.Sequential(BiGRU(128, 32), BiGRU(64, 32), BiGRU(64, 32))
            self.classifier = nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 29))

        def forward(self, x):
            x = self.conv(x)
            return self.classifier(self.rnn_layers(x.flatten(1, 2).transpose(1, 2)))

    return SpeechRecognition()


@net(
    lambda: torch.randn(2, 3, 64, 64),
    [["backbone.stem"], *each("backbone.stages.#", 3), ["heads"]],
)
def yolo_heads_in_list():
    class Stage(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.down = nn.Conv2d(i, o, 3, 2, 1)
            self.conv = nn.Conv2d(o, o, 3, 1, 1)
            self.bn = nn.BatchNorm2d(o)

        def forward(self, x):
            return self.bn(self.conv(self.down(x).relu())).relu()

    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, 2, 1)
            self.stages = nn.ModuleList([Stage(8, 16), Stage(16, 32), Stage(32, 64)])

        def forward(self, x):
            x, out = self.stem(x), []
            for stage in self.stages:
                x = stage(x)
                out.append(x)
            return out

    class Yolo(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Backbone()
            self.heads = nn.ModuleList(
                [nn.Sequential(nn.Conv2d(c, c, 3, 1, 1), nn.ReLU(), nn.Conv2d(c, 21, 1)) for c in (16, 32, 64)]
            )

        def forward(self, x):
            return [head(f) for head, f in zip(self.heads, self.backbone(x))]

    return Yolo()


@net(
    lambda: torch.randn(2, 3, 32, 32),
    [["student.conv1", "student.bn1"], ["student.b1"], ["student.b2"], ["student.fc"]],
    anywhere=["teacher"],
)
def student_and_teacher():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8)
            self.b1, self.b2 = BasicBlock(8, 8), BasicBlock(8, 8)
            self.fc = nn.Linear(8, 10)

        def forward(self, x):
            return self.fc(self.b2(self.b1(functional.relu(self.bn1(self.conv1(x))))).mean((2, 3)))

    class Distill(nn.Module):
        def __init__(self):
            super().__init__()
            self.student, self.teacher = Small(), Small()
            self.teacher.requires_grad_(False)

        def forward(self, x):
            with torch.no_grad():
                target = self.teacher(x)
            return self.student(x), target

    return Distill()


@net(
    lambda: (torch.randn(2, 3, 32, 32), torch.randint(0, 100, (2, 8))),
    [["vision.0"], ["vision.2"], ["vision.4"], ["fusion.0"], ["fusion.2"]],
    also=[[["vision.0"], ["vision.2"], ["vision.4"], ["fusion"]]],
    anywhere=["text.embedding", "text.rnn"],
)
def late_fusion():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(100, 16)
            self.rnn = nn.LSTM(16, 16, batch_first=True)

        def forward(self, x):
            return self.rnn(self.embedding(x))[1][0][-1]

    class Fusion(nn.Module):
        def __init__(self):
            super().__init__()
            self.vision = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2),
                nn.ReLU(),
                nn.Conv2d(8, 16, 3, 2),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, 2),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
            )
            self.text = Text()
            self.fusion = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 4))

        def forward(self, image, text):
            return self.fusion(torch.cat([self.vision(image), self.text(text)], 1))

    return Fusion()


@net(
    lambda: torch.randn(2, 3, 32, 32),
    [["enc1"], ["enc2"], ["bottleneck"], ["upconv2", "dec2"], ["upconv1", "dec1"], ["conv"]],
    under="net",
)
def unet_brain_mri():
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc1, self.enc2, self.bottleneck = DoubleConv(3, 8), DoubleConv(8, 16), DoubleConv(16, 32)
            self.upconv2, self.dec2 = nn.ConvTranspose2d(32, 16, 2, 2), DoubleConv(32, 16)
            self.upconv1, self.dec1 = nn.ConvTranspose2d(16, 8, 2, 2), DoubleConv(16, 8)
            self.conv = nn.Conv2d(8, 1, 1)

        def forward(self, x):
            a = self.enc1(x)
            b = self.enc2(functional.max_pool2d(a, 2))
            c = self.bottleneck(functional.max_pool2d(b, 2))
            d = self.dec2(torch.cat([self.upconv2(c), b], 1))
            return self.conv(self.dec1(torch.cat([self.upconv1(d), a], 1)))

    return UNet()
