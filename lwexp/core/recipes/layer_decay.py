"""Recipes in which the rate falls from layer to layer. Rates, batch sizes and warm-ups are those of the commands that
their authors give for fine-tuning; where they count the warm-up in epochs, it is that part of their training.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .base import Recipe

_LINEAR = {"name": "linear"}


def _cosine(warmup: float, min_lr: float) -> dict[str, Any]:
    return {"name": "cosine", "warmup_fraction": warmup, "min_lr": min_lr}


def _by_depth(
    policy: Mapping[str, Any],
    *,
    weight_decay: float,
    grouping: Mapping[str, Any] = MappingProxyType({}),
    decay: Mapping[str, Any] = MappingProxyType({}),
    eps: float = 1e-8,
    **others: Any,
) -> dict[str, Any]:
    """What they have in common: a group for each block, the last norm in the head's; AdamW, no decay of 1-d weights."""
    return {
        "grouping": {"name": "depth_index", "last_norm": "head", **grouping},
        "decay": {**_LINEAR, **decay},
        "policy": dict(policy),
        "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "eps": eps, "weight_decay": weight_decay},
        "no_weight_decay": True,
        **others,
    }


ULMFIT = Recipe(
    name="ulmfit",
    what="1/2.6 per layer, a slanted triangle, one more layer unfrozen per epoch",
    source="Howard and Ruder 2018, arXiv:1801.06146, sections 3.2, 3.3 and 4.1",
    differs="the classifier's stage only; their code (fastai) has betas 0.8 and 0.99",
    lr=0.01,
    batch_size=64,
    mult=1 / 2.6,
    settings={
        "grouping": {"name": "depth_index"},
        "decay": _LINEAR,
        "policy": {
            "name": "slanted_triangular",
            "cut_fraction": 0.1,
            "ratio": 32.0,
            "convention": "transformers",  # as in equation 3, the step after the last has the smallest rate
        },
        "optimizer": {"name": "adam", "betas": [0.7, 0.99]},
        "unfreeze": {"every_epochs": 1},
    },
)
BERT_LLRD = Recipe(
    name="bert_llrd",
    what="0.95 per layer of BERT; the classifier has the rate of the last layer",
    source="Sun et al. 2019, arXiv:1905.05583, sections 5.1 and 5.3.4; github.com/xuyige/BERT4doc-Classification",
    differs="embeddings are a layer below the first, where their code gives them the base rate; bias correction, which "
    "their Adam lacks; no clipping, which they do tensor by tensor; the rate falls from the end of the warm-up, theirs "
    "as from step 0",
    lr=2e-5,
    batch_size=24,
    mult=0.95,
    settings=_by_depth(
        {"name": "linear", "warmup_fraction": 0.1}, weight_decay=0.01, decay={"head_steps": 0}, eps=1e-6
    ),
)
ELECTRA = Recipe(
    name="electra",
    what="0.8 per layer, from 200 million weights on 0.9; two steps from the head to the last layer",
    source="Clark et al. 2020, arXiv:2003.10555, table 7; github.com/google-research/electra, model/optimization.py",
    differs="their code has the weight decay 0.01 where the paper has 0, and an Adam without bias correction; the rate "
    "falls from the end of the warm-up, in their code as from step 0",
    lr=3e-4,
    batch_size=32,
    mult=0.8,
    sizes=({"weights": 5e7, "lr": 1e-4, "mult": 0.8}, {"weights": 2e8, "lr": 5e-5, "mult": 0.9}),
    settings=_by_depth(
        {"name": "linear", "warmup_fraction": 0.1},
        weight_decay=0.0,
        decay={"head_steps": 2},
        eps=1e-6,
        clip_grad_norm=1.0,
    ),
)
BEIT = Recipe(
    name="beit",
    what="0.65 per block, from 200 million weights on 0.75",
    source="Bao et al. 2021, arXiv:2106.08254; github.com/microsoft/unilm/tree/master/beit, "
    "get_started_for_image_classification.md, self-supervised weights to ImageNet-1k",
    differs="no weight decay on tables of relative positions, which timm lists and they decay; the large network's "
    "warm-up is 5 of 50 epochs",
    lr=4e-3,
    batch_size=1024,
    mult=0.65,
    sizes=({"weights": 2e8, "lr": 1e-3, "mult": 0.75},),
    settings=_by_depth(_cosine(0.2, 1e-6), weight_decay=0.05),
)
MAE = Recipe(
    name="mae",
    what="0.65 per block, from 200 million weights on 0.75",
    source="He et al. 2022, arXiv:2111.06377; github.com/facebookresearch/mae, FINETUNE.md",
    differs="the large network's warm-up is 5 of 50 epochs",
    lr=5e-4,
    batch_size=256,
    scaling="linear",
    mult=0.65,
    sizes=({"weights": 2e8, "lr": 1e-3, "mult": 0.75},),
    settings=_by_depth(_cosine(0.05, 1e-6), weight_decay=0.05),
)
CONVNEXT = Recipe(
    name="convnext",
    what="0.8 per three blocks of a stage: 13 groups and the head in networks of 3, 3, 27, 3 blocks",
    source="Liu et al. 2022, arXiv:2201.03545; github.com/facebookresearch/ConvNeXt, TRAINING.md, ImageNet-22K weights "
    "to ImageNet-1K",
    differs="a tiny network (3, 3, 9, 3 blocks) has the 7 groups and the head of their detection code",
    lr=5e-5,
    batch_size=512,
    mult=0.8,
    settings=_by_depth({"name": "cosine", "min_lr": 1e-6}, weight_decay=1e-8, grouping={"blocks": 3}),
)
VITDET = Recipe(
    name="vitdet",
    what="0.7 per block, from 200 million weights on 0.8, from 500 million on 0.9; steps of 0.1 at 89 % and 96 %",
    source="Li et al. 2022, arXiv:2203.16527; github.com/facebookresearch/detectron2, projects/ViTDet/configs/COCO",
    differs="biases have no weight decay, where theirs have",
    lr=1e-4,
    batch_size=64,
    mult=0.7,
    sizes=({"weights": 2e8, "mult": 0.8}, {"weights": 5e8, "mult": 0.9}),
    settings=_by_depth(
        {"name": "multistep", "milestones": [0.88889, 0.96296], "warmup_fraction": 0.001356}, weight_decay=0.1
    ),
)
DINOV2 = Recipe(
    name="dinov2",
    what="0.9 per block, patch embedding times 0.2, rate by the root of the batch size, weight decay 0.04 to 0.4",
    source="Oquab et al. 2023, arXiv:2304.07193; github.com/facebookresearch/dinov2, ssl_default_config.yaml",
    differs="published for pre-training; no weight decay on positions and class tokens, which they decay",
    lr=4e-3,
    batch_size=1024,
    scaling="sqrt",
    mult=0.9,
    settings=_by_depth(
        _cosine(0.1, 1e-6),
        weight_decay=0.04,
        weight_decay_policy={"name": "cosine", "end": 0.4},
        lr_mults={"*patch_embed*": 0.2},
        clip_grad_norm=3.0,
    ),
)
EVA02 = Recipe(
    name="eva02",
    what="0.9, 0.8, 0.7 and 0.8 per block of a tiny, small, base and large network",
    source="Fang et al. 2023, arXiv:2303.11331; github.com/baaivision/EVA/tree/master/EVA-02/asuka, README.md, "
    "masked-image weights to ImageNet-1K",
    differs="without the average of the weights (ema); base and large warm up for 3 of 30 epochs",
    lr=2e-4,
    batch_size=1024,
    mult=0.9,
    sizes=(
        {"weights": 1.2e7, "lr": 1e-4, "mult": 0.8},
        {"weights": 5e7, "lr": 1e-4, "mult": 0.7},
        {"weights": 2e8, "lr": 5e-5, "mult": 0.8},
    ),
    settings=_by_depth({"name": "cosine", "warmup_fraction": 0.05}, weight_decay=0.05),
)
FT_CLIP = Recipe(
    name="ft_clip",
    what="0.6 per block, from 200 million weights on 0.65",
    source="Dong et al. 2022, arXiv:2212.06138; github.com/LightDXY/FT-CLIP, scripts/",
    differs="without the average of the weights (ema.decay=0.9998); the large network's warm-up is 5 of 30 epochs",
    lr=6e-4,
    batch_size=2048,
    mult=0.6,
    sizes=({"weights": 2e8, "lr": 4e-4, "mult": 0.65},),
    settings=_by_depth(_cosine(0.2, 1e-6), weight_decay=0.05),
)
SWIN_FINETUNE = Recipe(
    name="swin_finetune",
    what="0.8 per block, downsampling with the block before it",
    source="Xie et al. 2022 (SimMIM), arXiv:2111.09886; github.com/microsoft/Swin-Transformer, "
    "configs/simmim/simmim_finetune__swin_base__img224_window7__800ep.yaml",
    differs="the floor is not scaled by the batch size; their 22k-to-1k configs are uniform (mult=1, lr=2e-5)",
    lr=1.25e-3,
    batch_size=512,
    scaling="linear",
    mult=0.8,
    settings=_by_depth(
        _cosine(0.2, 2.5e-7), weight_decay=0.05, grouping={"between_stages": "previous"}, clip_grad_norm=5.0
    ),
)

LAYER_DECAY = (
    ULMFIT, BERT_LLRD, ELECTRA, BEIT, MAE, CONVNEXT, VITDET, DINOV2, EVA02, FT_CLIP, SWIN_FINETUNE,
)  # fmt: skip
