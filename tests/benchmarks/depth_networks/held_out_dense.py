"""Dense prediction, metric learning, video, restoration."""

import torch
from torch import nn
from torch.nn import functional

from .registry import each, image, net


def cbr(i, o, k=3, s=1):
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU())


class Res(nn.Module):
    def __init__(self, i, o, s=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.down = nn.Conv2d(i, o, 1, s, bias=False) if i != o or s > 1 else nn.Identity()

    def forward(self, x):
        return functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))) + self.down(x))


@net(
    lambda: torch.randn(1, 1, 32, 32),
    [*each("encoders.#", 3), ["bottleneck"], *each(["ups.#", "decoders.#"], 3), ["final"]],
    under="lit:net",
)
def unet_in_lists():
    class UNet(nn.Module):
        def __init__(self, dims=(8, 16, 32)):
            super().__init__()
            double = lambda i, o: nn.Sequential(cbr(i, o), cbr(o, o))
            self.encoders, self.decoders, self.ups = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
            c = 1
            for d in dims:
                self.encoders.append(double(c, d))
                c = d
            for d in reversed(dims):
                self.ups.append(nn.ConvTranspose2d(2 * d, d, 2, 2))
                self.decoders.append(double(2 * d, d))
            self.bottleneck, self.final = double(dims[-1], 2 * dims[-1]), nn.Conv2d(dims[0], 2, 1)

        def forward(self, x):
            skips = []
            for enc in self.encoders:
                x = enc(x)
                skips.append(x)
                x = functional.max_pool2d(x, 2)
            x = self.bottleneck(x)
            for up, dec, skip in zip(self.ups, self.decoders, reversed(skips)):
                x = dec(torch.cat([skip, up(x)], 1))
            return self.final(x)

    return UNet()


@net(
    image,
    [["stage1.0", "stage1.1"], ["stage2.0", "stage2.1"], ["stage3.0", "stage3.1"], ["score3"]],
    anywhere=["score2", "score1"],
    under="model",
)
def fcn8_small():
    class FCN(nn.Module):
        def __init__(self):
            super().__init__()
            st = lambda i, o: nn.Sequential(
                nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)
            )
            self.stage1, self.stage2, self.stage3 = st(3, 16), st(16, 32), st(32, 64)
            self.score1, self.score2, self.score3 = nn.Conv2d(16, 5, 1), nn.Conv2d(32, 5, 1), nn.Conv2d(64, 5, 1)

        def forward(self, x):
            a = self.stage1(x)
            b = self.stage2(a)
            y = functional.interpolate(self.score3(self.stage3(b)), scale_factor=2) + self.score2(b)
            return functional.interpolate(functional.interpolate(y, scale_factor=2) + self.score1(a), scale_factor=2)

    return FCN()


KEY = [["stem"], *each("layers.#", 3)]


@net(
    image,
    [*KEY, ["layers.3"], ["deconv.0", "deconv.1"], ["deconv.3", "deconv.4"], ["final_layer"]],
    also=[
        [*KEY, ["layers.3", "deconv"], ["final_layer"]],
        [*KEY, ["layers.3"], ["deconv"], ["final_layer"]],
        [*KEY, ["layers.3"], ["deconv", "final_layer"]],
    ],
)
def pose_heatmaps():
    class PoseResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = cbr(3, 8, 7, 2)
            self.layers = nn.Sequential(Res(8, 8), Res(8, 16, 2), Res(16, 16), Res(16, 32, 2))
            self.deconv = nn.Sequential(
                nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.ConvTranspose2d(16, 16, 4, 2, 1, bias=False),
                nn.BatchNorm2d(16),
                nn.ReLU(),
            )
            self.final_layer = nn.Conv2d(16, 17, 1)

        def forward(self, x):
            return self.final_layer(self.deconv(self.layers(self.stem(x))))

    return PoseResNet()


DET = [["backbone.stem"], *each("backbone.blocks.#", 4)]


@net(
    image,
    [*DET, ["cls_head", "reg_head"]],
    also=[[*DET, ["cls_head.0", "reg_head.0"], ["cls_head.2", "reg_head.2"]]],
    anywhere=["fpn"],
    under="detector",
)
def two_branch_detector():
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = cbr(3, 8, 3, 2)
            self.blocks = nn.ModuleList([Res(8, 8), Res(8, 16, 2), Res(16, 24, 2), Res(24, 24)])

        def forward(self, x):
            x = self.blocks[0](self.stem(x))
            p3 = self.blocks[1](x)
            return p3, self.blocks[3](self.blocks[2](p3))

    class Detector(nn.Module):
        def __init__(self, c=16):
            super().__init__()
            self.backbone = Backbone()
            self.fpn = nn.ModuleDict({"p3": nn.Conv2d(16, c, 1), "p4": nn.Conv2d(24, c, 1)})
            branch = lambda o: nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, o, 3, padding=1))
            self.cls_head, self.reg_head = branch(9 * 20), branch(9 * 4)

        def forward(self, x):
            p3, p4 = self.backbone(x)
            p4 = self.fpn["p4"](p4)
            p3 = self.fpn["p3"](p3) + functional.interpolate(p4, scale_factor=2)
            return [(self.cls_head(p), self.reg_head(p)) for p in (p3, p4)]

    return Detector()


@net(
    lambda: (torch.randn(2, 1, 28, 28), torch.randn(2, 1, 28, 28), torch.randn(2, 1, 28, 28)),
    [
        ["embedding_net.convnet.0"],
        ["embedding_net.convnet.3"],
        ["embedding_net.fc.0"],
        ["embedding_net.fc.2"],
        ["embedding_net.fc.4"],
    ],
    anywhere=["embedding_net.convnet.[14]", "embedding_net.fc.[13]"],
)
def triplet_net():
    class EmbeddingNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.convnet = nn.Sequential(
                nn.Conv2d(1, 16, 5),
                nn.PReLU(),
                nn.MaxPool2d(2, 2),
                nn.Conv2d(16, 32, 5),
                nn.PReLU(),
                nn.MaxPool2d(2, 2),
            )
            self.fc = nn.Sequential(nn.Linear(512, 128), nn.PReLU(), nn.Linear(128, 128), nn.PReLU(), nn.Linear(128, 2))

        def forward(self, x):
            return self.fc(self.convnet(x).flatten(1))

    class TripletNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding_net = EmbeddingNet()

        def forward(self, a, p, n):
            return self.embedding_net(a), self.embedding_net(p), self.embedding_net(n)

    return TripletNet()


@net(
    lambda: (torch.randn(2, 3, 32, 32), torch.randint(0, 500, (2,))),
    [["backbone.stem"], *each("backbone.layers.#", 3), ["backbone.layers.3", "backbone.embed"], ["margin"]],
    also=[
        [["backbone.stem"], *each("backbone.layers.#", 4), ["backbone.embed"], ["margin"]],
        [["backbone.stem"], *each("backbone.layers.#", 4), ["backbone.embed", "margin"]],
    ],
)
def arc_face():
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.layers = cbr(3, 8), nn.Sequential(Res(8, 8), Res(8, 16, 2), Res(16, 24, 2), Res(24, 32, 2))
            self.embed = nn.Linear(32 * 16, 64)

        def forward(self, x):
            return self.embed(self.layers(self.stem(x)).flatten(1))

    class Margin(nn.Module):
        def __init__(self, d, n):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(n, d))

        def forward(self, x, label):
            cos = functional.linear(functional.normalize(x), functional.normalize(self.weight)).clamp(-0.999, 0.999)
            phi = torch.cos(torch.acos(cos) + 0.5)
            hot = functional.one_hot(label, cos.shape[1])
            return 30 * (hot * phi + (1 - hot) * cos)

    class FaceModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.margin, self.backbone = Margin(64, 500), Backbone()

        def forward(self, x, label):
            return self.margin(self.backbone(x), label)

    return FaceModel()


@net(
    lambda: torch.randn(1, 3, 8, 32, 32),
    [["conv1"], ["conv2"], ["conv3a"], ["conv3b"], ["fc6"], ["fc7"], ["fc8"]],
    under="video.c3d",
)
def c3d():
    class C3D(nn.Module):
        def __init__(self):
            super().__init__()
            conv = lambda i, o: nn.Conv3d(i, o, 3, padding=1)
            self.conv1, self.conv2, self.conv3a, self.conv3b = conv(3, 8), conv(8, 16), conv(16, 32), conv(32, 32)
            self.fc6, self.fc7, self.fc8 = nn.Linear(32 * 2 * 16, 128), nn.Linear(128, 128), nn.Linear(128, 10)

        def forward(self, x):
            x = functional.max_pool3d(functional.relu(self.conv1(x)), (1, 2, 2))
            x = functional.max_pool3d(functional.relu(self.conv2(x)), 2)
            x = functional.max_pool3d(functional.relu(self.conv3b(functional.relu(self.conv3a(x)))), 2).flatten(1)
            return self.fc8(functional.relu(self.fc7(functional.relu(self.fc6(x)))))

    return C3D()


@net(
    lambda: torch.randn(2, 5, 3, 24, 24),
    [["cnn.0", "cnn.1"], ["cnn.4", "cnn.5"], ["lstm.*_l0"], ["lstm.*_l1"], ["fc"]],
    under="model",
)
def cnn_lstm_video():
    class CNNLSTM(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(32, 6)
            self.cnn = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(8, 16, 3),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
            )
            self.lstm = nn.LSTM(16, 32, 2, batch_first=True)

        def forward(self, x):
            b, t = x.shape[:2]
            h, _ = self.lstm(self.cnn(x.flatten(0, 1)).view(b, t, -1))
            return self.fc(h[:, -1])

    return CNNLSTM()


@net(
    lambda: {"image": torch.randn(2, 3, 32, 32), "question": torch.randint(0, 40, (2, 6))},
    [["stem"], *each("resblocks.#", 4), ["classifier"]],
    anywhere=["embed", "gru", "film"],
)
def film_vqa():
    class FilmBlock(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.proj, self.conv, self.bn = (
                nn.Conv2d(c + 2, c, 1),
                nn.Conv2d(c, c, 3, padding=1),
                nn.BatchNorm2d(c, affine=False),
            )

        def forward(self, x, gamma, beta):
            b, _, h, w = x.shape
            xy = torch.stack(torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")).to(
                x.device
            )
            y = functional.relu(self.proj(torch.cat([x, xy.expand(b, -1, -1, -1)], 1)))
            return y + functional.relu(gamma[..., None, None] * self.bn(self.conv(y)) + beta[..., None, None])

    class FiLM(nn.Module):
        def __init__(self, c=16):
            super().__init__()
            self.embed, self.gru, self.film = (
                nn.Embedding(40, 12),
                nn.GRU(12, 24, batch_first=True),
                nn.Linear(24, 4 * 2 * c),
            )
            self.stem, self.resblocks = cbr(3, c, 4, 2), nn.ModuleList(FilmBlock(c) for _ in range(4))
            self.classifier = nn.Sequential(
                nn.Conv2d(c, 32, 1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(32, 28)
            )

        def forward(self, image, question):
            _, h = self.gru(self.embed(question))
            film = self.film(h[0]).view(len(h[0]), 4, 2, -1)
            x = self.stem(image)
            for i, block in enumerate(self.resblocks):
                x = block(x, film[:, i, 0], film[:, i, 1])
            return self.classifier(x)

    return FiLM()


@net(
    image,
    [["head"], *each("body.#", 3), ["body.3", "body.4"], ["tail"]],
    under="model",
    also=[
        [["head"], *each("body.#", 5), ["tail"]],
        [["head"], *each("body.#", 3), ["body.3", "body.4", "tail.0"], ["tail.2"]],
    ],
)
def edsr():
    class ResBlock(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1))

        def forward(self, x):
            return x + 0.1 * self.body(x)

    class EDSR(nn.Module):
        def __init__(self, c=16):
            super().__init__()
            conv = lambda i, o: nn.Conv2d(i, o, 3, padding=1)
            self.head, self.body = (
                nn.Sequential(conv(3, c)),
                nn.Sequential(*[ResBlock(c) for _ in range(4)], conv(c, c)),
            )
            self.tail = nn.Sequential(conv(c, 4 * c), nn.PixelShuffle(2), conv(c, 3))

        def forward(self, x):
            x = self.head(x)
            return self.tail(x + self.body(x))

    return EDSR()


@net(
    lambda: torch.randn(1, 1, 24, 24),
    [["dncnn.0"], *[[f"dncnn.{i}", f"dncnn.{i + 1}"] for i in (2, 5, 8, 11)], ["dncnn.14"]],
    under="denoiser",
)
def dn_cnn():
    class DnCNN(nn.Module):
        def __init__(self, c=16):
            super().__init__()
            layers = [nn.Conv2d(1, c, 3, padding=1), nn.ReLU()]
            for _ in range(4):
                layers += [nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), nn.ReLU()]
            self.dncnn = nn.Sequential(*layers, nn.Conv2d(c, 1, 3, padding=1))

        def forward(self, x):
            return x - self.dncnn(x)

    return DnCNN()
