"""Networks of the `transformers` library: published ones by name, or any config class, offline.

What it does not document (`_model_mapping` of the Auto classes) exists in transformers 5.0 to 5.24.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from lwexp.config.hub import HubEntry, find_on_hub, quiet
from lwexp.config.schema import ModelConfig
from lwexp.errors import ConfigError, RunError, UnknownNameError, nearest
from lwexp.formatting import one_line

from .blueprint import Blueprint, ModelRequest, Variant, channel_choices, parameters_among
from .file_preprocessing import of_image_processor
from .huggingface_config import (
    check_arguments,
    config_class,
    fit_images,
    fit_tokens,
    own_size_of,
    published_config,
    unfilled_by,
)

if TYPE_CHECKING:
    from lwexp.data import Tokens

log = logging.getLogger(__name__)
OPTIONS = ("config_class", "config", "auto_class")
AUTO = {"input_ids": "AutoModelForSequenceClassification", "pixel_values": "AutoModelForImageClassification"}
KINDS = {"input_ids": "texts", "pixel_values": "images"}
# Config arguments that the user may not set, and why.
FROM_DATA = {
    **dict.fromkeys(("num_labels", "id2label", "label2id", "num_channels"), "follows from the data"),
    "image_size": "is set by data.image_size",
    **dict.fromkeys(("vocab_size", "pad_token_id"), "follows from the tokenizer"),
}


def huggingface_blueprint(config: ModelConfig, request: ModelRequest) -> Blueprint:
    """The classifier of texts or images that `config` names. Raises `ConfigError`."""
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
        return _from_class(str(class_name), arguments, auto, request)
    return _from_name(str(config.name), arguments, auto, request)


def _from_class(class_name: str, given: dict[str, Any], auto: str | None, request: ModelRequest) -> Blueprint:
    if request.pretrained:
        raise ConfigError("weights", "pretrained", "none are published for model.config_class; give model.name")
    kind = config_class(class_name)
    check_arguments(kind, given, FROM_DATA)
    builder = _builder(kind, "model.config_class", class_name, auto, request)

    def create(**arguments: Any) -> nn.Module:
        own, facts = _split_arguments(arguments)
        config = kind(**own)
        fit_images(config, facts)
        fit_tokens(config, request.tokens)
        return _create(builder, config, request.tokens)

    variants = functools.partial(_variants, request)
    own_size = None if request.tokens else own_size_of(kind())
    return Blueprint("model.config_class", class_name, own_size, given, variants, create, options_key="model.config")


def _from_name(name: str, given: dict[str, Any], auto: str | None, request: ModelRequest) -> Blueprint:
    entry = find_on_hub(name, "model.name", revision=request.tag)
    published = published_config(name, entry)
    kind = type(published)
    check_arguments(kind, given, FROM_DATA)
    builder = _builder(kind, "model.name", name, auto, request)

    def config_with(arguments: dict[str, Any]) -> PretrainedConfig:
        own, facts = _split_arguments(arguments)
        config = published_config(name, entry, **own)
        fit_images(config, facts)
        if request.tokens is not None:
            config.pad_token_id = request.tokens.pad_id
            size = int(config.get_text_config().vocab_size)
            if request.tokens.vocabulary > size and request.pretrained:
                many = f"has {request.tokens.vocabulary} tokens, the weights of {name} are for {size}"
                raise ConfigError("data.tokenizer", request.tokens.label, many)
            config.get_text_config().vocab_size = max(size, request.tokens.vocabulary)
        return config

    def create(**arguments: Any) -> nn.Module:
        return _create(builder, config_with(arguments), request.tokens)

    def load(**arguments: Any) -> tuple[nn.Module, frozenset[str]]:
        module, new_names = _load_published(builder, name, entry, config_with(arguments), request.classes)
        _check_length(module, request.tokens)
        return module, new_names

    def variants(size: int) -> list[Variant]:
        if not request.pretrained:
            return _variants(request, size)
        channels = 0 if request.tokens else int(getattr(published, "num_channels", 3))
        return [Variant(channels, {"num_labels": request.classes})]  # the published sizes are those of the weights

    own_size = None if request.tokens else own_size_of(published)
    how: dict[str, Any] = {"options_key": "model.config"}
    if request.pretrained:
        how |= {"load": load, "unfilled": functools.partial(unfilled_by, published)}
    if request.trained:
        found = None if request.tokens else _preprocessing(entry)
        how["preprocessing"] = (lambda module: found) if found else None
    return Blueprint("model.name", name, own_size, given, variants, create, **how)


def _variants(request: ModelRequest, size: int) -> list[Variant]:
    """Number of classes, and for images channels and size, which `fit_images` writes into the config."""
    labels = {"num_labels": request.classes}
    if request.tokens is not None:
        return [Variant(0, labels)]
    return [Variant(c, {**labels, "num_channels": c, "image_size": size}) for c in channel_choices(request.channels)]


def _split_arguments(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the config, and what `_variants` adds about the images."""
    facts: dict[str, Any] = {name: arguments.pop(name) for name in ("num_channels", "image_size") if name in arguments}
    return arguments, facts


def _builder(kind: type[PretrainedConfig], key: str, value: str, auto: str | None, request: ModelRequest) -> Any:
    """The Auto class that makes a classifier of `kind`. Raises `ConfigError` for one of other data."""
    takes = "pixel_values" if request.tokens is None else "input_ids"
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
    """The network class that the Auto class `auto` makes of config class `kind`."""
    mapping = getattr(transformers, auto)._model_mapping
    if kind not in mapping:
        return None
    found = mapping[kind]
    network: type[PreTrainedModel] = found[0] if isinstance(found, (list, tuple)) else found
    return network


def _create(builder: Any, config: PretrainedConfig, tokens: Tokens | None) -> nn.Module:
    with quiet():
        module = builder.from_config(_lean(config), dtype=torch.float32, trust_remote_code=False)
    _check_length(module, tokens)
    return returns_logits(module, builder.__name__)


def _load_published(
    builder: Any, name: str, entry: HubEntry, config: PretrainedConfig, classes: int
) -> tuple[nn.Module, frozenset[str]]:
    """The model with published weights, and the parameters that these do not have or have for other classes."""
    try:
        with quiet():
            module, found = builder.from_pretrained(
                entry.name,
                config=_lean(config),
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
                **entry.arguments,
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
        raise RunError(f"the weights of {name} are of another network: none of their names match")
    if fresh:
        log.info("%s: randomly initialized: %s", name, ", ".join(sorted(fresh)))
    return returns_logits(module, builder.__name__), parameters_among(module, fresh)


def _lean(config: PretrainedConfig) -> PretrainedConfig:
    """`config` without the cache for text generation."""
    for part in (config, config.get_text_config()):
        if hasattr(part, "use_cache"):
            part.use_cache = False
    return config


def returns_logits(model: PreTrainedModel, auto_class: str) -> nn.Module:
    """Make `forward` of `model` return its logits, a tensor; `auto_class` is named in an error.

    The class is replaced by a subclass of the same name: a wrapping module would prefix all parameter names.
    """
    kind = type(model)

    @functools.wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        mask = kwargs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.is_meta:
            del kwargs["attention_mask"]  # transformers checks its values, which a meta tensor lacks
        output = kind.forward(self, *args, **kwargs)
        if getattr(output, "logits", None) is None:
            raise ConfigError("model.auto_class", auto_class, "makes a network without logits")
        logits: torch.Tensor = output.logits
        return logits

    model.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    return model


def auto_class_of(config: ModelConfig, module: nn.Module) -> str:
    """The Auto class that made `module` of `config`."""
    takes = str(getattr(module, "main_input_name", "pixel_values"))
    return str(config.options.get("auto_class") or AUTO[takes])


def from_recorded(values: Mapping[str, Any], auto_class: str) -> nn.Module:
    """The network of a recorded config, `config.to_dict()`, with random weights. Raises `ConfigError`."""
    try:
        if auto_class not in (name for name in dir(transformers) if name.startswith("AutoModel")):
            raise ValueError(f"transformers has no {auto_class}")
        own = {key: value for key, value in values.items() if not (key == "loss_type" and value is None)}  # it warns
        config = transformers.CONFIG_MAPPING[str(values["model_type"])].from_dict(own)
        return _create(getattr(transformers, auto_class), config, None)
    except ConfigError:
        raise
    except Exception as error:  # another version of transformers, or a damaged record
        why = f"cannot be built by transformers {transformers.__version__}: {one_line(error, kind=True)}"
        raise ConfigError("model", values.get("model_type"), why) from error


def _check_length(module: nn.Module, tokens: Tokens | None) -> None:
    """Raise `ConfigError` if texts may be longer than the network's position embeddings."""
    if tokens is None:
        return
    for name, part in module.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(part, nn.Embedding) and ("position" in last or last == "wpe"):
            start = 0 if part.padding_idx is None else part.padding_idx + 1  # RoBERTa's start after the padding
            if "rel" not in last and tokens.max_length > part.num_embeddings - start:
                room = part.num_embeddings - start
                raise ConfigError("data.max_length", tokens.max_length, f"the network has {room} positions ({name})")


def _preprocessing(entry: HubEntry) -> dict[str, Any] | None:
    """Preprocessing that the published weights were trained with; None where it is not published."""
    try:
        values, _ = transformers.image_processing_utils.BaseImageProcessor.get_image_processor_dict(
            entry.name, **entry.arguments
        )
    except Exception:  # without one, the standard preprocessing applies
        log.info("%s does not publish its image preprocessing; ImageNet's is used", entry.name)
        return None
    return of_image_processor(values)
