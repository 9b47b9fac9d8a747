"""Image classifiers."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from .registry import each, image, net


def cbr(i, o, k=3, s=1, g=1):
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))


@net(
    image,
    [
        ["features.0"],
        ["features.3"],
        ["features.6"],
        ["features.8"],
        ["classifier.1"],
        ["classifier.4"],
        ["classifier.6"],
    ],
    under="model.net",
)
def mini_alex_two_wrappers():
    class AlexNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(3, 16, 5, 2, 2),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(16, 32, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(32, 48, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(48, 32, 3, padding=1),
                nn.ReLU(),
            )
            self.avgpool = nn.AdaptiveAvgPool2d(3)
            self.classifier = nn.Sequential(
                nn.Dropout(),
                nn.Linear(288, 256),
                nn.ReLU(),
                nn.Dropout(),
                nn.Linear(256, 256),
                nn.ReLU(),
                nn.Linear(256, 10),
            )

        def forward(self, x):
            return self.classifier(self.avgpool(self.features(x)).flatten(1))

    return AlexNet()


class Fire(nn.Module):
    def __init__(self, i, s, e):
        super().__init__()
        self.squeeze, self.expand1x1, self.expand3x3 = (
            nn.Conv2d(i, s, 1),
            nn.Conv2d(s, e, 1),
            nn.Conv2d(s, e, 3, padding=1),
        )

    def forward(self, x):
        x = functional.relu(self.squeeze(x))
        return torch.cat([functional.relu(self.expand1x1(x)), functional.relu(self.expand3x3(x))], 1)


@net(image, [["features.0"], ["features.3"], ["features.4"], ["features.6"], ["features.7"], ["classifier.1"]])
def squeeze_net_small():
    class SqueezeNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(3, 16, 3),
                nn.ReLU(),
                nn.MaxPool2d(2),
                Fire(16, 4, 16),
                Fire(32, 4, 16),
                nn.MaxPool2d(2),
                Fire(32, 8, 24),
                Fire(48, 8, 24),
            )
            self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(48, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

        def forward(self, x):
            return self.classifier(self.features(x)).flatten(1)

    return SqueezeNet()


class Bottleneck(nn.Module):
    def __init__(self, i, p, s):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, p, 1, bias=False), nn.BatchNorm2d(p)
        self.conv2, self.bn2 = nn.Conv2d(p, p, 3, s, 1, bias=False), nn.BatchNorm2d(p)
        self.conv3, self.bn3 = nn.Conv2d(p, 4 * p, 1, bias=False), nn.BatchNorm2d(4 * p)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(i, 4 * p, 1, s, bias=False), nn.BatchNorm2d(4 * p))
            if s > 1 or i != 4 * p
            else nn.Sequential()
        )

    def forward(self, x):
        y = functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))))
        return functional.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


BOTTLENECKS = [["conv1", "bn1"], *[[f"layer{s}.{b}"] for s in (1, 2, 3) for b in range(2)], ["linear"]]


class BigHeadResNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Bottleneck(8, 8, 1), Bottleneck(32, 8, 1))
        self.layer2 = nn.Sequential(Bottleneck(32, 16, 2), Bottleneck(64, 16, 1))
        self.layer3 = nn.Sequential(Bottleneck(64, 32, 2), Bottleneck(128, 32, 1))
        self.linear = nn.Linear(128, classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(x))))))
        return self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))


net(image, BOTTLENECKS, name="bottleneck_resnet")(lambda: BigHeadResNet(10))
net(image, BOTTLENECKS, name="bottleneck_resnet_big_head", under="backbone.model")(lambda: BigHeadResNet(4000))


@net(
    image,
    [
        ["conv1"],
        *[[f"block{s}.layer.{i}"] for s in (1, 2) for i in range(2)],
        ["block3.layer.0"],
        ["block3.layer.1", "bn1"],
        ["fc"],
    ],
)
def wide_resnet():
    class Basic(nn.Module):
        def __init__(self, i, o, s):
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(i), nn.Conv2d(i, o, 3, s, 1, bias=False)
            self.bn2, self.conv2 = nn.BatchNorm2d(o), nn.Conv2d(o, o, 3, 1, 1, bias=False)
            self.short = nn.Conv2d(i, o, 1, s, bias=False) if i != o else None

        def forward(self, x):
            y = functional.relu(self.bn1(x))
            z = self.conv2(functional.relu(self.bn2(self.conv1(y))))
            return z + (self.short(y) if self.short is not None else x)

    class NetworkBlock(nn.Module):
        def __init__(self, i, o, s):
            super().__init__()
            self.layer = nn.Sequential(Basic(i, o, s), Basic(o, o, 1))

        def forward(self, x):
            return self.layer(x)

    class WideResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
            self.block1, self.block2, self.block3 = (
                NetworkBlock(8, 16, 1),
                NetworkBlock(16, 32, 2),
                NetworkBlock(32, 64, 2),
            )
            self.bn1, self.fc = nn.BatchNorm2d(64), nn.Linear(64, 10)

        def forward(self, x):
            x = functional.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))
            return self.fc(functional.avg_pool2d(x, 8).flatten(1))

    return WideResNet()


@net(image, [["pre_layers"], ["a3"], ["b3"], ["a4"], ["b4"], ["linear"]], under="lit:model")
def google_net_cifar():
    class Inception(nn.Module):
        def __init__(self, i, n1, r3, n3, r5, n5, p):
            super().__init__()
            self.b1 = cbr(i, n1, 1)
            self.b2 = nn.Sequential(cbr(i, r3, 1), cbr(r3, n3))
            self.b3 = nn.Sequential(cbr(i, r5, 1), cbr(r5, n5), cbr(n5, n5))
            self.b4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), cbr(i, p, 1))

        def forward(self, x):
            return torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], 1)

    class GoogLeNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.pre_layers = cbr(3, 24)
            self.a3, self.b3 = Inception(24, 8, 12, 16, 4, 4, 4), Inception(32, 16, 16, 24, 4, 12, 8)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
            self.a4, self.b4 = Inception(60, 24, 12, 26, 4, 6, 8), Inception(64, 20, 14, 28, 4, 8, 8)
            self.linear = nn.Linear(64, 10)

        def forward(self, x):
            x = self.maxpool(self.b3(self.a3(self.pre_layers(x))))
            return self.linear(self.b4(self.a4(x)).mean((2, 3)))

    return GoogLeNet()


class SE(nn.Module):
    def __init__(self, c, r=4):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(c, c // r), nn.ReLU(), nn.Linear(c // r, c), nn.Sigmoid())

    def forward(self, x):
        return x * self.fc(x.mean((2, 3)))[..., None, None]


class InvertedResidual(nn.Module):
    def __init__(self, i, o, s, t, se=False):
        super().__init__()
        h = i * t
        layers = [cbr(i, h, 1)] if t > 1 else []
        layers += [cbr(h, h, 3, s, h)] + ([SE(h)] if se else []) + [nn.Conv2d(h, o, 1, bias=False), nn.BatchNorm2d(o)]
        self.conv, self.skip = nn.Sequential(*layers), s == 1 and i == o

    def forward(self, x):
        return x + self.conv(x) if self.skip else self.conv(x)


@net(image, [["features.0"], *each("features.#", 4, 1), ["features.5", "features.6"], ["classifier"]], under="seq")
def mobile_net_v2_small():
    class MobileNetV2(nn.Module):
        def __init__(self):
            super().__init__()
            f = [cbr(3, 8, 3, 2)]
            for i, o, s, t in ((8, 8, 1, 1), (8, 12, 2, 6), (12, 12, 1, 6), (12, 16, 2, 6), (16, 16, 1, 6)):
                f.append(InvertedResidual(i, o, s, t))
            self.features = nn.Sequential(*f, cbr(16, 96, 1))
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(96, 10))

        def forward(self, x):
            return self.classifier(self.features(x).mean([2, 3]))

    return MobileNetV2()


@net(image, [["stem"], *each("blocks.#", 3), ["blocks.3", "head_conv"], ["fc"]])
def efficient_net_like():
    class EfficientNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head_conv, self.fc = cbr(3, 8, 3, 2), cbr(24, 96, 1), nn.Linear(96, 100)
            self.blocks = nn.ModuleList(
                InvertedResidual(i, o, s, 4, True) for i, o, s in ((8, 12, 1), (12, 12, 1), (12, 24, 2), (24, 24, 1))
            )

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            return self.fc(functional.dropout(self.head_conv(x).mean((2, 3)), 0.2, self.training))

    return EfficientNet()


class PreNormBlock(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.to_qkv, self.to_out, self.heads = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d), h

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = (t.view(b, n, self.heads, -1).transpose(1, 2) for t in self.to_qkv(self.norm(x)).chunk(3, -1))
        return self.to_out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class FeedForward(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        return self.net(x)


class ListTransformer(nn.Module):
    def __init__(self, d, n):
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.layers = nn.ModuleList(nn.ModuleList([PreNormBlock(d, 2), FeedForward(d)]) for _ in range(n))

    def forward(self, x):
        for attn, ff in self.layers:
            x = attn(x) + x
            x = ff(x) + x
        return self.norm(x)


class ListViT(nn.Module):
    def __init__(self, d=24, n=4):
        super().__init__()
        self.to_patch_embedding = nn.Sequential(nn.LayerNorm(192), nn.Linear(192, d), nn.LayerNorm(d))
        self.pos_embedding, self.cls_token = nn.Parameter(torch.randn(1, 17, d)), nn.Parameter(torch.randn(1, 1, d))
        self.transformer, self.mlp_head = ListTransformer(d, n), nn.Linear(d, 10)

    def forward(self, img):
        x = functional.unfold(img, 8, stride=8).transpose(1, 2)
        x = self.to_patch_embedding(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embedding
        return self.mlp_head(self.transformer(x)[:, 0])


LIST_VIT = [
    ["to_patch_embedding", "pos_embedding", "cls_token"],
    *each("transformer.layers.#", 3),
    ["transformer.layers.3", "transformer.norm"],
    ["mlp_head"],
]
net(image, LIST_VIT, name="list_vit")(ListViT)
net(image, LIST_VIT, name="list_vit_wrapped", under="student")(lambda: ListViT(16, 4))


class Fn(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return x + self.fn(x)


@net(image, [["0", "2"], ["3"], ["4"], ["5"], ["8"]])
def conv_mixer():
    d = 24
    return nn.Sequential(
        nn.Conv2d(3, d, 4, 4),
        nn.GELU(),
        nn.BatchNorm2d(d),
        *[
            nn.Sequential(
                Fn(nn.Sequential(nn.Conv2d(d, d, 5, groups=d, padding="same"), nn.GELU(), nn.BatchNorm2d(d))),
                nn.Conv2d(d, d, 1),
                nn.GELU(),
                nn.BatchNorm2d(d),
            )
            for _ in range(3)
        ],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(d, 10),
    )


@net(image, [["stem"], ["body.first"], ["body.second"], ["body.third"], ["head"]], under="net")
def ordered_dict_sequential():
    block = lambda i, o: nn.Sequential(cbr(i, o), cbr(o, o), nn.MaxPool2d(2))
    return nn.Sequential(
        OrderedDict(
            stem=cbr(3, 8),
            body=nn.Sequential(OrderedDict(first=block(8, 16), second=block(16, 24), third=block(24, 32))),
            head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 100)),
        )
    )


@net(
    image,
    [["tokenizer"], *each("blocks.#", 2), ["blocks.2", "norm", "attention_pool"], ["fc"]],
    anywhere=["positional_emb"],
)
def compact_transformer():
    class CCT(nn.Module):
        def __init__(self, d=24):
            super().__init__()
            self.tokenizer = nn.Sequential(
                nn.Conv2d(3, 16, 3, 1, 1, bias=False),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(16, d, 3, 1, 1, bias=False),
                nn.ReLU(),
                nn.MaxPool2d(4),
            )
            self.positional_emb = nn.Parameter(torch.zeros(1, 16, d))
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(d, 2, 48, batch_first=True, norm_first=True) for _ in range(3)
            )
            self.norm, self.attention_pool, self.fc = nn.LayerNorm(d), nn.Linear(d, 1), nn.Linear(d, 10)

        def forward(self, x):
            x = self.tokenizer(x).flatten(2).transpose(1, 2) + self.positional_emb
            for b in self.blocks:
                x = b(x)
            x = self.norm(x)
            return self.fc((self.attention_pool(x).softmax(1).transpose(1, 2) @ x).squeeze(1))

    return CCT()
