"""Builds networks: of timm, torchvision and transformers, the small LSTM, or the user's own class or function.

A `Blueprint` is tried on the meta device first, where building and a forward pass need neither memory nor random
numbers; so a size, an option or an output that does not fit is an error before anything is allocated. Then the real
model is built, once.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lwexp.config.schema import ModelConfig
from lwexp.data import Inputs, Tokens, call
from lwexp.errors import ConfigError, LwexpError, UnknownOptionError
from lwexp.formatting import one_line

from .adapters import Adapters
from .blueprint import Blueprint, ModelRequest, Variant, parameters
from .file_preprocessing import for_channels
from .sources import make_blueprint

SIZES = (
    28,
    32,
    48,
    64,
    96,
    128,
    160,
    192,
    224,
    256,
    299,
    384,
    448,
    512,
)  # to propose where a model refuses a size
Built = tuple[Variant, nn.Module, frozenset[str]]  # with the names that published weights do not have
RESERVED = {
    "num_classes": "follows from the data",
    "in_chans": "follows from the data",
    **dict.fromkeys(("img_size", "image_size", "input_size"), "is set by data.image_size"),
    **dict.fromkeys(("pretrained", "weights"), "is set by weights=pretrained"),
    "checkpoint_path": "is set by weights=checkpoint",
}


@dataclass(frozen=True)
class BuiltModel:
    """A model and the shape of its input: [N, `channels`, `image_size`, `image_size`]; both are 0 for texts.

    `channels` is the data's, or 3 where the model accepts nothing else and one channel must be repeated.
    `preprocessing` (mean, std, interpolation, crop_pct) is that of the published weights, where the model
    begins with those or a file's, else None.
    `example` is a batch of two inputs, None where their shape is unknown.
    `new_names` are the parameters that the model's weights do not have: a head for other classes, layers that options
    add. Where no weights are loaded all parameters are alike, and it is empty. A tied parameter is in it with its first
    name. On the meta device it is what is known before loading. `adapters` are those in the model.
    """

    module: nn.Module
    channels: int
    image_size: int
    preprocessing: Mapping[str, Any] | None
    example: Inputs | None = None
    new_names: frozenset[str] = frozenset()
    adapters: Adapters | None = None


@dataclass(frozen=True)
class Draft:
    """A model that was tried on the meta device, and how to build the real one.

    `tried` is the model on the meta device, None where only the real one can be checked. `on_meta` builds one there in
    any case, unchecked if necessary; `allocate` builds the real one on the CPU, with its weights.
    """

    tried: BuiltModel | None
    on_meta: Callable[[], BuiltModel]
    allocate: Callable[[], BuiltModel]


def build_model(
    config: ModelConfig,
    *,
    channels: int,
    classes: int,
    image_size: int | None,
    pretrained: bool = False,
    tag: str | None = None,
    tokens: Tokens | None = None,
    from_file: bool = False,
    device: str | torch.device = "cpu",
) -> BuiltModel:
    """The network of `config` for images `channels` × `image_size` × `image_size` and logits [N, `classes`].

    With `tokens`, the inputs are texts. Without `image_size`, it is the size the model was made for; `tag` picks one of
    several published weights; `from_file` says that a file's follow. Weights are drawn on the CPU, so that a seed
    gives the same ones on every device; on "meta" nothing is allocated or loaded.

    Raises `ConfigError` for a name, an option or a size that does not fit, for an output that is not [N, `classes`]
    and for a model without trainable parameters, and `RunError` where published weights cannot be loaded.
    """
    draft = draft_model(
        config,
        channels=channels,
        classes=classes,
        image_size=image_size,
        pretrained=pretrained,
        tag=tag,
        tokens=tokens,
        from_file=from_file,
    )
    if torch.device(device).type == "meta":
        return draft.on_meta()
    built = draft.allocate()
    return replace(built, module=built.module.to(device))


def draft_model(
    config: ModelConfig,
    *,
    channels: int,
    classes: int,
    image_size: int | None,
    pretrained: bool = False,
    tag: str | None = None,
    tokens: Tokens | None = None,
    from_file: bool = False,
) -> Draft:
    """Try what `build_model` would build on the meta device: nothing is allocated, downloaded or drawn.

    The arguments and errors are those of `build_model`.
    """
    _check_source(config, pretrained, tokens)
    request = ModelRequest(channels, classes, pretrained, tag, tokens, from_file)
    blueprint = make_blueprint(config, request)
    size = 0 if tokens else image_size or blueprint.own_size or 224
    if blueprint.refusal is not None:
        return _preview_draft(blueprint, blueprint.refusal, size)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the real build repeats them
        found = _probe(blueprint, size, request)

    def checked(variant: Variant, module: nn.Module, new_names: frozenset[str]) -> BuiltModel:
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise ConfigError(blueprint.key, blueprint.label, "has no trainable parameter")
        preprocessing = (
            for_channels(blueprint.preprocessing(module), variant.channels) if blueprint.preprocessing else None
        )
        # of black images only the shape matters
        example = _example(request, variant, size, "cpu" if request.tokens else "meta")
        return BuiltModel(module, variant.channels, size, preprocessing, example, new_names)

    def allocate() -> BuiltModel:
        if isinstance(found, Exception):
            return checked(*_run_for_real(blueprint, size, request))
        variant = found[0]
        module, new_names = _build(blueprint, variant, blueprint.options, real=True)
        if any(is_lazy(parameter) for parameter in module.parameters()):
            _forward(module, _example(request, variant, size))  # initializes lazy layers
        return checked(variant, module, new_names)

    if isinstance(found, Exception):
        refusal = found
        return Draft(None, lambda: checked(*_unchecked(blueprint, size, refusal)), allocate)
    tried = checked(*found)
    return Draft(tried, lambda: tried, allocate)


def _preview_draft(blueprint: Blueprint, refusal: str, size: int) -> Draft:
    """A model that can be previewed but not trained."""

    def on_meta() -> BuiltModel:
        variant = blueprint.variants(size)[0]
        module, _ = _build(blueprint, variant, blueprint.options, real=False)
        return BuiltModel(module, variant.channels, size, None)

    def allocate() -> BuiltModel:
        raise ConfigError(blueprint.key, blueprint.label, refusal)

    return Draft(None, on_meta, allocate)


def _check_source(config: ModelConfig, pretrained: bool, tokens: Tokens | None) -> None:
    """Raise `ConfigError` for settings that the source of the model does not allow."""
    if config.target is not None and config.source != "custom":
        raise ConfigError("model._target_", config.target, f"is for model=custom, not for source {config.source}")
    for name, value in config.options.items():
        if name in RESERVED and config.source != "custom":
            raise ConfigError(f"model.{name}", value, RESERVED[name])
    if pretrained and config.source in ("lstm", "custom"):
        raise ConfigError("weights", "pretrained", f"none are published for models of source {config.source}")
    if tokens is not None and config.source not in ("huggingface", "lstm", "custom"):
        label = config.name or config.source
        others = "model=huggingface, lstm or custom can take them"
        raise ConfigError("model", label, f"takes images, the data are texts; {others}")


def _probe(blueprint: Blueprint, size: int, request: ModelRequest) -> Built | Exception:
    """The first variant that works on the meta device, with its model; else the exception.

    Raises `ConfigError` where an option or the size is the reason.
    """

    def works(size: int, options: dict[str, Any]) -> Built | None:
        try:
            return _attempt(blueprint, size, request, options)
        except Exception:
            return None

    try:
        return _attempt(blueprint, size, request, blueprint.options)
    except LwexpError:
        raise
    except Exception as error:
        if _beyond_meta(error):
            return error
        refusal, reason = error, one_line(error, kind=True)
    key = blueprint.options_key
    for name, value in blueprint.options.items():
        found = works(size, {k: v for k, v in blueprint.options.items() if k != name})
        if found and isinstance(refusal, TypeError) and f"unexpected keyword argument '{name}'" in reason:
            choices = parameters(type(found[1])).keys() - {"**"}
            raise UnknownOptionError(
                f"{blueprint.options_key}.{name}", value, choices, f"{blueprint.label} has no such option"
            )
        if found or f"keyword argument '{name}'" in reason:
            raise ConfigError(f"{key}.{name}", value, f"{blueprint.label} refuses it: {reason}")
    own = blueprint.own_size
    if request.tokens is not None:
        return refusal
    larger, smaller = [s for s in SIZES if s > size], [s for s in SIZES if s < size]
    for other in dict.fromkeys([*larger, *([own] if own else []), *reversed(smaller)]):
        if works(other, blueprint.options):
            made_for = f" (it was made for {own})" if own not in (None, size, other) else ""
            raise ConfigError(
                "data.image_size", size, f"{blueprint.label} refuses it: {reason}; {other} works{made_for}"
            )
    return refusal


def _attempt(
    blueprint: Blueprint, size: int, request: ModelRequest, options: dict[str, Any], *, real: bool = False
) -> Built:
    """The first variant whose model accepts the inputs, with that model; else raises the first one's exception."""
    first: Exception | None = None
    for variant in blueprint.variants(size):
        try:
            module, new_names = _build(blueprint, variant, options, real=real)
            with nullcontext() if real else torch.device("meta"):
                output = _forward(module, _example(request, variant, size, "cpu" if real else "meta"))
        except LwexpError:
            raise
        except Exception as error:
            first = first or error
            continue
        shape = (2, request.classes)
        if not (isinstance(output, Tensor) and output.shape == shape and output.is_floating_point()):
            shown = f"{output.dtype} {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            kind = "texts" if request.tokens else "images"
            raise ConfigError(blueprint.key, blueprint.label, f"gives {shown} for 2 {kind}, not floats {list(shape)}")
        return variant, module, new_names
    assert first is not None, "a blueprint has at least one variant"
    raise first


def _build(
    blueprint: Blueprint, variant: Variant, options: dict[str, Any], *, real: bool
) -> tuple[nn.Module, frozenset[str]]:
    """The model, and the names of its parameters that published weights do not have."""
    arguments = {**variant.arguments, **options}
    if real and blueprint.load:
        return blueprint.load(**arguments)
    with nullcontext() if real else torch.device("meta"):
        module = blueprint.create(**arguments)
        if not isinstance(module, nn.Module):
            raise ConfigError(blueprint.key, blueprint.label, f"returns {type(module).__name__}, not a torch.nn.Module")
        return module, blueprint.unfilled(module) if blueprint.unfilled else frozenset()


def _example(request: ModelRequest, variant: Variant, size: int, device: str = "cpu") -> Inputs:
    """Two black images, or two short texts."""
    if request.tokens is None:
        return torch.zeros(2, variant.channels, size, size, device=device)
    return {name: tensor.to(device) for name, tensor in request.tokens.example().items()}


def _forward(module: nn.Module, inputs: Inputs) -> object:
    """The output of `module` in evaluation mode; modes and buffers are restored."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers() if not is_lazy(buffer)]
    module.eval()
    try:
        with torch.no_grad():
            return call(module, inputs)
    finally:
        module.train()  # some modules clear their evaluation cache here
        for part, training in modes:
            part.training = training
        for buffer, before in buffers:
            buffer.copy_(before)


def _run_for_real(blueprint: Blueprint, size: int, request: ModelRequest) -> Built:
    """`_attempt` on the CPU, with weights, for a model whose forward pass does not run on the meta device."""
    try:
        return _attempt(blueprint, size, request, blueprint.options, real=True)
    except LwexpError:
        raise
    except Exception as error:
        raise ConfigError(blueprint.key, blueprint.label, f"fails{_at(size)}: {one_line(error, kind=True)}") from error


def _unchecked(blueprint: Blueprint, size: int, refusal: Exception) -> Built:
    """The model on the meta device without a forward pass, where the device and not the model is the reason."""
    if not _beyond_meta(refusal):
        raise ConfigError(
            blueprint.key, blueprint.label, f"fails{_at(size)}: {one_line(refusal, kind=True)}"
        ) from refusal
    variant = blueprint.variants(size)[0]
    try:
        return variant, *_build(blueprint, variant, blueprint.options, real=False)
    except LwexpError:
        raise
    except Exception:  # its constructor reads values, so it is built for real first
        module, new_names = _build(blueprint, variant, blueprint.options, real=True)
    on_meta: dict[int, Any] = {id(b): b.to("meta") for b in module.buffers()}
    on_meta |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in module.parameters()}
    # unlike module.to("meta"), this keeps tied parameters tied
    return variant, copy.deepcopy(module, on_meta), new_names


def _at(size: int) -> str:
    """The image size for a message; texts have none."""
    return f" at data.image_size={size}" if size else ""


def _beyond_meta(error: Exception) -> bool:
    """Whether the error comes from the meta device: an operation without a meta kernel, or one that needs values."""
    return re.search(r"\bmeta\b", str(error), re.IGNORECASE) is not None
