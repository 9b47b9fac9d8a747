"""Classifiers of torchvision, and its detection and segmentation models for previews.

https://pytorch.org/vision/stable/models.html
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torchvision
from torch import nn

from lwexp.config.schema import ModelConfig
from lwexp.errors import ConfigError, UnknownNameError

from .blueprint import Blueprint, ModelRequest, Variant, loading_failed, required

zoo: Any = torchvision.models


def torchvision_blueprint(config: ModelConfig, request: ModelRequest) -> Blueprint:
    """The model `config.name` of torchvision. Raises `ConfigError` for a name or weights that it does not have."""
    channels, classes, pretrained, tag = request.channels, request.classes, request.pretrained, request.tag
    name = required(config.name, "model.name")
    if name not in zoo.list_models(module=zoo):
        for kind in ("detection", "segmentation"):
            if name in zoo.list_models(module=getattr(zoo, kind)):
                return _preview_blueprint(name, kind, zoo.get_model_builder(name), config.options, classes)
        if name in zoo.list_models():
            raise ConfigError("model.name", name, "is not an image classifier; choose one of torchvision's that is")
        raise UnknownNameError("model.name", name, zoo.list_models(module=zoo), "no such torchvision model")
    if channels not in (1, 3):
        raise ConfigError("model.name", name, f"takes 3 channels, the images have {channels}")
    weights_class = zoo.get_model_weights(name)
    if pretrained and tag is not None and tag not in weights_class.__members__:
        raise UnknownNameError("weights.tag", tag, [w.name for w in weights_class], f"no such weights of {name}")
    weights = weights_class[tag] if pretrained and tag is not None else weights_class.DEFAULT
    builder = zoo.get_model_builder(name)
    accepted = inspect.signature(inspect.signature(builder).return_annotation).parameters
    trained_as = weights.transforms()

    def variants(size: int) -> list[Variant]:
        arguments: dict[str, Any] = {}
        if "aux_logits" in accepted:
            arguments["aux_logits"] = False  # auxiliary heads change the output during training
        if "init_weights" in accepted and not pretrained:
            arguments["init_weights"] = True  # torchvision's default, given explicitly because it warns otherwise
        size = weights.meta["min_size"][0] if pretrained else size  # published weights fit one size
        sizes = {"image_size": size, "input_size": (size, size)}
        return [Variant(3, {**arguments, **{key: value for key, value in sizes.items() if key in accepted}})]

    def create(**arguments: Any) -> nn.Module:
        module: nn.Module = builder(num_classes=classes, **arguments)
        return module

    def load(**arguments: Any) -> tuple[nn.Module, frozenset[str]]:
        try:
            module: nn.Module = builder(weights=weights, **arguments)
        except Exception as error:
            raise loading_failed(f"{name} {weights.name}", error, [w.name for w in weights_class]) from error
        _replace_head(module, len(weights.meta["categories"]), classes)
        return module, new_head(module)

    def new_head(module: nn.Module) -> frozenset[str]:
        name, head = _head(module, classes)
        return frozenset(f"{name}.{own}" for own, _ in head.named_parameters())

    def preprocessing(module: nn.Module) -> dict[str, Any]:
        crop_pct = trained_as.crop_size[0] / trained_as.resize_size[0]
        interpolation = trained_as.interpolation.value
        return {"mean": trained_as.mean, "std": trained_as.std, "interpolation": interpolation, "crop_pct": crop_pct}

    own_size = trained_as.crop_size[0]
    return Blueprint(
        "model.name",
        name,
        own_size,
        config.options,
        variants,
        create,
        load if pretrained else None,
        new_head if pretrained else None,
        preprocessing if request.trained else None,
    )


def _preview_blueprint(
    name: str, kind: str, builder: Callable[..., nn.Module], options: dict[str, Any], classes: int
) -> Blueprint:
    """A detection or segmentation model; without weights for its backbone, which torchvision downloads by default."""
    variant = Variant(3, {"weights": None, "weights_backbone": None, "num_classes": classes})
    why_not = f"is a {kind} model, which lwexp.preview shows but a run cannot train: the data have one label per image"
    return Blueprint("model.name", name, None, options, lambda size: [variant], builder, refusal=why_not)


def _head(module: nn.Module, outputs: int) -> tuple[str, nn.Module]:
    """The last layer with as many `outputs`, and its name."""
    heads = [
        (name, part)
        for name, part in module.named_modules()
        if (isinstance(part, nn.Linear) and part.out_features == outputs)
        or (isinstance(part, nn.Conv2d) and part.out_channels == outputs)
    ]
    return heads[-1]


def _replace_head(module: nn.Module, published: int, classes: int) -> None:
    """Replace the last layer with `published` outputs by a new one with `classes`."""
    name, head = _head(module, published)
    if isinstance(head, nn.Conv2d):
        module.set_submodule(name, nn.Conv2d(head.in_channels, classes, head.kernel_size))  # type: ignore[arg-type]
    elif isinstance(head, nn.Linear):
        module.set_submodule(name, nn.Linear(head.in_features, classes, bias=head.bias is not None))
