"""Networks from a config: timm, torchvision, transformers, the small LSTM, or a class or function of one's own.

Each source becomes a `Recipe`. It is tried on the meta device first, where building and a forward pass cost neither
memory nor random numbers, so that a size, an option or an output that does not fit is explained before anything is
allocated; then the real model is built, once.
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

from .sources import RECIPES, Recipe, Wanted, Way, parameters

SIZES = (28, 32, 48, 64, 96, 128, 160, 192, 224, 256, 299, 384, 448, 512)  # proposed where a model refuses a size
RESERVED = {
    "num_classes": "follows from the data",
    "in_chans": "follows from the data",
    **dict.fromkeys(("img_size", "image_size", "input_size"), "is set by data.image_size"),
    **dict.fromkeys(("pretrained", "weights"), "is set by weights=pretrained"),
    "checkpoint_path": "is set by weights=checkpoint",
}


@dataclass(frozen=True)
class BuiltModel:
    """A model and the images it takes: [N, `channels`, `image_size`, `image_size`]; both are 0 for a model of texts.

    `channels` is the data's, or 3 where the model takes nothing else and one channel must be repeated.
    `preprocessing` (mean, std, interpolation, crop_pct) is what published weights were trained with, else None.
    `example` is a batch of two that the model takes, None where nothing is known about its inputs.
    """

    module: nn.Module
    channels: int
    image_size: int
    preprocessing: Mapping[str, Any] | None
    example: Inputs | None = None


@dataclass(frozen=True)
class Draft:
    """A model that was tried without weights, and how to make the real one.

    `tried` is the model on the meta device, None where only the real one shows whether it works. `on_meta` makes one
    there in any case, unchecked if need be; `allocate` makes the real one on the CPU, with its weights.
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
    device: str | torch.device = "cpu",
) -> BuiltModel:
    """The network of `config` for images `channels` × `image_size` × `image_size` and logits [N, `classes`].

    With `tokens`, texts take the place of images. `image_size` None takes the size the model was made for; `tag` picks
    among several published weights. Weights are drawn on the CPU, so that a seed means the same ones on every device;
    on "meta" nothing is allocated or loaded.

    Raises `ConfigError` for a name, an option or a size that does not fit, for an output that is not [N, `classes`]
    and for a model without trainable parameters, and `RunError` where published weights cannot be had.
    """
    draft = draft_model(
        config,
        channels=channels,
        classes=classes,
        image_size=image_size,
        pretrained=pretrained,
        tag=tag,
        tokens=tokens,
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
) -> Draft:
    """What `build_model` would build, tried on the meta device: nothing is allocated, downloaded or drawn.

    The arguments and errors are those of `build_model`.
    """
    _check_source(config, pretrained, tokens)
    wanted = Wanted(channels, classes, pretrained, tag, tokens)
    recipe = RECIPES[config.source](config, wanted)
    size = 0 if tokens else image_size or recipe.own_size or 224
    if recipe.refusal is not None:
        return _refused(recipe, recipe.refusal, size)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the real build gives the same warnings once more
        found = _probe(recipe, size, wanted)

    def finished(way: Way, module: nn.Module) -> BuiltModel:
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise ConfigError(recipe.key, recipe.label, "has no trainable parameter")
        preprocessing = _for_channels(recipe.preprocessing(module), way.channels) if recipe.preprocessing else None
        # black images say nothing that their shape does not
        example = _example(wanted, way, size, "cpu" if wanted.tokens else "meta")
        return BuiltModel(module, way.channels, size, preprocessing, example)

    def allocate() -> BuiltModel:
        if isinstance(found, Exception):
            return finished(*_run_for_real(recipe, size, wanted))
        way = found[0]
        module = _build(recipe, way, recipe.options, real=True)
        if any(is_lazy(parameter) for parameter in module.parameters()):
            _forward(module, _example(wanted, way, size))  # gives lazy layers their shapes and values
        return finished(way, module)

    if isinstance(found, Exception):
        refusal = found
        return Draft(None, lambda: finished(*_unchecked(recipe, size, refusal)), allocate)
    tried = finished(*found)
    return Draft(tried, lambda: tried, allocate)


def _refused(recipe: Recipe, refusal: str, size: int) -> Draft:
    """A model that can be previewed but not trained."""

    def on_meta() -> BuiltModel:
        way = recipe.ways(size)[0]
        return BuiltModel(_build(recipe, way, recipe.options, real=False), way.channels, size, None)

    def allocate() -> BuiltModel:
        raise ConfigError(recipe.key, recipe.label, refusal)

    return Draft(None, on_meta, allocate)


def _check_source(config: ModelConfig, pretrained: bool, tokens: Tokens | None) -> None:
    """Refuse what the source of the model rules out."""
    if config.target is not None and config.source != "custom":
        raise ConfigError("model._target_", config.target, f"is for model=custom, not for source {config.source}")
    for name, value in config.options.items():
        if name in RESERVED and config.source != "custom":
            raise ConfigError(f"model.{name}", value, RESERVED[name])
    if pretrained and config.source in ("lstm", "custom"):
        raise ConfigError("weights", "pretrained", f"none are published for models of source {config.source}")
    if tokens is not None and config.source not in ("huggingface", "custom"):
        label = config.name or config.source
        raise ConfigError("model", label, "takes images, the data are texts; model=huggingface or custom can take them")


def _probe(recipe: Recipe, size: int, wanted: Wanted) -> tuple[Way, nn.Module] | Exception:
    """The first way that works on the meta device and its model there, or why none does, if it is not the size.

    Raises `ConfigError` where an option or the size is to blame.
    """

    def works(size: int, options: dict[str, Any]) -> tuple[Way, nn.Module] | None:
        try:
            return _attempt(recipe, size, wanted, options)
        except Exception:
            return None

    try:
        return _attempt(recipe, size, wanted, recipe.options)
    except LwexpError:
        raise
    except Exception as error:
        if _beyond_meta(error):
            return error
        refusal, reason = error, one_line(error, kind=True)
    key = recipe.options_key
    for name, value in recipe.options.items():
        found = works(size, {k: v for k, v in recipe.options.items() if k != name})
        if found and isinstance(refusal, TypeError) and f"unexpected keyword argument '{name}'" in reason:
            choices = parameters(type(found[1])).keys() - {"**"}
            raise UnknownOptionError(
                f"{recipe.options_key}.{name}", value, choices, f"{recipe.label} has no such option"
            )
        if found or f"keyword argument '{name}'" in reason:
            raise ConfigError(f"{key}.{name}", value, f"{recipe.label} refuses it: {reason}")
    own = recipe.own_size
    if wanted.tokens is not None:
        return refusal
    larger, smaller = [s for s in SIZES if s > size], [s for s in SIZES if s < size]
    for other in dict.fromkeys([*larger, *([own] if own else []), *reversed(smaller)]):
        if works(other, recipe.options):
            made_for = f" (it was made for {own})" if own not in (None, size, other) else ""
            raise ConfigError("data.image_size", size, f"{recipe.label} refuses it: {reason}; {other} works{made_for}")
    return refusal


def _attempt(
    recipe: Recipe, size: int, wanted: Wanted, options: dict[str, Any], *, real: bool = False
) -> tuple[Way, nn.Module]:
    """The first way whose model takes the images, with that model; else the first way's exception."""
    first: Exception | None = None
    for way in recipe.ways(size):
        try:
            module = _build(recipe, way, options, real=real)
            with nullcontext() if real else torch.device("meta"):
                output = _forward(module, _example(wanted, way, size, "cpu" if real else "meta"))
        except LwexpError:
            raise
        except Exception as error:
            first = first or error
            continue
        shape = (2, wanted.classes)
        if not (isinstance(output, Tensor) and output.shape == shape and output.is_floating_point()):
            shown = f"{output.dtype} {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            kind = "texts" if wanted.tokens else "images"
            raise ConfigError(recipe.key, recipe.label, f"gives {shown} for 2 {kind}, not floats {list(shape)}")
        return way, module
    assert first is not None, "a recipe has at least one way"
    raise first


def _build(recipe: Recipe, way: Way, options: dict[str, Any], *, real: bool) -> nn.Module:
    create = recipe.load if real and recipe.load else recipe.create
    with nullcontext() if real else torch.device("meta"):
        module = create(**{**way.arguments, **options})
    if not isinstance(module, nn.Module):
        raise ConfigError(recipe.key, recipe.label, f"returns {type(module).__name__}, not a torch.nn.Module")
    return module


def _example(wanted: Wanted, way: Way, size: int, device: str = "cpu") -> Inputs:
    """Two black images, or two short texts."""
    if wanted.tokens is None:
        return torch.zeros(2, way.channels, size, size, device=device)
    return {name: tensor.to(device) for name, tensor in wanted.tokens.example().items()}


def _forward(module: nn.Module, inputs: Inputs) -> object:
    """What `module` makes of `inputs` in evaluation mode; modes and buffers are left as they were."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers() if not is_lazy(buffer)]
    module.eval()
    try:
        with torch.no_grad():
            return call(module, inputs)
    finally:
        module.train()  # some modules drop what they cached for evaluation here
        for part, training in modes:
            part.training = training
        for buffer, before in buffers:
            buffer.copy_(before)


def _run_for_real(recipe: Recipe, size: int, wanted: Wanted) -> tuple[Way, nn.Module]:
    """As `_attempt`, on the CPU with weights, for a model whose forward pass the meta device cannot follow."""
    try:
        return _attempt(recipe, size, wanted, recipe.options, real=True)
    except LwexpError:
        raise
    except Exception as error:
        raise ConfigError(recipe.key, recipe.label, f"fails{_at(size)}: {one_line(error, kind=True)}") from error


def _unchecked(recipe: Recipe, size: int, refusal: Exception) -> tuple[Way, nn.Module]:
    """The model on the meta device without a forward pass, where the `refusal` is the device's and not the model's."""
    if not _beyond_meta(refusal):
        raise ConfigError(recipe.key, recipe.label, f"fails{_at(size)}: {one_line(refusal, kind=True)}") from refusal
    way = recipe.ways(size)[0]
    try:
        return way, _build(recipe, way, recipe.options, real=False)
    except LwexpError:
        raise
    except Exception:  # its constructor looks at values, so it has to have some for a moment
        module = _build(recipe, way, recipe.options, real=True)
    stand_ins: dict[int, Any] = {id(b): b.to("meta") for b in module.buffers()}
    stand_ins |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in module.parameters()}
    return way, copy.deepcopy(module, stand_ins)  # unlike module.to("meta"), this keeps tied parameters tied


def _at(size: int) -> str:
    """The size in words; texts have none."""
    return f" at data.image_size={size}" if size else ""


def _beyond_meta(error: Exception) -> bool:
    """Whether an operation has no meta kernel or needs values, rather than the model being at fault."""
    return re.search(r"\bmeta\b", str(error), re.IGNORECASE) is not None


def _for_channels(preprocessing: dict[str, Any], channels: int) -> dict[str, Any]:
    """Mean and standard deviation for `channels`: their average where they were given for other ones."""
    adapted = dict(preprocessing)
    for key in ("mean", "std"):
        values = tuple(float(value) for value in preprocessing[key])
        adapted[key] = values if len(values) == channels else (sum(values) / len(values),) * channels
    return adapted
