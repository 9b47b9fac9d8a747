"""Small networks with reproducible heavy-tailed weights, for the decays by spectra."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Convolutional(nn.Module):
    """Four convolutions with norms, of which the first has few eigenvalues, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(64)
        self.conv2, self.bn2 = nn.Conv2d(64, 64, 3, bias=False), nn.BatchNorm2d(64)
        self.conv3, self.bn3 = nn.Conv2d(64, 96, 1, bias=False), nn.BatchNorm2d(96)
        self.conv4, self.bn4 = nn.Conv2d(96, 80, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(80)
        self.narrow = nn.Linear(80, 12)
        self.wide = nn.Linear(12, 200)
        self.mixer = nn.Linear(200, 64)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, 5):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)).relu()
        logits: Tensor = self.fc(self.mixer(self.wide(self.narrow(x.mean((2, 3))))))
        return logits


class Attention(nn.Module):
    """One layer of a language model."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.q_proj, self.k_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.v_proj, self.o_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.up_proj, self.down_proj = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        mix = torch.softmax(self.q_proj(h) @ self.k_proj(h).mT / 8, -1)
        x = x + self.o_proj(mix @ self.v_proj(h))
        added: Tensor = x + self.down_proj(self.up_proj(self.norm2(x)).relu())
        return added


class Language(nn.Module):
    """Embedding, two layers of a transformer, and a head."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(120, width)
        self.layers = nn.ModuleList([Attention(width), Attention(width)])
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, 120, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.lm_head(self.norm(x))
        return logits


def with_tails(model: nn.Module) -> nn.Module:
    """`model` with weights of Student's t, whose degrees of freedom differ by layer; the same on every machine."""
    random = np.random.RandomState(18)
    for i, p in enumerate(model.parameters()):
        if p.ndim > 1:
            drawn = random.standard_t([2.5, 4, 12, 3, 30, 2, 6][i % 7], size=tuple(p.shape))
            with torch.no_grad():
                p.copy_(torch.from_numpy(0.02 * drawn))
    return model
