"""Models of timm: any name, with or without a tag. https://huggingface.co/docs/timm

What timm does not document (from `timm.models` and `timm.data.config`, `pretrained_cfg`) exists in 1.0.15 to 1.0.31.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.data.config import resolve_data_config
from timm.models import adapt_input_conv, get_deprecated_models, get_pretrained_cfg, is_model_pretrained
from torch import nn

from lwexp.config.hub import quiet_hub
from lwexp.config.schema import ModelConfig
from lwexp.errors import ConfigError, UnknownNameError

from .blueprint import Blueprint, ModelRequest, Variant, channel_choices, loading_failed, parameters_among, required

OTHERS = ("torchvision", "lstm", "huggingface", "custom")  # what `model=` accepts besides timm's names


def timm_blueprint(config: ModelConfig, request: ModelRequest) -> Blueprint:
    """The model `config.name` of timm. Raises `ConfigError` for a name or tag that timm does not have."""
    written = required(config.name, "model.name")
    name = _resolved_name(written, request)
    declared = get_pretrained_cfg(name)
    own_size = declared.input_size[-1] if declared else None

    def variants(size: int) -> list[Variant]:
        sized: list[dict[str, Any]] = [{"img_size": size}]
        if not (declared and declared.fixed_input_size):
            sized.insert(0, {})  # most of these take any size and have no such argument
        return [Variant(c, {"in_chans": c, **more}) for c in channel_choices(request.channels) for more in sized]

    def create(**arguments: Any) -> nn.Module:
        return timm.create_model(name, num_classes=request.classes, **arguments)

    def load(**arguments: Any) -> tuple[nn.Module, frozenset[str]]:
        try:
            with quiet_hub():
                module = create(pretrained=True, **arguments)
        except Exception as error:
            raise loading_failed(name, error, timm.list_pretrained(name.partition(".")[0])) from error
        return module, unfilled(module)

    unfilled = functools.partial(_unfilled, name, request.channels)

    def preprocessing(module: nn.Module) -> dict[str, Any]:
        resolved = resolve_data_config({}, pretrained_cfg=module.pretrained_cfg)  # type: ignore[no-untyped-call]
        return {key: resolved[key] for key in ("mean", "std", "interpolation", "crop_pct")}

    return Blueprint(
        "model",
        written,
        own_size,
        config.options,
        variants,
        create,
        load if request.pretrained else None,
        unfilled if request.pretrained else None,
        preprocessing if request.trained else None,
    )


def _unfilled(name: str, channels: int, module: nn.Module) -> frozenset[str]:
    """The parameters of `module` that the published weights of `name` do not have.

    timm drops a classifier for another number of classes and, where it cannot convert it, the first convolution for
    other channels; options may add layers. All else it loads, or resamples.
    """
    config: Any = module.pretrained_cfg
    own = dict(module.named_parameters(remove_duplicate=False))
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            published = dict(timm.create_model(name).named_parameters(remove_duplicate=False))
    except Exception:  # a constructor that reads values
        published = {}
    names = own.keys() - published.keys() if published else set()
    layers = _names(config["classifier"]) if module.num_classes != config["num_classes"] else []
    for layer in _names(config["first_conv"]):
        ours, theirs = (tensors.get(f"{layer}.weight") for tensors in (own, published))
        if ours is not None and theirs is not None and ours.shape != theirs.shape:
            try:
                adapt_input_conv(channels, theirs.detach())
            except NotImplementedError:
                layers.append(layer)
    return parameters_among(module, (name for name in own if name in names or name.rpartition(".")[0] in layers))


def _names(declared: str | Sequence[str] | None) -> list[str]:
    return [declared] if isinstance(declared, str) else [*(declared or ())]


def _resolved_name(written: str, request: ModelRequest) -> str:
    """timm's present name for `written`, with the tag of the requested weights."""
    if not timm.is_model(written):
        raise UnknownNameError("model", written, [*timm.list_models(), *OTHERS], "no such model")
    name = get_deprecated_models().get(written, written)
    if name is None:
        raise UnknownNameError("model", written, timm.list_models(), "timm has removed this model")
    architecture, _, named_tag = name.partition(".")
    published = timm.list_pretrained(architecture)
    if named_tag and name not in timm.list_models(architecture, include_tags=True):
        raise UnknownNameError("model", written, published, "no such weights of this model")
    if request.pretrained and request.tag is not None:
        if named_tag and request.tag != named_tag:
            raise ConfigError("weights.tag", request.tag, f"model={written} already names {named_tag}")
        name = f"{architecture}.{request.tag}"
        if name not in published:
            tags = [full.partition(".")[2] for full in published]
            raise UnknownNameError("weights.tag", request.tag, tags, f"no such weights of {architecture}")
    if request.pretrained and not is_model_pretrained(name):
        raise UnknownNameError("model", written, timm.list_pretrained(), "no weights are published for it")
    return name


def timm_names() -> list[str]:
    """All models of timm, without tags."""
    names: list[str] = timm.list_models()
    return names
