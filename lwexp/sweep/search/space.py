"""The search space: Hydra's sweep syntax (`interval`, `range`, `choice`, `tag`) as Optuna's distributions.

The syntax is that of grids, so `range(1,4)` is 1, 2, 3 here too. `mult`, `lr` and `decay.stem_lr` are drawn on a log
scale without a tag: equal steps of log(mult) multiply the stem's rate, lr * mult**(groups - 1), by equal factors, as
equal steps of log(lr) multiply the head's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString, RangeSweep, Sweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lwexp.errors import ConfigError, UnknownNameError
from lwexp.sweep.points import text_of

_LOG = ("mult", "decay.mult", "decay.stem_lr", "lr")
_TAGS = ("log", "linear")
_RESOLUTION = 2000  # a drawn number is rounded by less than this part of its interval


@dataclass(frozen=True)
class Space:
    """`searched`: a distribution for each override's key; `constants`: overrides of every job.

    `seeds`: those that each trial is run with, as given on the command line; empty if not set.
    """

    searched: Mapping[str, BaseDistribution]
    constants: tuple[str, ...]
    seeds: tuple[int, ...] = ()

    def shown(self, drawn: Mapping[str, Any]) -> dict[str, str]:
        """The drawn values as overrides have them."""
        return {key: _shown(value, self.searched[key]) for key, value in drawn.items()}


def parse_space(overrides: Sequence[Override]) -> Space:
    """The space of `overrides`; the last override of a key wins.

    Several values of `seed` are not searched: every trial runs with each. Raises `ConfigError` for an invalid space.
    """
    searched: dict[str, BaseDistribution] = {}
    constants: list[str] = []
    seeds: tuple[int, ...] = ()
    for override in _last_of_each(overrides):
        key = override.get_key_element()
        if not override.is_sweep_override():
            constants.append(text_of(override))
        elif key == "seed":
            seeds = _seeds(override)
        else:
            searched[key] = _distribution(override)
    return Space(searched, tuple(constants), seeds)


def _last_of_each(overrides: Sequence[Override]) -> list[Override]:
    """`overrides` without those that later ones of the same key replace. Mappings add to what is there."""
    kept: list[Override] = []
    for override in overrides:
        if not isinstance(override.value(), dict):
            kept = [earlier for earlier in kept if earlier.key_or_group != override.key_or_group]
        kept.append(override)
    return kept


def quoted(text: str) -> str:
    """`text` as the value of an override."""
    return QuotedString(text, Quote.single).with_quotes()


def _distribution(override: Override) -> BaseDistribution:
    key, value = override.key_or_group, override.value()
    tags = value.tags if isinstance(value, Sweep) else set()
    for tag in sorted(tags.difference(_TAGS)):
        raise UnknownNameError(key, tag, _TAGS, "no such tag")
    log = "log" in tags or (key in _LOG and "linear" not in tags)
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        return _interval(key, value.start, value.end, log)
    if isinstance(value, RangeSweep) and not value.shuffle:
        if "log" in tags:
            raise ConfigError(key, _text(override), "a range has equal steps; a log scale is for interval(…)")
        return _range(key, list(value.range()), abs(value.step), _text(override))
    choices = list(override.sweep_string_iterator())
    if not choices:
        raise ConfigError(key, _text(override), "holds no value")
    return CategoricalDistribution(choices)


def _interval(key: str, low: float, high: float, log: bool) -> BaseDistribution:
    shown = f"interval({low},{high})"
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(key, shown, "goes from a number to a larger one")
    if log and low <= 0:
        raise ConfigError(key, shown, f"a log scale starts above 0; use tag(linear,{shown}) for a linear one")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _range(key: str, values: list[Any], step: float, shown: str) -> BaseDistribution:
    if not values:
        raise ConfigError(key, shown, "holds no value")
    low, high = min(values), max(values)
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high, step=int(step))
    return FloatDistribution(low, high, step=float(step))


def _seeds(override: Override) -> tuple[int, ...]:
    why = "a search takes a list of seeds: seed=0,1,2"
    if not override.is_discrete_sweep():
        raise ConfigError("seed", _text(override), why)
    values = list(override.sweep_iterator())
    if not values or any(isinstance(seed, bool) or not isinstance(seed, int) for seed in values):
        raise ConfigError("seed", _text(override), why)
    return tuple(dict.fromkeys(int(str(seed)) for seed in values))


def _shown(value: Any, distribution: BaseDistribution) -> str:
    """A value of a continuous distribution with few digits, at least four: it is read and typed again."""
    if not isinstance(distribution, FloatDistribution) or distribution.step is not None:
        return f"{value:.12g}" if isinstance(value, float) else str(value)
    low, high = distribution.low, distribution.high
    width = value * math.log(high / low) if distribution.log else high - low
    texts = (f"{value:.{digits}g}" for digits in range(4, 18))
    return next(text for text in texts if abs(float(text) - value) <= width / _RESOLUTION)


def _text(override: Override) -> str:
    return (override.input_line or "").partition("=")[2]
