"""The sources of models by name; a module is imported, with its library, when one of its models is asked for."""

from __future__ import annotations

from lwexp.config.schema import ModelConfig
from lwexp.errors import ConfigError

from .blueprint import Blueprint, ModelRequest


def make_blueprint(config: ModelConfig, request: ModelRequest) -> Blueprint:
    """How to build the model of `config` for `request`. Raises `ConfigError`."""
    if config.source == "timm":
        from .timm_source import timm_blueprint as make
    elif config.source == "torchvision":
        from .torchvision_source import torchvision_blueprint as make
    elif config.source == "lstm":
        from .lstm import lstm_blueprint as make
    elif config.source == "custom":
        from .custom_source import custom_blueprint as make
    else:
        try:
            from .huggingface import huggingface_blueprint as make
        except ImportError as error:
            if error.name != "transformers":
                raise
            raise ConfigError("model", "huggingface", "needs transformers: pip install 'lwexp[huggingface]'") from None
    return make(config, request)
