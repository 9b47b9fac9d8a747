"""A network as it was built before, from a record: no published weights, no hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lwexp.config.schema import ModelConfig
from lwexp.data import Tokens

from .build import build_model


def network_of(config: ModelConfig, module: nn.Module) -> dict[str, Any] | None:
    """What `config` does not say about its network `module`: values for JSON, or None.

    A published network of transformers has a config of its own. Published weights of torchvision's Inception networks
    switch on a change of their input, which the network without these weights does not have.
    """
    if config.source == "huggingface":
        from .huggingface import auto_class_of

        made: Any = module
        return {
            "config": json.loads(made.config.to_json_string(use_diff=False)),
            "auto_class": auto_class_of(config, made),
        }
    if config.source == "torchvision" and getattr(module, "transform_input", False) is True:
        return {"options": {"transform_input": True}}
    return None


def rebuild_model(
    config: ModelConfig,
    network: Mapping[str, Any] | None,
    *,
    channels: int,
    outputs: int,
    image_size: int,
    tokens: Tokens | None,
) -> nn.Module:
    """The network of `config`, with random weights; `network` is what `network_of` returned.

    The other arguments are those of `build_model`; random numbers of the caller stay as they are. Raises `ConfigError`.
    """
    with torch.random.fork_rng(devices=[]):
        if network is not None and "config" in network:
            from .huggingface import from_recorded

            return from_recorded(network["config"], str(network["auto_class"]))
        if network is not None and "transform_input" not in config.options:  # nothing else: a record may be foreign
            config = config.model_copy(update={"transform_input": bool(network["options"].get("transform_input"))})
        built = build_model(
            config, channels=channels, classes=outputs, image_size=image_size or None, tokens=tokens, device="cpu"
        )
    return built.module
