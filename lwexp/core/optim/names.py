"""Short names and options of optimizers, for editors and type checkers; those of torch 2.14 and timm 1.0.31.

`registry.py` looks every name up in what is installed, so a newer one works before it is listed here.
"""

from __future__ import annotations

from typing import Literal, TypedDict

import torch

TorchOptimizerName = Literal[
    "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "asgd", "muon", "nadam", "radam", "rmsprop",
    "rprop", "sgd",
]  # fmt: skip
TimmOptimizerName = Literal[
    "adabelief", "adafactorbv", "adafactorbvc", "adahessian", "adamc", "adamp", "adamuon", "adamwlegacy", "adan",
    "adanw", "adopt", "adoptc", "adoptw", "bnbadam", "bnbadam8bit", "bnbadamw", "bnbadamw8bit", "bnbademamix",
    "bnbademamix8bit", "bnblion", "bnblion8bit", "bnbsgd", "bnbsgd8bit", "cadafactor", "cadafactorbv",
    "cadafactorbvc", "cadamc", "cadamp", "cadamw", "cadan", "cadanw", "cadopt", "cadoptc", "cadoptw", "clamb",
    "clambw", "claprop", "clion", "clionc", "cmars", "cnadamc", "cnadamw", "crmsproptf", "csgdc", "csgdp", "csgdw",
    "fusedadam", "fusedadamw", "fusedlamb", "fusednovograd", "fusedsgd", "kron", "kronc", "kronw", "lamb", "lambc",
    "lambcd", "lambcw", "lambw", "laprop", "lapropc", "larc", "lars", "lion", "lionc", "madgrad", "madgradw",
    "mars", "momentum", "nadamc", "nadamlegacy", "nadamuon", "nadamw", "nesterov", "nesterovw", "nlarc", "nlars",
    "nmuon", "novograd", "novogradc", "novogradw", "radabelief", "radamlegacy", "radamw", "rmsproptf", "rmsproptfc",
    "rmsproptfw", "sgdc", "sgdp", "sgdw",
]  # fmt: skip
PrefixedOptimizerName = Literal["timm_muon", "torch_muon"]  # those that lwexp's own `muon` hides
OptimizerName = Literal[TorchOptimizerName, TimmOptimizerName, PrefixedOptimizerName]


class OptimizerOptions(TypedDict, total=False):
    """The options of torch's optimizers, besides `params` and `lr`, which are the plan's."""

    weight_decay: float | torch.Tensor
    betas: tuple[float | torch.Tensor, float | torch.Tensor]
    eps: float | tuple[float | None, float]
    momentum: float
    nesterov: bool
    dampening: float
    amsgrad: bool
    decoupled_weight_decay: bool
    momentum_decay: float
    maximize: bool
    foreach: bool | None
    fused: bool | None
    capturable: bool
    differentiable: bool
    rho: float  # adadelta
    lr_decay: float  # adagrad
    initial_accumulator_value: float
    beta2_decay: float  # adafactor
    d: float
    lambd: float  # asgd
    t0: float
    alpha: float  # asgd, rmsprop
    centered: bool  # rmsprop
    etas: tuple[float, float]  # rprop
    step_sizes: tuple[float, float]
    ns_coefficients: tuple[float, float, float]  # muon
    ns_steps: int
    adjust_lr_fn: str | None
