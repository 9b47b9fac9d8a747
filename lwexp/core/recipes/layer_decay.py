"""Recipes in which the rate falls from layer to layer."""

from __future__ import annotations

from typing import Any

from .base import Recipe

_BY_DEPTH: dict[str, Any] = {"grouping": {"name": "depth_index"}, "decay": {"name": "linear"}}

MAE = Recipe(
    name="mae",
    what="ViT after masked autoencoding: 0.65 per block, from 200 million weights on 0.75",
    source="He et al. 2022, arXiv:2111.06377; github.com/facebookresearch/mae, FINETUNE.md",
    differs="warm-up of 5 in 100 epochs as a fraction",
    lr=5e-4,
    batch_size=256,
    scaling="linear",
    mult=0.65,
    sizes=({"weights": 2e8, "lr": 1e-3, "mult": 0.75},),
    settings={
        **_BY_DEPTH,
        "policy": {"name": "cosine", "warmup_fraction": 0.05, "min_lr": 1e-6},
        "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "weight_decay": 0.05},
        "no_weight_decay": True,
    },
)

LAYER_DECAY = (MAE,)
