"""Configs of transformers' networks: found by class name or published with weights, checked, and fitted to the data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import transformers
from transformers import PretrainedConfig
from transformers.models.auto import configuration_auto

from lwexp.config.hub import Place, quiet
from lwexp.errors import ConfigError, UnknownNameError, UnknownOptionError
from lwexp.formatting import one_line

if TYPE_CHECKING:
    from lwexp.data import Tokens

CONFIG_CLASSES: dict[str, str] = configuration_auto.CONFIG_MAPPING_NAMES  # type: ignore[attr-defined]
_NO_ARGUMENTS = ("self", "transformers_version", "architectures", "return_dict", "dtype", "problem_type", "kwargs")


def config_class(name: str) -> type[PretrainedConfig]:
    """The config class of that name; `UnknownNameError` for others."""
    known = set(CONFIG_CLASSES.values())
    if name not in known:
        alike = [other for other in known if other.lower() == name.lower()]
        raise UnknownNameError("model.config_class", name, alike or known, "no such config class")
    found: type[PretrainedConfig] = getattr(transformers, name)
    return found


def known_arguments(kind: type[PretrainedConfig]) -> list[str]:
    """The arguments of a config class, also by the names that all classes share (`hidden_size` for `n_embd`)."""
    own = [name for name in inspect.signature(kind.__init__).parameters if name not in _NO_ARGUMENTS]
    return [*own, "num_labels", *kind.attribute_map]


def check_arguments(
    kind: type[PretrainedConfig], given: Mapping[str, Any], reserved: Mapping[str, str], key: str = "model.config"
) -> None:
    """Refuse arguments that `kind` lacks, with the nearest names, and `reserved` ones; those of nested configs too."""
    known = known_arguments(kind)
    for name, value in given.items():
        if name in reserved and name in known:
            raise ConfigError(f"{key}.{name}", value, reserved[name])
        if name not in known:
            choices = [other for other in known if other not in reserved]
            raise UnknownOptionError(f"{key}.{name}", value, choices, f"{kind.__name__} has no such argument")
        nested = kind.sub_configs.get(name)
        if nested is not None and isinstance(value, Mapping) and not nested.__name__.startswith("Auto"):
            check_arguments(nested, value, reserved, f"{key}.{name}")


def published_config(name: str, place: Place, **changes: Any) -> PretrainedConfig:
    """The config at `place`, with `changes`; no code that it brings is run."""
    try:
        with quiet():
            found: PretrainedConfig = transformers.AutoConfig.from_pretrained(
                place.name, trust_remote_code=False, **place.arguments, **changes
            )
    except Exception as error:  # a folder without config, a damaged one, one that asks to run its own code
        raise ConfigError("model.name", name, f"its config cannot be read: {one_line(error, kind=True)}") from error
    return found


def fit_tokens(config: PretrainedConfig, tokens: Tokens | None) -> None:
    """The vocabulary and the special tokens of the tokenizer."""
    if tokens is None:
        return
    part = config.get_text_config()
    part.vocab_size = tokens.vocabulary
    for name in ("pad", "bos", "eos", "cls", "sep", "mask"):
        key = f"{name}_token_id"
        if hasattr(part, key):
            setattr(part, key, getattr(tokens.tokenizer, key, None))
    config.pad_token_id = tokens.pad_id
    if config.is_encoder_decoder:
        config.decoder_start_token_id = tokens.pad_id


def fit_images(config: PretrainedConfig, facts: Mapping[str, Any]) -> None:
    """The images' size and channels, in the nested config of an image encoder where there is one."""
    part: Any = getattr(config, "vision_config", config)
    for name, value in facts.items():
        if hasattr(part, name):
            pair = isinstance(getattr(part, name), (list, tuple))
            setattr(part, name, [value, value] if pair else value)


def own_size_of(config: PretrainedConfig) -> int | None:
    """The image size that `config` was made for."""
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    if isinstance(size, (list, tuple)):
        size = size[0]
    return int(size) if isinstance(size, int) else None
