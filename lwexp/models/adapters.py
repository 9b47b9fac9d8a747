"""Low-rank adapters (LoRA, Hu et al. 2022) of the library peft in the layers of any network."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lwexp.core.kinds import Kinds
from lwexp.core.patterns import first_matches
from lwexp.errors import ConfigError
from lwexp.formatting import one_line

# Queries and values, as in the paper, where they have projections of their own
_QUERY_AND_VALUE = re.compile(r"([qv]|query|value|to_[qv]|w[qv]|[qv]_(proj|lin|attn)|(query|value)_proj)")
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Adapters:
    """Which modules have adapters: w + alpha / rank * B A, with A random and B 0 at the start."""

    rank: int
    alpha: float
    dropout: float
    modules: tuple[str, ...]  # paths in the network

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Adapters:
        """From the values that `dataclasses.asdict` gave."""
        return cls(**{**values, "modules": tuple(values["modules"])})


def find_targets(module: nn.Module, patterns: Sequence[str], new_names: Collection[str] = ()) -> tuple[str, ...]:
    """Paths of the layers whose weights `patterns` match; without any, those that adapters are usually in.

    These are the projections to queries and values of each attention, a fused one where there is none of its own, and
    in a network without attention all linear layers and convolutions but the head and what is in `new_names`. Raises
    `ConfigError` where there is none.
    """
    kinds = Kinds.of(module)
    names = [name for name, _ in module.named_parameters()]
    if patterns:
        return _owners(first_matches(kinds.named(patterns, "lora.target"), names, "lora.target"), module)
    apart = {*kinds.names.get("head", ()), *new_names}
    attention = _owners(kinds.names.get("attention", ()), module)
    own = tuple(path for path in attention if _QUERY_AND_VALUE.fullmatch(path.rpartition(".")[2]))
    found = own or _owners(kinds.names.get("qkv", ()), module)
    if not found:
        layers = {path for path, part in module.named_modules() if isinstance(part, _LAYERS)}
        found = tuple(path for path in _owners([n for n in names if n not in apart], module) if path in layers)
    if not found:
        why = "has no linear layer, convolution or attention besides its head, which are what has adapters"
        raise ConfigError("lora", type(module).__name__, why)
    return found


def add_adapters(module: nn.Module, adapters: Adapters, new_names: Collection[str] = ()) -> None:
    """Put adapters into `module` and freeze all else but the head and what is in `new_names`, which train whole.

    A layer with adapters is `<its name>.base_layer`, and they are `<its name>.lora_A.default`. Raises `ConfigError`.
    """
    try:
        import peft
    except ImportError:
        raise ConfigError("lora.rank", adapters.rank, "needs the package peft: pip install 'lwexp[lora]'") from None
    head = {*Kinds.of(module).names.get("head", ()), *new_names}
    if inside := [path for path in adapters.modules if any(name.startswith(f"{path}.") for name in head)]:
        raise ConfigError("lora.target", inside[0], "is in the head, or not loaded, and trains whole")
    config = peft.LoraConfig(
        r=adapters.rank, lora_alpha=adapters.alpha, lora_dropout=adapters.dropout,
        target_modules=f"({'|'.join(map(re.escape, adapters.modules))})",
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peft.inject_adapter_in_model(config, module)
    except Exception as error:  # of a layer that peft does not know
        raise ConfigError("lora.target", ", ".join(adapters.modules[:3]), one_line(error)) from error
    if any(isinstance(part, nn.TransformerEncoderLayer) for part in module.modules()):
        torch.backends.mha.set_fastpath_enabled(False)  # it would compute evaluations without the adapters
    for name, parameter in module.named_parameters():
        if name in head:
            parameter.requires_grad_()


def merge_adapters(module: nn.Module) -> None:
    """Add the adapters to the weights of their layers, which take their old places: the network is as it was built."""
    from peft.tuners.lora import LoraLayer

    found: dict[str, Any] = {}  # the outermost: attention as a whole has adapters within adapters
    for path, part in module.named_modules():
        if isinstance(part, LoraLayer) and not any(path.startswith(f"{other}.") for other in found):
            found[path] = part
    for path, part in found.items():
        if hasattr(part, "unload_and_optionally_merge_module"):
            base = part.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        else:
            part.merge()
            base = part.get_base_layer()
        module.set_submodule(path, base)


def _owners(names: Collection[str], module: nn.Module) -> tuple[str, ...]:
    """The modules that hold a matrix among `names`, in order."""
    parameters = dict(module.named_parameters())
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in names if parameters[name].ndim > 1))
