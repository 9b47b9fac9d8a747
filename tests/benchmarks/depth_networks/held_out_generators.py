"""Generators, attention over sets, experts, towers, adapters."""

import math

import torch
from torch import nn
from torch.nn import functional

from .registry import each, image, mlp, net


class TimeRes(nn.Module):
    def __init__(self, i, o, t):
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(t, o))
        self.norm1, self.conv1 = nn.GroupNorm(4, i), nn.Conv2d(i, o, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(4, o), nn.Conv2d(o, o, 3, padding=1)
        self.res = nn.Conv2d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x, t):
        h = self.conv1(functional.silu(self.norm1(x))) + self.mlp(t)[..., None, None]
        return self.conv2(functional.silu(self.norm2(h))) + self.res(x)


DDPM = [["init_conv", "time_mlp"]]


@net(
    lambda: (torch.randn(2, 3, 16, 16), torch.tensor([3, 7])),
    [*DDPM, ["downs.0"], ["downs.1"], ["mid1"], ["mid2"], ["ups.0"], ["ups.1", "final_norm"], ["final_conv"]],
    also=[
        [
            *DDPM,
            ["downs.0.0"],
            ["downs.0.1", "downs.1.0"],
            ["downs.1.1", "mid1"],
            ["mid2"],
            ["ups.0.0"],
            ["ups.0.1", "ups.1.0"],
            ["ups.1.1", "final_norm"],
            ["final_conv"],
        ],
        [*DDPM, ["downs.0"], ["downs.1"], ["mid1"], ["mid2"], ["ups.0"], ["ups.1"], ["final_norm", "final_conv"]],
    ],
    under="model",
)
def ddpm_unet():
    class Sinusoidal(nn.Module):
        def forward(self, t):
            f = torch.exp(torch.arange(8, device=t.device) * (-math.log(10000) / 7))
            e = t[:, None].float() * f
            return torch.cat([e.sin(), e.cos()], -1)

    class Unet(nn.Module):
        def __init__(self, c=8, t=32):
            super().__init__()
            self.init_conv = nn.Conv2d(3, c, 7, padding=3)
            self.time_mlp = nn.Sequential(Sinusoidal(), nn.Linear(16, t), nn.GELU(), nn.Linear(t, t))
            self.downs = nn.ModuleList(
                nn.ModuleList([TimeRes(i, o, t), nn.Conv2d(o, o, 4, 2, 1)]) for i, o in ((c, 2 * c), (2 * c, 4 * c))
            )
            self.ups = nn.ModuleList(
                nn.ModuleList([TimeRes(i + o, o, t), nn.ConvTranspose2d(o, o, 4, 2, 1)])
                for i, o in ((4 * c, 4 * c), (4 * c, 2 * c))
            )
            self.mid1, self.mid2 = TimeRes(4 * c, 4 * c, t), TimeRes(4 * c, 4 * c, t)
            self.final_norm, self.final_conv = nn.GroupNorm(4, 2 * c), nn.Conv2d(2 * c, 3, 1)

        def forward(self, x, time):
            x, t, skips = self.init_conv(x), self.time_mlp(time), []
            for block, down in self.downs:
                x = down(block(x, t))
                skips.append(x)
            x = self.mid2(self.mid1(x, t), t)
            for block, up in self.ups:
                x = up(block(torch.cat([x, skips.pop()], 1), t))
            return self.final_conv(functional.silu(self.final_norm(x)))

    return Unet()


@net(
    lambda: torch.randn(2, 16),
    [["mapping"], *each("synthesis.#", 3), ["to_rgb"]],
    also=[[["mapping.0"], ["mapping.2"], ["mapping.4"], *each("synthesis.#", 3), ["to_rgb"]]],
    anywhere=["const"],
)
def style_generator():
    class Style(nn.Module):
        def __init__(self, i, o, w):
            super().__init__()
            self.style, self.conv, self.noise = (
                nn.Linear(w, 2 * o),
                nn.Conv2d(i, o, 3, padding=1),
                nn.Parameter(torch.zeros(o)),
            )

        def forward(self, x, w):
            x = self.conv(functional.interpolate(x, scale_factor=2))
            x = functional.instance_norm(x + self.noise[:, None, None] * torch.randn_like(x[:, :1]))
            g, b = self.style(w)[..., None, None].chunk(2, 1)
            return functional.leaky_relu(x * (1 + g) + b, 0.2)

    class Generator(nn.Module):
        def __init__(self, z=16):
            super().__init__()
            self.mapping, self.const = mlp(z, z, z, z), nn.Parameter(torch.randn(1, 32, 4, 4))
            self.synthesis = nn.ModuleList([Style(32, 32, z), Style(32, 16, z), Style(16, 8, z)])
            self.to_rgb = nn.Conv2d(8, 3, 1)

        def forward(self, z):
            w, x = self.mapping(z), self.const.expand(len(z), -1, -1, -1)
            for layer in self.synthesis:
                x = layer(x, w)
            return self.to_rgb(x)

    return Generator()


class MAB(nn.Module):
    def __init__(self, q, k, d):
        super().__init__()
        self.fc_q, self.fc_k, self.fc_v, self.fc_o = nn.Linear(q, d), nn.Linear(k, d), nn.Linear(k, d), nn.Linear(d, d)

    def forward(self, q, k):
        q, k, v = self.fc_q(q), self.fc_k(k), self.fc_v(k)
        o = q + (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        return o + functional.relu(self.fc_o(o))


@net(lambda: torch.randn(2, 9, 3), [["enc.0"], ["enc.1"], ["dec.0"], ["dec.1"], ["dec.2"], ["dec.3"]], under="net")
def set_transformer():
    class SAB(nn.Module):
        def __init__(self, i, d):
            super().__init__()
            self.mab = MAB(i, i, d)

        def forward(self, x):
            return self.mab(x, x)

    class ISAB(nn.Module):
        def __init__(self, i, d, m=4):
            super().__init__()
            self.I, self.mab0, self.mab1 = nn.Parameter(torch.randn(1, m, d)), MAB(d, i, d), MAB(i, d, d)

        def forward(self, x):
            return self.mab1(x, self.mab0(self.I.repeat(len(x), 1, 1), x))

    class PMA(nn.Module):
        def __init__(self, d, k):
            super().__init__()
            self.S, self.mab = nn.Parameter(torch.randn(1, k, d)), MAB(d, d, d)

        def forward(self, x):
            return self.mab(self.S.repeat(len(x), 1, 1), x)

    class SetTransformer(nn.Module):
        def __init__(self, d=24):
            super().__init__()
            self.enc = nn.Sequential(ISAB(3, d), ISAB(d, d))
            self.dec = nn.Sequential(PMA(d, 2), SAB(d, d), SAB(d, d), nn.Linear(d, 2))

        def forward(self, x):
            return self.dec(self.enc(x))

    return SetTransformer()


@net(lambda: torch.randn(2, 40, 6), [["latents"], *each("layers.#", 3), ["to_logits"]])
def perceiver_layers():
    class Layer(nn.Module):
        def __init__(self, d, i):
            super().__init__()
            self.cross, self.self_attn = (
                nn.MultiheadAttention(d, 2, kdim=i, vdim=i, batch_first=True),
                nn.MultiheadAttention(d, 2, batch_first=True),
            )
            self.ff, self.n1, self.n2 = mlp(d, 2 * d, d), nn.LayerNorm(d), nn.LayerNorm(d)

        def forward(self, z, x):
            z = z + self.cross(z, x, x)[0]
            y = self.n1(z)
            z = z + self.self_attn(y, y, y)[0]
            return z + self.ff(self.n2(z))

    class Perceiver(nn.Module):
        def __init__(self, d=24):
            super().__init__()
            self.latents, self.layers = nn.Parameter(torch.randn(8, d)), nn.ModuleList(Layer(d, 6) for _ in range(3))
            self.to_logits = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 5))

        def forward(self, x):
            z = self.latents.expand(len(x), -1, -1)
            for layer in self.layers:
                z = layer(z, x)
            return self.to_logits(z.mean(1))

    return Perceiver()


@net(
    lambda: torch.randn(4, 20),
    [["experts.*.0"], ["experts.*.2"], ["towers.*.0"], ["towers.*.2"]],
    anywhere=["gates"],
    also=[[["experts"], ["towers"]], [["experts.*.0"], ["experts.*.2"], ["towers"]]],
    under="model",
)
def mmoe_tasks():
    class MMoE(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(mlp(20, 48, 24) for _ in range(4))
            self.gates = nn.ParameterList(nn.Parameter(torch.randn(20, 4)) for _ in range(2))
            self.towers = nn.ModuleList(mlp(24, 16, 1) for _ in range(2))

        def forward(self, x):
            e = torch.stack([expert(x) for expert in self.experts], 1)
            return [t((e * (x @ g).softmax(-1)[..., None]).sum(1)) for t, g in zip(self.towers, self.gates)]

    return MMoE()


@net(
    lambda: {"user": torch.randint(0, 200, (4,)), "item": torch.randint(0, 300, (4,)), "features": torch.randn(4, 8)},
    [
        ["user_tower.emb", "item_tower.emb"],
        *each(["user_tower.mlp.#", "item_tower.mlp.#"], 1),
        *each(["user_tower.mlp.#", "item_tower.mlp.#"], 1, 2),
        *each(["user_tower.mlp.#", "item_tower.mlp.#"], 1, 4),
    ],
    under="lit:model",
)
def two_tower_retrieval():
    class Tower(nn.Module):
        def __init__(self, n, extra):
            super().__init__()
            self.emb, self.mlp = nn.Embedding(n, 16), mlp(16 + extra, 64, 32, 16)

        def forward(self, ids, features=None):
            x = self.emb(ids)
            return functional.normalize(self.mlp(x if features is None else torch.cat([x, features], 1)), dim=-1)

    class TwoTower(nn.Module):
        def __init__(self):
            super().__init__()
            self.user_tower, self.item_tower = Tower(200, 0), Tower(300, 8)

        def forward(self, user, item, features):
            return self.user_tower(user) @ self.item_tower(item, features).T / 0.1

    return TwoTower()


@net(
    lambda: (image(), torch.randint(0, 99, (2, 7))),
    [
        ["visual.patch", "visual.pos", "token_embedding", "text_pos"],
        *each(["visual.blocks.#", "text_blocks.#"], 2),
        ["visual.blocks.2", "text_blocks.2", "visual.norm", "text_norm"],
        ["visual.proj", "text_projection"],
    ],
    anywhere=["logit_scale"],
)
def clip_small():
    layer = lambda d: nn.TransformerEncoderLayer(d, 2, 2 * d, batch_first=True, norm_first=True)

    class Visual(nn.Module):
        def __init__(self, d=24):
            super().__init__()
            self.patch, self.pos = nn.Conv2d(3, d, 8, 8), nn.Parameter(torch.randn(16, d))
            self.blocks = nn.Sequential(*[layer(d) for _ in range(3)])
            self.norm, self.proj = nn.LayerNorm(d), nn.Linear(d, 16, bias=False)

        def forward(self, x):
            return self.proj(self.norm(self.blocks(self.patch(x).flatten(2).transpose(1, 2) + self.pos)).mean(1))

    class CLIP(nn.Module):
        def __init__(self, d=16):
            super().__init__()
            self.visual, self.token_embedding, self.text_pos = (
                Visual(),
                nn.Embedding(99, d),
                nn.Parameter(torch.randn(7, d)),
            )
            self.text_blocks = nn.Sequential(*[layer(d) for _ in range(3)])
            self.text_norm, self.text_projection = nn.LayerNorm(d), nn.Parameter(torch.randn(d, 16))
            self.logit_scale = nn.Parameter(torch.tensor(2.66))

        def forward(self, image, text):
            i = functional.normalize(self.visual(image), dim=-1)
            t = (
                self.text_norm(self.text_blocks(self.token_embedding(text) + self.text_pos))[:, -1]
                @ self.text_projection
            )
            logits = self.logit_scale.exp() * i @ functional.normalize(t, dim=-1).T
            return logits, logits.T

    return CLIP()


class LoRA(nn.Module):
    def __init__(self, linear, r=4):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.A, self.B = (
            nn.Parameter(torch.randn(r, linear.in_features)),
            nn.Parameter(torch.zeros(linear.out_features, r)),
        )

    def forward(self, x):
        return self.linear(x) + (x @ self.A.T @ self.B.T) * 2


@net(lambda: torch.randn(4, 6, 12), [["embed"], *each("blocks.#", 4), ["head"]], under="base.model")
def lora_blocks():
    class Block(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.q, self.k, self.v = LoRA(nn.Linear(d, d)), nn.Linear(d, d), LoRA(nn.Linear(d, d))
            self.norm, self.ff = nn.LayerNorm(d), mlp(d, 2 * d, d)

        def forward(self, x):
            x = x + functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
            return x + self.ff(self.norm(x))

    class Encoder(nn.Module):
        def __init__(self, d=16):
            super().__init__()
            self.embed, self.blocks, self.head = (
                nn.Linear(12, d),
                nn.Sequential(*[Block(d) for _ in range(4)]),
                nn.Linear(d, 3),
            )

        def forward(self, x):
            return self.head(self.blocks(self.embed(x)).mean(1))

    return Encoder()
