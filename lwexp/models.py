"""Networks from a config: timm, torchvision, the small LSTM, or a class or function of one's own.

Each source becomes a `_Recipe`. It is tried on the meta device first, where building and a forward pass cost neither
memory nor random numbers, so that a size, an option or an output that does not fit is explained before anything is
allocated; then the real model is built, once.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .config import ModelConfig
from .errors import ConfigError, LwexpError, RunError, UnknownNameError, UnknownOptionError
from .options import check_options

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
    """A model and the images it takes: [N, `channels`, `image_size`, `image_size`].

    `channels` is the data's, or 3 where the model takes nothing else and one channel must be repeated.
    `preprocessing` (mean, std, interpolation, crop_pct) is what published weights were trained with, else None.
    """

    module: nn.Module
    channels: int
    image_size: int
    preprocessing: Mapping[str, Any] | None


@dataclass(frozen=True)
class _Way:
    """One way to call a builder: the channels its model then takes, and the arguments besides the user's options."""

    channels: int
    arguments: dict[str, Any]


@dataclass(frozen=True)
class _Recipe:
    """How to build one model; `load` is `create` with published weights."""

    key: str  # with `label`: the config key and value in errors about the model as a whole
    label: str
    own_size: int | None  # the image size the model was made for
    options: dict[str, Any]
    ways: Callable[[int], Sequence[_Way]]  # for an image size, in order of preference
    create: Callable[..., Any]
    load: Callable[..., Any] | None = None
    preprocessing: Callable[[nn.Module], dict[str, Any]] | None = None


def build_model(
    config: ModelConfig,
    *,
    channels: int,
    classes: int,
    image_size: int | None,
    pretrained: bool = False,
    tag: str | None = None,
    device: str | torch.device = "cpu",
) -> BuiltModel:
    """The network of `config` for images `channels` × `image_size` × `image_size` and logits [N, `classes`].

    `image_size` None takes the size the model was made for; `tag` picks among several published weights. Weights are
    drawn on the CPU, so that a seed means the same ones on every device; on "meta" nothing is allocated or loaded.

    Raises `ConfigError` for a name, an option or a size that does not fit, for an output that is not [N, `classes`]
    and for a model without trainable parameters, and `RunError` where published weights cannot be had.
    """
    if config.target is not None and config.source != "custom":
        raise ConfigError("model._target_", config.target, f"is for model=custom, not for source {config.source}")
    for name, value in config.options.items():
        if name in RESERVED and config.source != "custom":
            raise ConfigError(f"model.{name}", value, RESERVED[name])
    if pretrained and config.source in ("lstm", "custom"):
        raise ConfigError("weights", "pretrained", f"none are published for models of source {config.source}")
    recipe = _RECIPES[config.source](config, channels, classes, pretrained, tag)
    size = image_size or recipe.own_size or 224
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the real build gives the same warnings once more
        found = _probe(recipe, size, classes)
    if torch.device(device).type == "meta":
        way, module = _unchecked(recipe, size, found) if isinstance(found, Exception) else found
    elif isinstance(found, Exception):
        way, module = _run_for_real(recipe, size, classes)
    else:
        way = found[0]
        module = _build(recipe, way, recipe.options, real=True)
        if any(is_lazy(parameter) for parameter in module.parameters()):
            _forward(module, way.channels, size)  # gives lazy layers their shapes and values
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError(recipe.key, recipe.label, "has no trainable parameter")
    preprocessing = _for_channels(recipe.preprocessing(module), way.channels) if recipe.preprocessing else None
    return BuiltModel(module.to(device), way.channels, size, preprocessing)


def _probe(recipe: _Recipe, size: int, classes: int) -> tuple[_Way, nn.Module] | Exception:
    """The first way that works on the meta device and its model there, or why none does, if it is not the size.

    Raises `ConfigError` where an option or the size is to blame.
    """

    def works(size: int, options: dict[str, Any]) -> tuple[_Way, nn.Module] | None:
        try:
            return _attempt(recipe, size, classes, options)
        except Exception:
            return None

    try:
        return _attempt(recipe, size, classes, recipe.options)
    except LwexpError:
        raise
    except Exception as error:
        if _beyond_meta(error):
            return error
        refusal, why = error, _why(error)
    for name, value in recipe.options.items():
        found = works(size, {k: v for k, v in recipe.options.items() if k != name})
        if found and isinstance(refusal, TypeError) and f"unexpected keyword argument '{name}'" in why:
            choices = _parameters(type(found[1])).keys() - {"**"}
            raise UnknownOptionError(f"model.{name}", value, choices, f"{recipe.label} has no such option")
        if found or f"keyword argument '{name}'" in why:
            raise ConfigError(f"model.{name}", value, f"{recipe.label} refuses it: {why}")
    own = recipe.own_size
    larger, smaller = [s for s in SIZES if s > size], [s for s in SIZES if s < size]
    for other in dict.fromkeys([*larger, *([own] if own else []), *reversed(smaller)]):
        if works(other, recipe.options):
            made_for = f" (it was made for {own})" if own not in (None, size, other) else ""
            raise ConfigError("data.image_size", size, f"{recipe.label} refuses it: {why}; {other} works{made_for}")
    return refusal


def _attempt(
    recipe: _Recipe, size: int, classes: int, options: dict[str, Any], *, real: bool = False
) -> tuple[_Way, nn.Module]:
    """The first way whose model takes the images, with that model; else the first way's exception."""
    first: Exception | None = None
    for way in recipe.ways(size):
        try:
            module = _build(recipe, way, options, real=real)
            with nullcontext() if real else torch.device("meta"):
                output = _forward(module, way.channels, size)
        except LwexpError:
            raise
        except Exception as error:
            first = first or error
            continue
        if not (isinstance(output, Tensor) and output.shape == (2, classes) and output.is_floating_point()):
            shown = f"{output.dtype} {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ConfigError(recipe.key, recipe.label, f"gives {shown} for 2 images, not floats [2, {classes}]")
        return way, module
    assert first is not None, "a recipe has at least one way"
    raise first


def _build(recipe: _Recipe, way: _Way, options: dict[str, Any], *, real: bool) -> nn.Module:
    create = recipe.load if real and recipe.load else recipe.create
    with nullcontext() if real else torch.device("meta"):
        module = create(**{**way.arguments, **options})
    if not isinstance(module, nn.Module):
        raise ConfigError(recipe.key, recipe.label, f"returns {type(module).__name__}, not a torch.nn.Module")
    return module


def _forward(module: nn.Module, channels: int, size: int) -> object:
    """What `module` makes of two black images in evaluation mode; modes and buffers are left as they were."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers() if not is_lazy(buffer)]
    module.eval()
    try:
        with torch.no_grad():
            return module(torch.zeros(2, channels, size, size))
    finally:
        module.train()  # some modules drop what they cached for evaluation here
        for part, training in modes:
            part.training = training
        for buffer, before in buffers:
            buffer.copy_(before)


def _run_for_real(recipe: _Recipe, size: int, classes: int) -> tuple[_Way, nn.Module]:
    """As `_attempt`, on the CPU with weights, for a model whose forward pass the meta device cannot follow."""
    try:
        return _attempt(recipe, size, classes, recipe.options, real=True)
    except LwexpError:
        raise
    except Exception as error:
        raise ConfigError(recipe.key, recipe.label, f"fails at data.image_size={size}: {_why(error)}") from error


def _unchecked(recipe: _Recipe, size: int, refusal: Exception) -> tuple[_Way, nn.Module]:
    """The model on the meta device without a forward pass, where the `refusal` is the device's and not the model's."""
    if not _beyond_meta(refusal):
        raise ConfigError(recipe.key, recipe.label, f"fails at data.image_size={size}: {_why(refusal)}") from refusal
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


def _beyond_meta(error: Exception) -> bool:
    """Whether an operation has no meta kernel or needs values, rather than the model being at fault."""
    return re.search(r"\bmeta\b", str(error), re.IGNORECASE) is not None


def _why(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return text if len(text) <= 200 else f"{text[:197]}..."


def _channel_choices(channels: int) -> list[int]:
    """What to build for, in order: the data's channels, else three copies of a single one."""
    return [1, 3] if channels == 1 else [channels]


def _for_channels(preprocessing: dict[str, Any], channels: int) -> dict[str, Any]:
    """Mean and standard deviation for `channels`: their average where they were given for other ones."""
    adapted = dict(preprocessing)
    for key in ("mean", "std"):
        values = tuple(float(value) for value in preprocessing[key])
        adapted[key] = values if len(values) == channels else (sum(values) / len(values),) * channels
    return adapted


def _parameters(function: Callable[..., Any]) -> dict[str, bool]:
    """The arguments that `function` takes by name, and whether each has a default; `**` if it takes any name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions written in C have no signature
        return {"**": True}
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    any_name = {"**": True} if any(p.kind is p.VAR_KEYWORD for p in parameters) else {}
    return {p.name: p.default is not p.empty for p in by_name} | any_name


def _given(value: str | None, key: str) -> str:
    if value is None or value == "???":
        raise ConfigError(key, "???", "must be given")
    return value


def _timm(config: ModelConfig, channels: int, classes: int, pretrained: bool, tag: str | None) -> _Recipe:
    """Any timm name, with or without a tag: https://huggingface.co/docs/timm."""
    import timm
    from timm.data.config import resolve_data_config
    from timm.models import get_deprecated_models, get_pretrained_cfg, is_model_pretrained

    written = _given(config.name, "model.name")
    if not timm.is_model(written):
        raise UnknownNameError("model", written, timm.list_models(), "no such timm model")
    name = get_deprecated_models().get(written, written)
    if name is None:
        raise UnknownNameError("model", written, timm.list_models(), "timm has removed this model")
    architecture, _, named_tag = name.partition(".")
    published = timm.list_pretrained(architecture)
    if named_tag and name not in timm.list_models(architecture, include_tags=True):
        raise UnknownNameError("model", written, published, "no such weights of this model")
    if pretrained and tag is not None:
        if named_tag and tag != named_tag:
            raise ConfigError("weights.tag", tag, f"model={written} already names {named_tag}")
        name = f"{architecture}.{tag}"
        if name not in published:
            tags = [full.partition(".")[2] for full in published]
            raise UnknownNameError("weights.tag", tag, tags, f"no such weights of {architecture}")
    if pretrained and not is_model_pretrained(name):
        raise UnknownNameError("model", written, timm.list_pretrained(), "no weights are published for it")
    declared = get_pretrained_cfg(name)
    own_size = declared.input_size[-1] if declared else None

    def ways(size: int) -> list[_Way]:
        sized: list[dict[str, Any]] = [{"img_size": size}]
        if not (declared and declared.fixed_input_size):
            sized.insert(0, {})  # most of these take any size and know no such argument
        return [_Way(c, {"in_chans": c, **more}) for c in _channel_choices(channels) for more in sized]

    def create(**arguments: Any) -> nn.Module:
        return timm.create_model(name, num_classes=classes, **arguments)

    def load(**arguments: Any) -> nn.Module:
        try:
            return create(pretrained=True, **arguments)
        except Exception as error:
            raise _no_weights(name, error, published) from error

    def preprocessing(module: nn.Module) -> dict[str, Any]:
        resolved = resolve_data_config({}, pretrained_cfg=module.pretrained_cfg)  # type: ignore[no-untyped-call]
        return {key: resolved[key] for key in ("mean", "std", "interpolation", "crop_pct")}

    if not pretrained:
        return _Recipe("model", written, own_size, config.options, ways, create)
    return _Recipe("model", written, own_size, config.options, ways, create, load, preprocessing)


def _torchvision(config: ModelConfig, channels: int, classes: int, pretrained: bool, tag: str | None) -> _Recipe:
    """Any classification builder of torchvision: https://pytorch.org/vision/stable/models.html."""
    import torchvision

    zoo: Any = torchvision.models

    name = _given(config.name, "model.name")
    if name not in zoo.list_models(module=zoo):
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

    def ways(size: int) -> list[_Way]:
        arguments: dict[str, Any] = {}
        if "aux_logits" in accepted:
            arguments["aux_logits"] = False  # auxiliary heads change the output during training
        if "init_weights" in accepted and not pretrained:
            arguments["init_weights"] = True  # what torchvision does by default, said so that it does not warn
        size = weights.meta["min_size"][0] if pretrained else size  # published weights fit one size
        sizes = {"image_size": size, "input_size": (size, size)}
        return [_Way(3, {**arguments, **{key: value for key, value in sizes.items() if key in accepted}})]

    def create(**arguments: Any) -> nn.Module:
        module: nn.Module = builder(num_classes=classes, **arguments)
        return module

    def load(**arguments: Any) -> nn.Module:
        try:
            module: nn.Module = builder(weights=weights, **arguments)
        except Exception as error:
            raise _no_weights(f"{name} {weights.name}", error, [w.name for w in weights_class]) from error
        _replace_head(module, len(weights.meta["categories"]), classes)
        return module

    def preprocessing(module: nn.Module) -> dict[str, Any]:
        crop_pct = trained_as.crop_size[0] / trained_as.resize_size[0]
        interpolation = trained_as.interpolation.value
        return {"mean": trained_as.mean, "std": trained_as.std, "interpolation": interpolation, "crop_pct": crop_pct}

    own_size = trained_as.crop_size[0]
    if not pretrained:
        return _Recipe("model.name", name, own_size, config.options, ways, create)
    return _Recipe("model.name", name, own_size, config.options, ways, create, load, preprocessing)


def _replace_head(module: nn.Module, published: int, classes: int) -> None:
    """Put a new layer for `classes` in place of the last one that has `published` outputs."""
    heads = [
        (name, part)
        for name, part in module.named_modules()
        if (isinstance(part, nn.Linear) and part.out_features == published)
        or (isinstance(part, nn.Conv2d) and part.out_channels == published)
    ]
    name, head = heads[-1]
    if isinstance(head, nn.Conv2d):
        module.set_submodule(name, nn.Conv2d(head.in_channels, classes, head.kernel_size))  # type: ignore[arg-type]
    elif isinstance(head, nn.Linear):
        module.set_submodule(name, nn.Linear(head.in_features, classes, bias=head.bias is not None))


def _no_weights(name: str, error: Exception, published: Iterable[str]) -> RunError:
    return RunError(f"the weights of {name} could not be loaded: {_why(error)}; published: {', '.join(published)}")


def _lstm(config: ModelConfig, channels: int, classes: int, pretrained: bool, tag: str | None) -> _Recipe:
    from .lstm import LSTMClassifier

    if config.name not in (None, "lstm"):
        raise ConfigError("model.name", config.name, "there is one lstm only; leave it out")
    found = {"in_chans": channels, "num_classes": classes}
    function = LSTMClassifier.__init__
    checked = check_options(function, {**config.options, **found, "img_size": 1}, "model")
    options = {name: checked[name] for name in config.options}
    return _Recipe(
        "model", "lstm", 32, options, lambda size: [_Way(channels, {**found, "img_size": size})], LSTMClassifier
    )


def _custom(config: ModelConfig, channels: int, classes: int, pretrained: bool, tag: str | None) -> _Recipe:
    """A class or function of the user's; it gets `num_classes`, `in_chans` and `img_size` if it has such arguments."""
    path = _given(config.target, "model._target_")
    target = _located(path)
    options = {**config.options, **({} if config.name is None else {"name": config.name})}
    known = _parameters(target)
    from_data = {"num_classes", "in_chans", "img_size"} & known.keys()
    for name, value in options.items():
        if name not in known and "**" not in known:
            raise UnknownOptionError(f"model.{name}", value, known, f"{path} has no such argument")
    for name, has_default in known.items():
        if not has_default and name not in options and name not in from_data:
            raise ConfigError(f"model.{name}", "???", f"must be given: {path} needs it")

    def ways(size: int) -> list[_Way]:
        found = ({"num_classes": classes, "in_chans": c, "img_size": size} for c in _channel_choices(channels))
        return [_Way(f["in_chans"], {name: f[name] for name in from_data}) for f in found]

    return _Recipe("model._target_", path, None, options, ways, target)


def _located(path: str) -> Callable[..., Any]:
    """The class or function at the dotted `path`, looked for in Python's path and the current folder."""
    key = "model._target_"
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(key, path, "must be a dotted path, e.g. my_models.Net")
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))  # console scripts lack it; it stays, for what the module imports later
    importlib.invalidate_caches()
    found: Any = None
    for end, part in enumerate(parts):
        before, prefix = ".".join(parts[:end]), ".".join(parts[: end + 1])
        if end and hasattr(found, part):
            found = getattr(found, part)
            continue
        try:
            found = importlib.import_module(prefix)
        except Exception as error:
            if not isinstance(error, ModuleNotFoundError) or not f"{prefix}.".startswith(f"{error.name}."):
                raise ConfigError(key, path, f"importing {prefix} fails: {_why(error)}") from error
            if not end:
                raise ConfigError(key, path, f"no module {prefix} is installed or in the current folder") from None
            names = [f"{before}.{name}" for name in dir(found) if not name.startswith("_")]
            raise UnknownNameError(key, path, names, f"{before} has no {part}") from None
    if isinstance(found, (ModuleType, nn.Module)) or not callable(found):
        raise ConfigError(key, path, f"is a {type(found).__name__}, not a class or function that returns a model")
    return found  # type: ignore[no-any-return]


_RECIPES: dict[str, Callable[[ModelConfig, int, int, bool, str | None], _Recipe]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "lstm": _lstm,
    "custom": _custom,
}
