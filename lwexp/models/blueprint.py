"""How a source of models describes one model: what `models/build.py` tries on the meta device, then builds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lwexp.data import Tokens
from lwexp.errors import ConfigError, RunError
from lwexp.formatting import one_line


@dataclass(frozen=True)
class ModelRequest:
    """What the data need: `channels` of images, or `tokens` of texts; `tag` picks one of several published weights.

    `from_file`: weights of a file follow.
    """

    channels: int
    classes: int
    pretrained: bool
    tag: str | None
    tokens: Tokens | None = None
    from_file: bool = False

    @property
    def trained(self) -> bool:
        """Whether the model begins with trained weights."""
        return self.pretrained or self.from_file


@dataclass(frozen=True)
class Variant:
    """One form of a model: its input channels, and the builder's arguments besides the user's options."""

    channels: int
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Blueprint:
    """How to build one model; `load` is `create` with published weights.

    `load` also gives the names of the parameters that it did not fill; `unfilled` gives them for a model on the meta
    device, as far as they are known before loading.
    """

    key: str  # with `label`: config key and value in errors about the model as a whole
    label: str
    own_size: int | None  # the image size the model was made for
    options: dict[str, Any]
    variants: Callable[[int], Sequence[Variant]]  # for an image size, in order of preference
    create: Callable[..., Any]
    load: Callable[..., tuple[nn.Module, frozenset[str]]] | None = None
    unfilled: Callable[[nn.Module], frozenset[str]] | None = None
    preprocessing: Callable[[nn.Module], dict[str, Any]] | None = None  # of trained weights
    options_key: str = "model"  # the config key above `options`
    refusal: str | None = None  # why the model can be previewed but not trained


def parameters_among(module: nn.Module, names: Iterable[str]) -> frozenset[str]:
    """Those of `names` that are parameters of `module`; of a tied one its first name, as in a plan."""
    every = dict(module.named_parameters(remove_duplicate=False))
    ids = {id(every[name]) for name in names if name in every}
    return frozenset(name for name, parameter in module.named_parameters() if id(parameter) in ids)


def channel_choices(channels: int) -> list[int]:
    """Input channels to try, in order: the data's, else three copies of a single one."""
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


def required(value: str | None, key: str) -> str:
    """`value` of the config key `key`. Raises `ConfigError` where it is missing."""
    if value is None or value == "???":
        raise ConfigError(key, "???", "must be given")
    return value


def loading_failed(name: str, error: Exception, published: Iterable[str]) -> RunError:
    """The error for published weights that cannot be downloaded or read; `published` are the choices."""
    reason = one_line(error, kind=True)
    return RunError(f"the weights of {name} could not be loaded: {reason}; published: {', '.join(published)}")
