"""Optimizers by their short name: any of `torch.optim`, then any of timm's; `torch_<name>`, `timm_<name>` choose.

`muon` is Muon for hidden matrices with AdamW for the rest (`muon.py`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

import torch

from lwexp.errors import ConfigError, UnknownNameError, UnknownOptionError
from lwexp.formatting import one_line

from .fused import FUSED
from .group_checks import check_groups, check_option
from .muon import MuonAdamW

# Optimizers of torch that cannot train in a plain loop, and why.
UNSUPPORTED = {
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
    group_options: Mapping[str, Mapping[str, Any]] | None = None,
    weight_decay: float | None = None,
) -> torch.optim.Optimizer:
    """The optimizer over `groups`; `lr` is only the default that the class requires, every group has its own.

    `weight_decay` is the plan's. `group_options` are the patterns that the groups' own options are from; they are
    checked as `options` are.

    Raises `UnknownNameError` for an unknown name or option and `ConfigError` for what the class itself rejects.
    """
    if not isinstance(optimizer, (str, type)):
        raise ConfigError("optimizer", optimizer, "must be a name or a class; its options are keywords, e.g. eps=1e-8")
    factory: Any = optimizer if isinstance(optimizer, type) else _find(optimizer)
    options = _with_plans(factory, options, weight_decay)
    name = optimizer if isinstance(optimizer, str) else optimizer.__name__
    known = inspect.signature(factory).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for option in options:
        if option in ("params", "lr") or (option not in known and not takes_any):
            choices = [k for k in known if k not in ("params", "lr", "self")]
            raise UnknownOptionError(f"optimizer.{option}", options[option], choices, f"{name} has no such option")
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    by_us = False
    if isinstance(optimizer, str) and options.get("fused", True) is True and not options.get("foreach"):
        by_us = factory in FUSED and not options.keys() & {"fused", "foreach", "differentiable"} and _fusible(groups)
        factory = FUSED.get(factory, factory)
        if by_us:
            options["fused"] = True
    hints = _hints(factory)
    for option, value in options.items():
        _check_type(f"optimizer.{option}", value, hints.get(option))

    def build(chosen: Mapping[str, Any], own: Sequence[dict[str, Any]] = groups) -> torch.optim.Optimizer | Exception:
        try:
            built: torch.optim.Optimizer = factory([dict(group) for group in own], lr=lr, **chosen)
        except Exception as error:
            return error
        if by_us:  # not asked for: frameworks must treat it as torch's default
            built._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return built

    built = build(options)
    if not isinstance(built, Exception):
        if "weight_decay" not in built.defaults and any(group.get("weight_decay") for group in groups):
            value = max(group.get("weight_decay", 0.0) for group in groups)
            raise ConfigError("weight_decay", value, f"{name} has no weight decay")
        usual = [option for option in built.defaults if takes_any or option in known]
        for pattern, written in (group_options or {}).items():
            for option, value in written.items():
                key = f"group_options.{pattern}.{option}"
                check_option(key, value, usual, name)
                _check_type(key, value, hints.get(option))
        check_groups(groups, group_options or {}, lambda own, group: build({**options, **own}, [group]))
        return built
    reason = f"{name} refuses: {one_line(built, None)}"
    for option, value in options.items():
        without = build({key: other for key, other in options.items() if key != option})
        if not isinstance(without, Exception):
            raise ConfigError(f"optimizer.{option}", list(value) if isinstance(value, tuple) else value, reason)
    raise ConfigError("optimizer", name, reason.removeprefix(f"{name} refuses: ")) from built


def _with_plans(factory: Any, options: Mapping[str, Any], weight_decay: float | None) -> Mapping[str, Any]:
    """`options` with the `weight_decay` that the plan's groups are made from; another one is a `ConfigError`."""
    if weight_decay is None or "weight_decay" not in inspect.signature(factory).parameters:
        return options
    given = options.get("weight_decay", weight_decay)
    if given != weight_decay:
        why = f"the plan was made with weight_decay={weight_decay:g}, which its groups have; give it there"
        raise ConfigError("optimizer.weight_decay", given, why)
    return {**options, "weight_decay": weight_decay}


def default_of(optimizer: str, option: str) -> Any:
    """The default of an option of the optimizer with this name; None where it has none."""
    parameter = inspect.signature(_find(optimizer)).parameters.get(option)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _check_type(key: str, value: Any, kinds: set[Any] | None) -> None:
    """Raise `ConfigError` for a value, or an element of a list, not one of the types `kinds`; None if unannotated."""
    for part in value if isinstance(value, tuple) else (value,):
        wanted = None
        if isinstance(part, float) and not math.isfinite(part):
            wanted = "a finite number"
        elif kinds is not None and isinstance(part, (str, bool)) and type(part) not in kinds:
            wanted = "true or false" if bool in kinds else "a number"
        elif kinds is not None and kinds <= {bool, type(None)} and not isinstance(part, (bool, type(None))):
            wanted = "true or false"
        if wanted is not None:
            shown = list(value) if isinstance(value, tuple) else value
            raise ConfigError(key, shown, f"must be {wanted}")


def _hints(factory: Any) -> dict[str, set[Any]]:
    """The types that each annotated argument may have."""
    try:
        hints = get_type_hints(getattr(factory, "__init__") if isinstance(factory, type) else factory)  # noqa: B009
    except Exception:  # annotations that do not resolve
        return {}
    return {name: _members(hint) for name, hint in hints.items() if hint is not Any}


def _members(hint: Any) -> set[Any]:
    """The types in `hint`, at any nesting."""
    inner = get_args(hint)
    return set().union(*(_members(part) for part in inner)) if inner else {hint}


def _find(name: str) -> Any:
    key = name.lower()
    if key == "muon":
        return MuonAdamW
    own = torch_optimizers()
    source, _, rest = key.partition("_")
    key = rest if source in ("torch", "timm") else key
    if source != "timm" and key in UNSUPPORTED:
        raise ConfigError("optimizer", name, f"{UNSUPPORTED[key]}; choose another, e.g. adam")
    if source != "timm" and key in own:
        return own[key]
    try:
        import timm.optim
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        what = "no such optimizer of torch, and timm, which has more, is not installed"
        raise UnknownNameError("optimizer", name, own.keys() - UNSUPPORTED.keys(), what) from error

    others = {str(other) for other in timm.optim.list_optimizers()}  # type: ignore[attr-defined]
    if key not in others or source == "torch":
        raise UnknownNameError(
            "optimizer", name, {*own, *others, "timm_muon"} - UNSUPPORTED.keys(), "no such optimizer"
        )
    try:
        return timm.optim.get_optimizer_class(key, bind_defaults=True)  # type: ignore[attr-defined]
    except AssertionError as error:  # how timm reports a missing package or GPU
        why = one_line(error, None) if str(error) else "cannot be used here"
        raise ConfigError("optimizer", name, why) from error


def _fusible(groups: Sequence[dict[str, Any]]) -> bool:
    """Whether torch's fused kernels take all parameters: floating point, on a device that supports them."""
    return all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps", "xpu") for g in groups for p in g["params"]
    )
