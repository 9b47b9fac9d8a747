"""Discriminators, ensembles, audio, backbones of libraries."""

import torch
from torch import nn
from torch.nn import functional

from .registry import each, image, mlp, net


@net(image, [["main.0"], ["main.2"], ["main.4"], ["main.7"]], under="netD")
def spectral_discriminator():
    sn = nn.utils.parametrizations.spectral_norm

    class D(nn.Module):
        def __init__(self):
            super().__init__()
            self.main = nn.Sequential(
                sn(nn.Conv2d(3, 16, 4, 2, 1)),
                nn.LeakyReLU(0.1),
                sn(nn.Conv2d(16, 32, 4, 2, 1)),
                nn.LeakyReLU(0.1),
                sn(nn.Conv2d(32, 64, 4, 2, 1)),
                nn.LeakyReLU(0.1),
                nn.Flatten(),
                sn(nn.Linear(64 * 16, 1)),
            )

        def forward(self, x):
            return self.main(x).squeeze(1)

    return D()


@net(lambda: torch.randn(4, 12), [["members.*.0"], ["members.*.2"], ["members.*.4"]])
def ensemble_dynamics():
    class Ensemble(nn.Module):
        def __init__(self):
            super().__init__()
            self.members = nn.ModuleList(mlp(12, 48, 48, 20) for _ in range(5))

        def forward(self, x):
            mean, logvar = torch.stack([m(x) for m in self.members]).chunk(2, -1)
            return mean, logvar

    return Ensemble()


PANN = [["bn0"], *[[f"conv_block{i}"] for i in (1, 2, 3, 4)]]


@net(
    lambda: torch.randn(2, 1, 64, 32),
    [*PANN, ["fc1", "fc_audioset"]],
    also=[[*PANN, ["fc1"], ["fc_audioset"]], [["bn0", "conv_block1"], *PANN[2:], ["fc1", "fc_audioset"]]],
    under="lit:model",
)
def audio_tagging_cnn():
    class ConvBlock(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(i, o, 3, 1, 1, bias=False), nn.Conv2d(o, o, 3, 1, 1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(o), nn.BatchNorm2d(o)

        def forward(self, x):
            return functional.avg_pool2d(
                functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))), 2
            )

    class Cnn10(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn0 = nn.BatchNorm2d(32)
            self.conv_block1, self.conv_block2, self.conv_block3, self.conv_block4 = (
                ConvBlock(1, 8),
                ConvBlock(8, 16),
                ConvBlock(16, 32),
                ConvBlock(32, 64),
            )
            self.fc1, self.fc_audioset = nn.Linear(64, 64), nn.Linear(64, 527)

        def forward(self, x):
            x = self.bn0(x.transpose(1, 3)).transpose(1, 3)
            x = self.conv_block4(self.conv_block3(self.conv_block2(self.conv_block1(x))))
            x = x.mean(3)
            x = x.amax(2) + x.mean(2)
            return torch.sigmoid(self.fc_audioset(functional.relu(self.fc1(x))))

    return Cnn10()


SIM = [["backbone.conv1", "backbone.bn1"], *[[f"backbone.layer{s}.{b}"] for s in (1, 2, 3, 4) for b in (0, 1)]]


@net(
    lambda: torch.randn(2, 3, 64, 64),
    [*SIM, ["projector"]],
    also=[[*SIM, ["projector.0", "projector.1"], ["projector.3"]]],
    under="lit:model",
)
def simclr_resnet18():
    import torchvision

    class SimCLR(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = torchvision.models.resnet18(weights=None)
            self.backbone.fc = nn.Identity()
            self.projector = nn.Sequential(
                nn.Linear(512, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 128)
            )

        def forward(self, x):
            return functional.normalize(self.projector(self.backbone(x)), dim=1)

    return SimCLR()


@net(
    image,
    [
        ["encoder.cls_token", "encoder.pos_embed", "encoder.patch_embed"],
        *each("encoder.blocks.#", 3),
        ["encoder.blocks.3", "encoder.norm"],
        ["head"],
    ],
    under="model",
)
def timm_vit_regressor():
    import timm

    class Regressor(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 1))
            self.encoder = timm.models.VisionTransformer(
                img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2, num_classes=0
            )

        def forward(self, x):
            return self.head(self.encoder(x)).squeeze(-1)

    return Regressor()


@net(image, [["1"], ["2"], ["3"], ["4"], ["5", "6"], ["8"]], under="mixer")
def mixer_one_liner():
    class Patches(nn.Module):
        def forward(self, x):
            return functional.unfold(x, 8, stride=8).transpose(1, 2)

    class PreNormResidual(nn.Module):
        def __init__(self, d, fn):
            super().__init__()
            self.norm, self.fn = nn.LayerNorm(d), fn

        def forward(self, x):
            return x + self.fn(self.norm(x))

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(1)

    d = 24
    mix = lambda i, h, dense: nn.Sequential(dense(i, h), nn.GELU(), dense(h, i))
    conv = lambda i, o: nn.Conv1d(i, o, 1)
    return nn.Sequential(
        Patches(),
        nn.Linear(192, d),
        *[
            nn.Sequential(PreNormResidual(d, mix(16, 48, conv)), PreNormResidual(d, mix(d, 48, nn.Linear)))
            for _ in range(4)
        ],
        nn.LayerNorm(d),
        Mean(),
        nn.Linear(d, 10),
    )


@net(lambda: torch.randn(2, 3, 20), [["blocks.0"], ["blocks.1"], ["blocks.2"]])
def residual_tower_no_stem():
    class Block(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.c1, self.c2, self.skip = (
                nn.Conv1d(i, o, 3, padding=1),
                nn.Conv1d(o, o, 3, padding=1),
                nn.Conv1d(i, o, 1),
            )

        def forward(self, x):
            return self.skip(x) + self.c2(functional.relu(self.c1(x)))

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(Block(3, 16), Block(16, 32), Block(32, 48))

        def forward(self, x):
            return self.blocks(x).mean(2)

    return Encoder()
