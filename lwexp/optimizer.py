"""Optimizers by their short name: any of `torch.optim`, then any of timm's."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .errors import ConfigError, UnknownNameError, UnknownOptionError

# torch names that cannot train in a plain loop, and why
_UNFIT = {
    "lbfgs": "needs a closure and a single group",
    "sparseadam": "takes sparse gradients only",
}


def torch_optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """The optimizers of `torch.optim` by lower-case name."""
    found = {}
    for name, value in vars(torch.optim).items():
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer:
            found[name.lower()] = value
    return found


def make_optimizer(
    optimizer: str | type[torch.optim.Optimizer],
    groups: Sequence[dict[str, Any]],
    *,
    lr: float,
    options: Mapping[str, Any],
) -> torch.optim.Optimizer:
    """The optimizer over `groups`; `lr` is only the default that the class asks for, every group has its own.

    Raises `UnknownNameError` for an unknown name or option and `ConfigError` for what the class itself refuses.
    """
    factory: Any = optimizer if isinstance(optimizer, type) else _find(optimizer)
    name = optimizer if isinstance(optimizer, str) else optimizer.__name__
    known = inspect.signature(factory).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for option in options:
        if option in ("params", "lr") or (option not in known and not takes_any):
            choices = [k for k in known if k not in ("params", "lr", "self")]
            raise UnknownOptionError(f"optimizer.{option}", options[option], choices, f"{name} has no such option")
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    if "fused" in known and not options.keys() & {"fused", "foreach", "differentiable"} and _fusible(groups):
        options["fused"] = True
    try:
        built: torch.optim.Optimizer = factory(groups, lr=lr, **options)
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise ConfigError("optimizer", name, " ".join(str(error).split())) from error
    return built


def _find(name: str) -> Any:
    own = torch_optimizers()
    key = name.lower()
    if key in _UNFIT:
        raise ConfigError("optimizer", name, f"{_UNFIT[key]}; choose another, e.g. adam")
    if key in own:
        return own[key]
    import timm.optim

    others = {str(other) for other in timm.optim.list_optimizers()}  # type: ignore[attr-defined]
    if key not in others:
        raise UnknownNameError("optimizer", name, {*own, *others} - _UNFIT.keys(), "no such optimizer")
    return timm.optim.get_optimizer_class(key, bind_defaults=True)  # type: ignore[attr-defined]


def _fusible(groups: Sequence[dict[str, Any]]) -> bool:
    """Whether torch's fused kernels take all parameters: floating point, on a device that has them."""
    return all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps", "xpu") for g in groups for p in g["params"]
    )
