"""The parameters that a model itself wants without weight decay, by timm's convention `model.no_weight_decay()`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatch

from torch import Tensor, nn

from lwexp.errors import ConfigError


def listed_by_model(model: nn.Module, parameters: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Those of `parameters` that `no_weight_decay()` of the model, or of a model inside a wrapper, lists.

    Names and globs, as timm reads them; a shared tensor is listed by any of its names.
    """
    listed = {id(p) for p in _listed(model)}
    return tuple(name for name, p in parameters.items() if id(p) in listed)


def _listed(module: nn.Module) -> Iterator[Tensor]:
    # Not by `getattr(module, …)`: a compiled model passes the question on, and its names have a prefix.
    if "no_weight_decay" not in vars(module) and not hasattr(type(module), "no_weight_decay"):
        for child in module.children():
            yield from _listed(child)
        return
    method = module.no_weight_decay
    if not callable(method):
        return
    patterns = method()
    if isinstance(patterns, str) or not isinstance(patterns, Collection):
        raise ConfigError("no_weight_decay", True, f"{type(module).__name__}.no_weight_decay() must return names")
    for name, p in module.named_parameters(remove_duplicate=False):
        if any(fnmatch(name, str(pattern)) for pattern in patterns):
            yield p
