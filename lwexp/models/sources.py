"""Where models come from: timm, torchvision, transformers, the small LSTM, a callable of one's own; as a `Recipe`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from lwexp.config.schema import ModelConfig
from lwexp.config.targets import located
from lwexp.core.options import check_options
from lwexp.errors import ConfigError, RunError, UnknownNameError, UnknownOptionError
from lwexp.formatting import one_line

if TYPE_CHECKING:
    from lwexp.data import Tokens

OTHERS = ("torchvision", "lstm", "huggingface", "custom")  # what `model=` takes besides timm's names


@dataclass(frozen=True)
class Wanted:
    """What a model is wanted for: `channels` of the images, or `tokens` of the texts; `tag` picks published weights."""

    channels: int
    classes: int
    pretrained: bool
    tag: str | None
    tokens: Tokens | None = None


@dataclass(frozen=True)
class Way:
    """One way to call a builder: the channels its model then takes, and the arguments besides the user's options."""

    channels: int
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """How to build one model; `load` is `create` with published weights."""

    key: str  # with `label`: the config key and value in errors about the model as a whole
    label: str
    own_size: int | None  # the image size the model was made for
    options: dict[str, Any]
    ways: Callable[[int], Sequence[Way]]  # for an image size, in order of preference
    create: Callable[..., Any]
    load: Callable[..., Any] | None = None
    preprocessing: Callable[[nn.Module], dict[str, Any]] | None = None
    options_key: str = "model"  # the config key that `options` stand under
    refusal: str | None = None  # why the model can be previewed but not trained


def channel_choices(channels: int) -> list[int]:
    """What to build for, in order: the data's channels, else three copies of a single one."""
    return [1, 3] if channels == 1 else [channels]


def parameters(function: Callable[..., Any]) -> dict[str, bool]:
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


def _timm(config: ModelConfig, wanted: Wanted) -> Recipe:
    """Any timm name, with or without a tag: https://huggingface.co/docs/timm."""
    import timm
    from timm.data.config import resolve_data_config
    from timm.models import get_deprecated_models, get_pretrained_cfg, is_model_pretrained

    written = _given(config.name, "model.name")
    if not timm.is_model(written):
        raise UnknownNameError("model", written, [*timm.list_models(), *OTHERS], "no such model")
    pretrained, tag = wanted.pretrained, wanted.tag
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

    def ways(size: int) -> list[Way]:
        sized: list[dict[str, Any]] = [{"img_size": size}]
        if not (declared and declared.fixed_input_size):
            sized.insert(0, {})  # most of these take any size and know no such argument
        return [Way(c, {"in_chans": c, **more}) for c in channel_choices(wanted.channels) for more in sized]

    def create(**arguments: Any) -> nn.Module:
        return timm.create_model(name, num_classes=wanted.classes, **arguments)

    def load(**arguments: Any) -> nn.Module:
        try:
            return create(pretrained=True, **arguments)
        except Exception as error:
            raise _no_weights(name, error, published) from error

    def preprocessing(module: nn.Module) -> dict[str, Any]:
        resolved = resolve_data_config({}, pretrained_cfg=module.pretrained_cfg)  # type: ignore[no-untyped-call]
        return {key: resolved[key] for key in ("mean", "std", "interpolation", "crop_pct")}

    if not pretrained:
        return Recipe("model", written, own_size, config.options, ways, create)
    return Recipe("model", written, own_size, config.options, ways, create, load, preprocessing)


def _torchvision(config: ModelConfig, wanted: Wanted) -> Recipe:
    """Any classification builder of torchvision: https://pytorch.org/vision/stable/models.html."""
    import torchvision

    zoo: Any = torchvision.models
    channels, classes, pretrained, tag = wanted.channels, wanted.classes, wanted.pretrained, wanted.tag
    name = _given(config.name, "model.name")
    if name not in zoo.list_models(module=zoo):
        for kind in ("detection", "segmentation"):
            if name in zoo.list_models(module=getattr(zoo, kind)):
                return _previewed(name, kind, zoo.get_model_builder(name), config.options, classes)
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

    def ways(size: int) -> list[Way]:
        arguments: dict[str, Any] = {}
        if "aux_logits" in accepted:
            arguments["aux_logits"] = False  # auxiliary heads change the output during training
        if "init_weights" in accepted and not pretrained:
            arguments["init_weights"] = True  # what torchvision does by default, said so that it does not warn
        size = weights.meta["min_size"][0] if pretrained else size  # published weights fit one size
        sizes = {"image_size": size, "input_size": (size, size)}
        return [Way(3, {**arguments, **{key: value for key, value in sizes.items() if key in accepted}})]

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
        return Recipe("model.name", name, own_size, config.options, ways, create)
    return Recipe("model.name", name, own_size, config.options, ways, create, load, preprocessing)


def _previewed(
    name: str, kind: str, builder: Callable[..., nn.Module], options: dict[str, Any], classes: int
) -> Recipe:
    """A detection or segmentation model, without weights, nor its backbone's, which torchvision fetches by default."""
    way = Way(3, {"weights": None, "weights_backbone": None, "num_classes": classes})
    why_not = f"is a {kind} model, which lwexp.preview shows but a run cannot train: data gives one label for an image"
    return Recipe("model.name", name, None, options, lambda size: [way], builder, refusal=why_not)


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
    return RunError(
        f"the weights of {name} could not be loaded: {one_line(error, kind=True)}; published: {', '.join(published)}"
    )


def _lstm(config: ModelConfig, wanted: Wanted) -> Recipe:
    from .lstm import LSTMClassifier

    if config.name not in (None, "lstm"):
        raise ConfigError("model.name", config.name, "there is one lstm only; leave it out")
    found = {"in_chans": wanted.channels, "num_classes": wanted.classes}
    function = LSTMClassifier.__init__
    checked = check_options(function, {**config.options, **found, "img_size": 1}, "model")
    options = {name: checked[name] for name in config.options}
    return Recipe(
        "model", "lstm", 32, options, lambda size: [Way(wanted.channels, {**found, "img_size": size})], LSTMClassifier
    )


def _custom(config: ModelConfig, wanted: Wanted) -> Recipe:
    """A class or function of the user's; it gets `num_classes`, `in_chans` and `img_size` if it has such arguments.

    For texts: `num_classes`, `vocab_size` and `pad_token_id`; its forward pass takes `input_ids` and `attention_mask`.
    """
    path = _given(config.target, "model._target_")
    target = located(path, "model._target_", "class or function that returns a model")
    options = {**config.options, **({} if config.name is None else {"name": config.name})}
    known = parameters(target)
    tokens = wanted.tokens
    of_texts = {"vocab_size": tokens.vocabulary, "pad_token_id": tokens.pad_id} if tokens else {}
    from_data = {"num_classes", *(of_texts or ("in_chans", "img_size"))} & known.keys()
    for name, value in options.items():
        if name not in known and "**" not in known:
            raise UnknownOptionError(f"model.{name}", value, known, f"{path} has no such argument")
    for name, has_default in known.items():
        if not has_default and name not in options and name not in from_data:
            raise ConfigError(f"model.{name}", "???", f"must be given: {path} needs it")

    def ways(size: int) -> list[Way]:
        choices = [0] if tokens else channel_choices(wanted.channels)
        facts: Any = [{"num_classes": wanted.classes, "in_chans": c, "img_size": size, **of_texts} for c in choices]
        return [Way(found["in_chans"], {name: found[name] for name in from_data}) for found in facts]

    return Recipe("model._target_", path, None, options, ways, target)


def _huggingface(config: ModelConfig, wanted: Wanted) -> Recipe:
    try:
        from .huggingface import huggingface_recipe
    except ImportError as error:
        if error.name != "transformers":
            raise
        raise ConfigError("model", "huggingface", "needs transformers: pip install 'lwexp[huggingface]'") from None
    return huggingface_recipe(config, wanted)


RECIPES: dict[str, Callable[[ModelConfig, Wanted], Recipe]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "lstm": _lstm,
    "huggingface": _huggingface,
    "custom": _custom,
}
