"""Configs of transformers' networks: by class name or published, checked, and adapted to the data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto import configuration_auto

from lwexp.config.hub import HubEntry, quiet
from lwexp.errors import ConfigError, UnknownNameError, UnknownOptionError
from lwexp.formatting import one_line

from .blueprint import parameters_among

if TYPE_CHECKING:
    from lwexp.data import Tokens

CONFIG_CLASSES: dict[str, str] = configuration_auto.CONFIG_MAPPING_NAMES  # type: ignore[attr-defined]
_NO_ARGUMENTS = ("self", "transformers_version", "architectures", "return_dict", "dtype", "problem_type", "kwargs")


def config_class(name: str) -> type[PretrainedConfig]:
    """The config class `name`. Raises `UnknownNameError`."""
    known = set(CONFIG_CLASSES.values())
    if name not in known:
        alike = [other for other in known if other.lower() == name.lower()]
        raise UnknownNameError("model.config_class", name, alike or known, "no such config class")
    found: type[PretrainedConfig] = getattr(transformers, name)
    return found


def known_arguments(kind: type[PretrainedConfig]) -> list[str]:
    """Arguments of a config class, and their common aliases (`hidden_size` for `n_embd`)."""
    own = [name for name in inspect.signature(kind.__init__).parameters if name not in _NO_ARGUMENTS]
    return [*own, "num_labels", *kind.attribute_map]


def check_arguments(
    kind: type[PretrainedConfig], given: Mapping[str, Any], reserved: Mapping[str, str], key: str = "model.config"
) -> None:
    """Raise `ConfigError` for arguments that `kind` lacks and for `reserved` ones, in nested configs too."""
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


def published_config(name: str, entry: HubEntry, **changes: Any) -> PretrainedConfig:
    """The config at `place`, with `changes`; none of its own code runs."""
    try:
        with quiet():
            found: PretrainedConfig = transformers.AutoConfig.from_pretrained(
                entry.name, trust_remote_code=False, **entry.arguments, **changes
            )
    except Exception as error:  # no config, a damaged one, or one that needs its own code
        raise ConfigError("model.name", name, f"its config cannot be read: {one_line(error, kind=True)}") from error
    return found


def unfilled_by(published: PretrainedConfig, module: nn.Module) -> frozenset[str]:
    """The parameters of `module` that weights published with the config `published` probably do not have.

    Those of the network that the config names as published, compared by name and shape; where transformers does not
    have it, all outside the base model. Loading then says exactly.
    """
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    own = dict(module.named_parameters(remove_duplicate=False))
    network = getattr(transformers, published.architectures[0], None) if published.architectures else None
    if network is None:
        return parameters_among(module, (name for name in own if not name.startswith(prefix)))
    with quiet(), torch.random.fork_rng(devices=[]), torch.device("meta"):
        made = network(published)
    theirs = {name.removeprefix(prefix): p.shape for name, p in made.named_parameters(remove_duplicate=False)}
    return parameters_among(module, (n for n, p in own.items() if theirs.get(n.removeprefix(prefix)) != p.shape))


def fit_tokens(config: PretrainedConfig, tokens: Tokens | None) -> None:
    """Set vocabulary size and special tokens to those of the tokenizer."""
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
    """Set image size and channels, in the nested config of an image encoder where there is one."""
    part: Any = getattr(config, "vision_config", config)
    for name, value in facts.items():
        if hasattr(part, name):
            pair = isinstance(getattr(part, name), (list, tuple))
            setattr(part, name, [value, value] if pair else value)


def own_size_of(config: PretrainedConfig) -> int | None:
    """The image size that `config` was made for; None if it has none."""
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    if isinstance(size, (list, tuple)):
        size = size[0]
    return int(size) if isinstance(size, int) else None
