"""Networks of the `transformers` library: published ones by name, or, offline, any class of configs."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from lwexp.config.hub import Place, located_on_hub, quiet
from lwexp.config.schema import ModelConfig
from lwexp.errors import ConfigError, RunError, UnknownNameError, nearest
from lwexp.formatting import one_line

from .huggingface_config import check_arguments, config_class, fit_images, fit_tokens, own_size_of, published_config
from .sources import Recipe, Wanted, Way, channel_choices

if TYPE_CHECKING:
    from lwexp.data import Tokens

log = logging.getLogger(__name__)
OPTIONS = ("config_class", "config", "auto_class")
AUTO = {"input_ids": "AutoModelForSequenceClassification", "pixel_values": "AutoModelForImageClassification"}
KINDS = {"input_ids": "texts", "pixel_values": "images"}
# Arguments that every config has and that would change what the loop gets, or that follow from the data.
FROM_DATA = {
    **dict.fromkeys(("num_labels", "id2label", "label2id", "num_channels"), "follows from the data"),
    "image_size": "is set by data.image_size",
    **dict.fromkeys(("vocab_size", "pad_token_id"), "follows from the tokenizer"),
}
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def huggingface_recipe(config: ModelConfig, wanted: Wanted) -> Recipe:
    """How to build what `config` names as a classifier of `wanted`'s texts or images. Raises `ConfigError`."""
    options = config.options
    for name, value in options.items():
        if name not in OPTIONS:
            hint = nearest(name, OPTIONS)
            why_not = f"unknown option; {hint}; arguments of the network stand below model.config"
            raise ConfigError(f"model.{name}", value, why_not)
    class_name, given = options.get("config_class"), options.get("config") or {}
    if not isinstance(given, Mapping):
        raise ConfigError("model.config", given, "must be a mapping of arguments, e.g. {hidden_size: 128}")
    auto = options.get("auto_class")
    names = [name for name in dir(transformers) if name.startswith("AutoModel")]
    if auto is not None and auto not in names:
        raise UnknownNameError("model.auto_class", auto, names, "no such class in transformers")
    if config.name is not None and class_name is not None:
        raise ConfigError("model.config_class", class_name, f"model.name={config.name} has a config of its own")
    if config.name is None and class_name is None:
        raise ConfigError("model.name", None, "must be given, or model.config_class instead")
    arguments = {str(key): value for key, value in given.items()}
    if class_name is not None:
        return _from_class(str(class_name), arguments, auto, wanted)
    return _from_name(str(config.name), arguments, auto, wanted)


def _from_class(class_name: str, given: dict[str, Any], auto: str | None, wanted: Wanted) -> Recipe:
    if wanted.pretrained:
        raise ConfigError("weights", "pretrained", "none are published for model.config_class; give model.name")
    kind = config_class(class_name)
    check_arguments(kind, given, FROM_DATA)
    builder = _builder(kind, "model.config_class", class_name, auto, wanted)

    def create(**arguments: Any) -> nn.Module:
        own, facts = _apart(arguments)
        config = kind(**own)
        fit_images(config, facts)
        fit_tokens(config, wanted.tokens)
        return _created(builder, config, wanted.tokens)

    ways = functools.partial(_ways, wanted)
    own_size = None if wanted.tokens else own_size_of(kind())
    return Recipe("model.config_class", class_name, own_size, given, ways, create, options_key="model.config")


def _from_name(name: str, given: dict[str, Any], auto: str | None, wanted: Wanted) -> Recipe:
    place = located_on_hub(name, "model.name", revision=wanted.tag)
    published = published_config(name, place)
    kind = type(published)
    check_arguments(kind, given, FROM_DATA)
    builder = _builder(kind, "model.name", name, auto, wanted)

    def config_with(arguments: dict[str, Any]) -> PretrainedConfig:
        own, facts = _apart(arguments)
        config = published_config(name, place, **own)
        fit_images(config, facts)
        if wanted.tokens is not None:
            config.pad_token_id = wanted.tokens.pad_id
            size = int(config.get_text_config().vocab_size)
            if wanted.tokens.vocabulary > size and wanted.pretrained:
                many = f"has {wanted.tokens.vocabulary} tokens, the weights of {name} know {size}"
                raise ConfigError("data.tokenizer", wanted.tokens.label, many)
            config.get_text_config().vocab_size = max(size, wanted.tokens.vocabulary)
        return config

    def create(**arguments: Any) -> nn.Module:
        return _created(builder, config_with(arguments), wanted.tokens)

    def load(**arguments: Any) -> nn.Module:
        module = _loaded(builder, name, place, config_with(arguments), wanted.classes)
        _check_length(module, wanted.tokens)
        return module

    def ways(size: int) -> list[Way]:
        if not wanted.pretrained:
            return _ways(wanted, size)
        channels = 0 if wanted.tokens else int(getattr(published, "num_channels", 3))
        return [Way(channels, {"num_labels": wanted.classes})]  # the published sizes are those of the weights

    own_size = None if wanted.tokens else own_size_of(published)
    how: dict[str, Any] = {"options_key": "model.config"}
    if wanted.pretrained:
        how["load"] = load
        found = None if wanted.tokens else _preprocessing(place)
        how["preprocessing"] = (lambda module: found) if found else None
    return Recipe("model.name", name, own_size, given, ways, create, **how)


def _ways(wanted: Wanted, size: int) -> list[Way]:
    """Classes, and of images channels and size; `fit_images` puts the latter where the config has them."""
    labels = {"num_labels": wanted.classes}
    if wanted.tokens is not None:
        return [Way(0, labels)]
    return [Way(c, {**labels, "num_channels": c, "image_size": size}) for c in channel_choices(wanted.channels)]


def _apart(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the config, and what `_ways` says about the images."""
    facts: dict[str, Any] = {name: arguments.pop(name) for name in ("num_channels", "image_size") if name in arguments}
    return arguments, facts


def _builder(kind: type[PretrainedConfig], key: str, value: str, auto: str | None, wanted: Wanted) -> Any:
    """The Auto class that makes a classifier of `kind`; refuses a network for another kind of data."""
    takes = "pixel_values" if wanted.tokens is None else "input_ids"
    if auto is not None:
        found = _network(auto, kind)
        if found is None:
            raise ConfigError("model.auto_class", auto, f"makes no network of {kind.__name__}")
        if found.main_input_name != takes:
            raise ConfigError("model.auto_class", auto, f"takes {found.main_input_name}, the data are {KINDS[takes]}")
        return getattr(transformers, auto)
    found = _network(AUTO[takes], kind)
    if found is None or found.main_input_name != takes:
        others = [KINDS[name] for name in AUTO if name != takes and _network(AUTO[name], kind)]
        reads = f", a classifier of {others[0]}" if others else ""
        raise ConfigError(key, value, f"is a {kind.__name__}{reads}; the data are {KINDS[takes]}")
    return getattr(transformers, AUTO[takes])


def _network(auto: str, kind: type[PretrainedConfig]) -> type[PreTrainedModel] | None:
    """The class of networks that the Auto class `auto` makes of `kind`."""
    mapping = getattr(transformers, auto)._model_mapping
    if kind not in mapping:
        return None
    found = mapping[kind]
    network: type[PreTrainedModel] = found[0] if isinstance(found, (list, tuple)) else found
    return network


def _created(builder: Any, config: PretrainedConfig, tokens: Tokens | None) -> nn.Module:
    with quiet():
        module = builder.from_config(_lean(config), dtype=torch.float32, trust_remote_code=False)
    _check_length(module, tokens)
    return returns_logits(module, builder.__name__)


def _loaded(builder: Any, name: str, place: Place, config: PretrainedConfig, classes: int) -> nn.Module:
    """The published weights; a head for other classes, or none, is left as initialised, anything else is an error."""
    try:
        with quiet():
            module, found = builder.from_pretrained(
                place.name,
                config=_lean(config),
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
                **place.arguments,
            )
    except Exception as error:
        raise RunError(f"the weights of {name} could not be loaded: {one_line(error, kind=True)}") from error
    fresh = set(found["missing_keys"])
    for key, theirs, ours in sorted(found["mismatched_keys"]):
        if not (ours[:1] == (classes,) and tuple(theirs[1:]) == tuple(ours[1:])):
            shown = f"{key} is {list(theirs)} in the published weights and {list(ours)} in the network"
            raise ConfigError("model.name", name, f"{shown}; model.config may change no sizes with weights=pretrained")
        fresh.add(key)
    if len(fresh) == len(module.state_dict()):
        raise RunError(f"the weights of {name} are of another network: none of their names fits")
    if fresh:
        log.info("%s: left as initialised: %s", name, ", ".join(sorted(fresh)))
    return returns_logits(module, builder.__name__)


def _lean(config: PretrainedConfig) -> PretrainedConfig:
    """`config` without the cache that generating text needs."""
    for part in (config, config.get_text_config()):
        if hasattr(part, "use_cache"):
            part.use_cache = False
    return config


def returns_logits(model: PreTrainedModel, auto_class: str) -> nn.Module:
    """`model` with a forward pass that returns its logits, a tensor; `auto_class` made it, nothing else is changed.

    Its class is replaced by a subclass of the same name: a module around it would put a prefix before every name.
    """
    kind = type(model)

    @functools.wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        mask = kwargs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.is_meta:
            del kwargs["attention_mask"]  # transformers looks whether anything is masked, where nothing can be seen
        output = kind.forward(self, *args, **kwargs)
        if getattr(output, "logits", None) is None:
            raise ConfigError("model.auto_class", auto_class, "makes a network without logits")
        logits: torch.Tensor = output.logits
        return logits

    model.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    return model


def _check_length(module: nn.Module, tokens: Tokens | None) -> None:
    """Refuse texts longer than the network's table of positions, which would fail at the first long one."""
    if tokens is None:
        return
    for name, part in module.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(part, nn.Embedding) and ("position" in last or last == "wpe"):
            start = 0 if part.padding_idx is None else part.padding_idx + 1  # RoBERTa counts from behind the padding
            if "rel" not in last and tokens.max_length > part.num_embeddings - start:
                room = part.num_embeddings - start
                raise ConfigError("data.max_length", tokens.max_length, f"the network has {room} positions ({name})")


def _preprocessing(place: Place) -> dict[str, Any] | None:
    """What the published weights were trained with, where their folder says so."""
    try:
        values, _ = transformers.image_processing_utils.BaseImageProcessor.get_image_processor_dict(
            place.name, **place.arguments
        )
    except Exception:  # without one, images are prepared in the standard way
        log.info("%s does not say how its images were prepared; ImageNet's way is taken", place.name)
        return None
    found = {name: values[f"image_{name}"] for name in ("mean", "std") if values.get(f"image_{name}") is not None}
    if len(found) < 2:
        return None
    size, crop = values.get("size"), values.get("crop_size")
    crop_pct = values.get("crop_pct") or 1.0
    if isinstance(size, Mapping) and isinstance(crop, Mapping) and size.get("shortest_edge"):
        crop_pct = min(1.0, crop.get("height", 0) / size["shortest_edge"]) or 1.0
    interpolation = _INTERPOLATIONS.get(values.get("resample", 2), "bilinear")
    return {**found, "interpolation": interpolation, "crop_pct": crop_pct}
