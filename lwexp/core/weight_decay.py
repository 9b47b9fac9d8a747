"""The weight decay of groups, and the parameters without: biases, norms and the model's own list, or patterns."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from torch import Tensor, nn

from lwexp.errors import ConfigError

from .options import at_least, number
from .patterns import first_matches
from .plan_table import PlanGroup


@dataclass(frozen=True)
class WeightDecay:
    """The weight decay of each group from that of the head: weight_decay[i] = base * mult**i [* lr / lr[i]].

    The last factor, if `independent`, keeps lr[i] * weight_decay[i], by which a step of AdamW or SGD shrinks the
    weights, the same in all groups. A group at rate 0 does not shrink. Without `base` groups have the optimizer's.
    """

    base: float | None
    mult: float
    independent: bool

    @classmethod
    def of(cls, weight_decay: float | None, weight_decay_mult: float, independent_weight_decay: bool) -> WeightDecay:
        """From the settings; raises `ConfigError` where they are out of range or would change nothing."""
        number("weight_decay_mult", weight_decay_mult)
        at_least("weight_decay_mult", weight_decay_mult, 0, strictly=True)
        if not isinstance(independent_weight_decay, bool):
            raise ConfigError("independent_weight_decay", independent_weight_decay, "must be true or false")
        if weight_decay is not None:
            number("weight_decay", weight_decay)
            at_least("weight_decay", weight_decay, 0)
        if weight_decay_mult != 1 or independent_weight_decay:
            if weight_decay_mult != 1:
                key, value = "weight_decay_mult", float(weight_decay_mult)
            else:
                key, value = "independent_weight_decay", independent_weight_decay
            if not weight_decay:
                why = "is 0" if weight_decay is not None else "must be given with it: that of the head"
                raise ConfigError(key, value, f"weight_decay {why}")
        base = None if weight_decay is None else float(weight_decay)
        return cls(base, float(weight_decay_mult), independent_weight_decay)

    def of_group(self, group: PlanGroup, lr: float, first: int) -> float | None:
        """That of `group`; `lr` is the base rate, `first` the index at which the decay begins to count."""
        if self.base is None:
            return None
        scale: float = self.mult ** max(group.index - first, 0)
        if self.independent and group.lr > 0:
            scale *= lr / group.lr
        return self.base * scale


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
