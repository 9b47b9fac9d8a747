"""Recipes that say which part of a network moves, or when, rather than how fast each layer does."""

from __future__ import annotations

from typing import Any

from .base import Recipe

_UNIFORM: dict[str, Any] = {"grouping": {"name": "top_module"}, "decay": {"name": "none"}}
_ADAM: dict[str, Any] = {"optimizer": {"name": "adam", "weight_decay": 1e-4}}  # of Lee et al.

LP_FT = Recipe(
    name="lp_ft",
    what="the head alone for the first half, then the whole network",
    source="Kumar et al. 2022, arXiv:2202.10054; github.com/AnanyaKumar/transfer_learning",
    differs="the head is trained, where its authors fit a logistic regression; they search the rate, and both lengths",
    settings={
        **_UNIFORM,
        "policy": {"name": "cosine"},
        "optimizer": {"name": "sgd", "momentum": 0.9},
        "phases": [{"fraction": 0.5, "train": ["kind/head"]}, {}],
    },
)
SURGICAL_FIRST = Recipe(
    name="surgical_first",
    what="the first block and all before it alone, for inputs that look different",
    source="Lee et al. 2022, arXiv:2210.11466; github.com/anniesch/surgical-finetuning",
    differs="their ImageNet-C network moves conv1 and layer1 without bn1; they search rates from 1e-1 to 1e-5. "
    "The head does not move: the weights must have it",
    lr=1e-3,
    settings={**_UNIFORM, **_ADAM, "train": ["kind/first_block"]},
)
SURGICAL_LAST = Recipe(
    name="surgical_last",
    what="the last layer alone, for labels that mean something else",
    source="Lee et al. 2022, arXiv:2210.11466; github.com/anniesch/surgical-finetuning",
    differs="they search rates from 1e-1 to 1e-5",
    lr=1e-3,
    settings={**_UNIFORM, **_ADAM, "train": ["kind/head"]},
)
BITFIT = Recipe(
    name="bitfit",
    what="biases and the head alone",
    source="Ben Zaken et al. 2022, arXiv:2106.10199; github.com/benzakenelad/BitFit",
    differs="they search rates from 1e-4 to 1e-3; their script's own is 1e-3, for batches of 8",
    lr=4e-4,
    settings={
        **_UNIFORM,
        "policy": {"name": "constant"},
        "optimizer": {"name": "adamw", "weight_decay": 0.0},
        "clip_grad_norm": 1.0,
        "train": ["kind/bias", "kind/head"],
    },
)
NORM_TUNING = Recipe(
    name="norm_tuning",
    what="norms and the head alone",
    source="Frankle et al. 2021, arXiv:2003.00152 (batch norms and output); Qi et al. 2022, arXiv:2211.08682",
    differs="optimizer and rate are the run's own: the two papers differ in them",
    settings={**_UNIFORM, "train": ["kind/norm", "kind/head"]},
)
HEAD_ONLY = Recipe(
    name="head_only",
    what="the head alone, on features that stay as they are (linear probing)",
    source="usual; Kumar et al. 2022, arXiv:2202.10054",
    differs="the head is trained by gradient descent, without a search of its weight decay",
    settings={**_UNIFORM, "train": ["kind/head"], "freeze_stats": True},
)
BLOCKWISE = Recipe(
    name="blockwise",
    what="by kind: norms 1, values and output 4, MLP 6, queries and keys 8, embeddings 10 times the rate",
    source="Wang et al. 2025, arXiv:2502.19002; github.com/Wongboo/BlockwiseLearningRate, README",
    differs="published for training from scratch; one tensor for queries, keys and values has the 4 of values; "
    "what is of no kind of theirs has the rate of norms",
    lr=6e-4,
    settings={
        **_UNIFORM,
        "policy": {"name": "cosine", "warmup_fraction": 0.02, "min_lr": 3e-5, "floor": "absolute"},
        "optimizer": {"name": "adamw", "betas": [0.9, 0.95], "weight_decay": 0.1},
        "clip_grad_norm": 1.0,
        "lr_mults": {"kind/embedding?": 10.0, "kind/qk?": 8.0, "kind/ffn?": 6.0, "kind/vo": 4.0, "kind/qkv?": 4.0},
    },
)
FASTAI = Recipe(
    name="fastai_fine_tune",
    what="an epoch of the head and the norms, then one cycle of all with rates from lr down to lr/100",
    source="fastai: Learner.fine_tune, Howard and Gugger 2020, arXiv:2002.04688",
    differs="the groups are the top-level modules, where fastai has three; its epoch of the head is one of the "
    "training's; with another lr give decay.stem_lr=lr/100; layer norms move with the head too",
    lr=1e-3,
    settings={
        "grouping": {"name": "top_module"},
        "decay": {"name": "linear", "stem_lr": 1e-5},
        "optimizer": {"name": "adamw", "betas": [0.95, 0.99], "eps": 1e-5, "weight_decay": 0.01},
        "policy": {"name": "onecycle", "pct_start": 0.3, "div_factor": 5.0, "final_div_factor": 2e4},
        "phases": [
            {
                "epochs": 1,
                "train": ["kind/head", "kind/norm?"],
                "lr_factor": 2.0,
                "policy": {"name": "onecycle", "pct_start": 0.99, "div_factor": 25.0, "final_div_factor": 4e3},
            },
            {},
        ],
    },
)
TUTORIAL = Recipe(
    name="tutorial",
    what="a rate for each parameter, 0.9 of that of the one before it, from the head on",
    source="the tutorials of layer-wise learning rates, see README",
    lr=0.01,
    mult=0.9,
    settings={
        "grouping": {"name": "per_parameter"},
        "decay": {"name": "linear"},
        "policy": {"name": "constant"},
        "optimizer": {"name": "adam"},
    },
)
LORA = Recipe(
    name="lora",
    what="low-rank adapters in queries and values, and the head",
    source="Hu et al. 2022, arXiv:2106.09685, RoBERTa on GLUE; the adapters are peft's",
    differs="networks without attention have them in all layers; the head trains at the same rate; "
    "make_plan alone adds none",
    lr=4e-4,
    settings={
        **_UNIFORM,
        "policy": {"name": "linear", "warmup_fraction": 0.06},
        "optimizer": {"name": "adamw", "weight_decay": 0.1},
        "lora": {"rank": 8, "alpha": 8.0, "dropout": 0.0, "target": []},
    },
)
L2_SP = Recipe(
    name="l2_sp",
    what="a penalty toward the starting weights in place of weight decay",
    source="Li et al. 2018, arXiv:1802.01483; github.com/holyseven/TransferLearningClassification",
    differs="the rate falls at two thirds of the training, as of 6,000 in 9,000 steps; make_plan alone adds no penalty",
    lr=0.01,
    batch_size=64,
    settings={
        **_UNIFORM,
        "policy": {"name": "constant"},
        "phases": [{"fraction": 2 / 3}, {"lr_factor": 0.1}],
        "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0},
        "l2_sp": {"alpha": 0.01, "beta": 0.01, "all_parameters": False, "new": []},
    },
)
WISE_FT = Recipe(
    name="wise_ft",
    what="the average of the starting and the best weights at the end",
    source="Wortsman et al. 2022, arXiv:2109.01903; github.com/mlfoundations/wise-ft",
    differs="the start's head is averaged only if it was loaded, theirs is zero-shot CLIP's; warm-up of 500 steps of "
    "their 25,000 as a fraction; make_plan alone averages nothing",
    lr=3e-5,
    batch_size=512,
    settings={
        **_UNIFORM,
        "policy": {"name": "cosine", "warmup_fraction": 0.02},
        "optimizer": {"name": "adamw", "weight_decay": 0.1},
        "clip_grad_norm": 1.0,
        "wise_ft": {"alpha": 0.5, "new": []},
    },
)

TUNING = (
    LP_FT, SURGICAL_FIRST, SURGICAL_LAST, BITFIT, NORM_TUNING, HEAD_ONLY, BLOCKWISE, FASTAI, TUTORIAL, LORA, L2_SP,
    WISE_FT,
)  # fmt: skip
