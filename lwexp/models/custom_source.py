"""A class or function of the user's that returns a network."""

from __future__ import annotations

from typing import Any

from lwexp.config.schema import ModelConfig
from lwexp.config.targets import import_object
from lwexp.errors import ConfigError, UnknownOptionError

from .blueprint import Blueprint, ModelRequest, Variant, channel_choices, parameters, required


def custom_blueprint(config: ModelConfig, request: ModelRequest) -> Blueprint:
    """The class or function `config.target`; gets `num_classes`, `in_chans` and `img_size` if it has such arguments.

    For texts: `num_classes`, `vocab_size` and `pad_token_id`; `forward` gets `input_ids` and `attention_mask`. Raises
    `ConfigError` for a path that cannot be imported, and for unknown and missing arguments.
    """
    path = required(config.target, "model._target_")
    target = import_object(path, "model._target_", "class or function that returns a model")
    options = {**config.options, **({} if config.name is None else {"name": config.name})}
    known = parameters(target)
    tokens = request.tokens
    of_texts = {"vocab_size": tokens.vocabulary, "pad_token_id": tokens.pad_id} if tokens else {}
    from_data = {"num_classes", *(of_texts or ("in_chans", "img_size"))} & known.keys()
    for name, value in options.items():
        if name not in known and "**" not in known:
            raise UnknownOptionError(f"model.{name}", value, known, f"{path} has no such argument")
    for name, has_default in known.items():
        if not has_default and name not in options and name not in from_data:
            raise ConfigError(f"model.{name}", "???", f"must be given: {path} needs it")

    def variants(size: int) -> list[Variant]:
        choices = [0] if tokens else channel_choices(request.channels)
        facts: Any = [{"num_classes": request.classes, "in_chans": c, "img_size": size, **of_texts} for c in choices]
        return [Variant(found["in_chans"], {name: found[name] for name in from_data}) for found in facts]

    return Blueprint("model._target_", path, None, options, variants, target)
