"""The parameters without weight decay: biases, norms and the model's own list, or what patterns name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatch

from torch import Tensor, nn

from lwexp.errors import ConfigError

from .patterns import first_matches


def undecayed_names(
    model: nn.Module, parameters: Mapping[str, Tensor], no_weight_decay: bool | Sequence[str]
) -> tuple[set[str], tuple[str, ...]]:
    """All parameters without weight decay, and those among them that patterns or the model itself name.

    `no_weight_decay`: patterns; or True: biases, parameters of at most one dimension, and what the model lists.
    """
    if not isinstance(no_weight_decay, bool):
        covered = first_matches([*no_weight_decay], [*parameters], "no_weight_decay")
        listed = tuple(name for name in parameters if name in covered)
        return {*listed}, listed
    if not no_weight_decay:
        return set(), ()
    listed = listed_by_model(model, parameters)
    return {n for n, p in parameters.items() if p.ndim <= 1 or n.endswith(".bias")}.union(listed), listed


def listed_by_model(model: nn.Module, parameters: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Those of `parameters` that `no_weight_decay()` of the model, or of a model inside a wrapper, lists.

    timm's convention: names and globs; a shared tensor is listed by any of its names.
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
