"""Recipes of lwexp's own: where to start, from its studies, whose raw results are in `tests/benchmarks/studies/`."""

from __future__ import annotations

from .base import Recipe

TRANSFER_CONVNET = Recipe(
    name="transfer_convnet",
    what="0.5 per depth, cosine: a convolutional network with ImageNet's weights and a few hundred photographs. The "
    "base rate is the run's own: from the best uniform one to ten times that",
    source="studies of lwexp, 400 photographs, 96 steps, against uniform rates: 13.5 to 24.4 points above (SqueezeNet),"
    " with mult=0.65 6.4 to 11.8 (MobileNetV2); 95 % intervals; less in 288 steps, nothing with 100 photographs",
    mult=0.5,
    settings={
        "grouping": {"name": "depth_index"},
        "decay": {"name": "linear"},
        "policy": {"name": "cosine"},
        "optimizer": {"name": "adam"},
    },
)

OWN = (TRANSFER_CONVNET,)
