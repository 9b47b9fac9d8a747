"""Decays `(index, count) -> scale`: the fraction of the base rate that each group gets.

`index` counts groups from the head (0), `count` is their number. A decay knows nothing about models or steps.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

from lwexp.errors import ConfigError, UnknownNameError, UnknownOptionError
from lwexp.formatting import one_line

from .measured import RULES
from .options import at_least, between, check_options, number, rate

Decay = Callable[[int, int], float]
# For editors and type checkers: the keys of DECAYS, ALIASES and RULES, and all options of the first.
DecayName = Literal[
    "linear", "arithmetic", "polynomial", "cosine", "none", "explicit", "geometric", "layer_decay",
    "auto_rgn", "auto_snr", "temp_balance", "heavy_tail", "hypergradient", "update_ratio", "auto_lr", "finder",
]  # fmt: skip


class DecayOptions(TypedDict, total=False):
    """`decay_options` of the decays that have a name."""

    mult: float  # linear
    head_steps: int | None
    min_scale: float  # arithmetic, polynomial, cosine
    power: float  # polynomial
    rates: Mapping[str, float]  # explicit
    stem_lr: float | None  # in place of `mult` or `min_scale`


def linear(*, mult: float, head_steps: int | None = None) -> Decay:
    """A constant multiplier per group: scale = mult**index.

    `head_steps` (at least 0) is the exponent of the group after the head; 1, the default, is one step like all others.
    With 0 it has the head's rate, as in Sun et al. 2019 (arXiv:1905.05583), with 2 there is a step more, as in ELECTRA.

    The name is the tutorial's; elsewhere this is called geometric or exponential layer decay, as `layer_decay` in BEiT
    (arXiv:2106.08254) and ELECTRA (arXiv:2003.10555). ULMFiT (arXiv:1801.06146) uses mult = 1/2.6.

    >>> [round(linear(mult=0.9)(i, 4), 6) for i in range(4)]
    [1.0, 0.9, 0.81, 0.729]
    >>> [round(linear(mult=0.9, head_steps=2)(i, 3), 6) for i in range(3)]
    [1.0, 0.81, 0.729]
    """
    at_least("mult", mult, 0, strictly=True)
    first = 1 if head_steps is None else head_steps
    at_least("decay.head_steps", first, 0)
    return lambda index, count: mult ** (index + first - 1) if index else 1.0


def arithmetic(*, min_scale: float = 0.1) -> Decay:
    """Equal steps from 1 at the head down to `min_scale` (0 to 1) at the stem.

    >>> [round(arithmetic(min_scale=0.1)(i, 4), 6) for i in range(4)]
    [1.0, 0.7, 0.4, 0.1]
    """
    return polynomial(power=1.0, min_scale=min_scale)


def polynomial(*, power: float = 2.0, min_scale: float = 0.1) -> Decay:
    """scale = min_scale + (1 - min_scale) * (1 - p)**power, with p = index / (count - 1).

    `power` > 0; 1 is the arithmetic decay. `min_scale` (0 to 1) is the stem's.

    >>> [round(polynomial(power=2, min_scale=0)(i, 3), 6) for i in range(3)]
    [1.0, 0.25, 0.0]
    """
    at_least("decay.power", power, 0, strictly=True)
    between("decay.min_scale", min_scale, 0, 1)
    return lambda index, count: min_scale + (1 - min_scale) * (1 - _progress(index, count)) ** power


def cosine(*, min_scale: float = 0.1) -> Decay:
    """scale = min_scale + (1 - min_scale) * (1 + cos(pi * p)) / 2, with p = index / (count - 1).

    >>> [round(cosine(min_scale=0)(i, 3), 6) for i in range(3)]
    [1.0, 0.5, 0.0]
    """
    between("decay.min_scale", min_scale, 0, 1)
    return lambda index, count: min_scale + (1 - min_scale) * (1 + math.cos(math.pi * _progress(index, count))) / 2


def none() -> Decay:
    """The same rate for every group: scale = 1."""
    return lambda index, count: 1.0


def explicit(*, rates: Mapping[str, float]) -> Decay:
    """Scale 1 everywhere; parameters that match `rates` (pattern -> absolute rate) get that rate from the plan.

    Others keep the base rate, as torch gives a param group without `lr` the optimizer's default.
    """
    return lambda index, count: 1.0


DECAYS: dict[str, Callable[..., Decay]] = {
    "linear": linear,
    "arithmetic": arithmetic,
    "polynomial": polynomial,
    "cosine": cosine,
    "none": none,
    "explicit": explicit,
}


ALIASES: dict[str, DecayName] = {
    "geometric": "linear",
    "layer_decay": "linear",
}  # names that other libraries have for them
_STEM = {"linear": "mult", "arithmetic": "min_scale", "polynomial": "min_scale", "cosine": "min_scale"}


def with_ends(decay: object, options: Mapping[str, Any], *, lr: float, count: int) -> dict[str, Any]:
    """`options` with the one that follows from the rates at both ends in the place of `stem_lr`.

    `stem_lr` is the absolute rate of the last of `count` groups, `lr` that of the first:
    mult = (stem_lr / lr) ** (1 / (count - 1)), and for the other decays min_scale = stem_lr / lr. Raises `ConfigError`
    where that option is given as well and differs.

    >>> with_ends("linear", {"stem_lr": 1e-5}, lr=1e-3, count=3)
    {'mult': 0.1}
    >>> with_ends("cosine", {"stem_lr": 1e-4}, lr=1e-3, count=3)
    {'min_scale': 0.1}
    """
    option = _STEM.get(decay) if isinstance(decay, str) else None
    if option is None or "stem_lr" not in options:
        return dict(options)
    others = {key: value for key, value in options.items() if key != "stem_lr"}
    key, stem_lr = "decay.stem_lr", options["stem_lr"]
    if stem_lr is None:
        return others
    ratio = rate(key, stem_lr) / lr
    if option == "mult":
        at_least(key, stem_lr, 0, strictly=True)
    elif ratio > 1:
        raise ConfigError(key, stem_lr, f"must be at most lr={lr:g} with decay={decay}; decay=linear can rise")
    if count < 2 and ratio != 1:
        raise ConfigError(key, stem_lr, f"there is one group, whose rate is lr={lr:g}; a finer grouping has two ends")
    steps = count - 2 + (1 if others.get("head_steps") is None else int(others["head_steps"]))  # of the last group
    value = ratio if option == "min_scale" else ratio ** (1 / steps) if count > 1 and steps > 0 else 1.0
    given = others.get(option)
    if given is not None and not math.isclose(number(f"decay.{option}", given), value, rel_tol=1e-6):
        why = f"lr={lr:g} and {count} groups make {option}={value:.6g}, but {option}={given:g} is given; drop one"
        raise ConfigError(key, stem_lr, why)
    return {**others, option: value}


def make_decay(decay: str | Decay, options: Mapping[str, object]) -> Decay:
    """The decay of a name, or the given callable; it raises `ConfigError` for a negative or non-finite scale."""
    if callable(decay):
        if options:
            raise UnknownOptionError(f"decay.{next(iter(options))}", next(iter(options.values())), ())
        return _check_scales(decay)
    if not isinstance(decay, str):
        why = "must be a name or a callable (index, count) -> scale; its options are decay_options={...}"
        raise ConfigError("decay", decay, why)
    decay = ALIASES.get(decay, decay)
    if decay not in DECAYS:
        raise UnknownNameError("decay", decay, {*DECAYS, *ALIASES, *RULES}, "no such decay")
    function = DECAYS[decay]
    choices = [*inspect.signature(function).parameters, *(["stem_lr"] if decay in _STEM else [])]
    return _check_scales(function(**check_options(function, options, "decay", choices)))


def _check_scales(decay: Decay) -> Decay:
    def scale(index: int, count: int) -> float:
        try:
            value = float(decay(index, count))
        except OverflowError:
            value = math.inf
        except Exception as error:  # a function of the user's own
            reason = f"fails for group {index}: {one_line(error, kind=True)}"
            raise ConfigError("decay", getattr(decay, "__name__", decay), reason) from error
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError("decay", value, f"the scale of group {index} of {count} must be finite and at least 0")
        return value

    return scale


def _progress(index: int, count: int) -> float:
    """0 at the head, 1 at the stem."""
    return index / (count - 1) if count > 1 else 0.0
