"""Schedules of weight decay and momentum: their values as pure functions of the optimizer step.

value(t) = start * shape(t) + end * (1 - shape(t)), with a shape that falls from 1 to 0 (`lwexp/core/shapes.py`).
Momentum also has `onecycle`: the inverse of the rates' one-cycle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from lwexp.errors import ConfigError, UnknownNameError

from .options import at_least, between, check_options
from .policy_settings import PolicySettings
from .shapes import ALIASES, BLENDS, POLICIES, Shape

Kind = Literal["weight_decay", "momentum"]


def common(
    *,
    end: float,
    start: float | None = None,
    steps: int | None = None,
    convention: Literal["lwexp", "transformers"] = "lwexp",
) -> None:
    """The options that all have but `onecycle`.

    From `start` (default: the optimizer's own value) to `end` over `steps` (default: the training), and `end` from then
    on. `convention`: `lwexp` has `end` at the last of the steps, `transformers` at the one after it.
    """


def onecycle(*, base: float = 0.85, max: float = 0.95, pct_start: float = 0.3) -> None:  # noqa: A002  # torch's name
    """From `max` down to `base` at `pct_start` of the training, where the rate has its peak, and back up.

    Along half cosines, as torch's OneCycleLR(cycle_momentum=True).
    """


COMMON = ("end", "start", "steps", "convention")


@dataclass(frozen=True)
class ValuePolicy:
    """The schedule of the `kind` of value, made of the options `written` for a training of `steps`."""

    kind: Kind
    written: Mapping[str, Any]
    steps: int

    def __post_init__(self) -> None:
        """Check the options. Raises `ConfigError`."""
        self.value(0, 0.0)

    def __reduce__(self) -> Any:
        """Pickle what it was made of: shapes are closures."""
        return ValuePolicy, (self.kind, self.written, self.steps)

    @property
    def name(self) -> str:
        """Of the shape."""
        name = str(self.written["name"])
        return ALIASES.get(name, name)

    def value(self, step: int, own: float) -> float:
        """The value at optimizer step `step` of an optimizer whose `own` value is this."""
        return self._function(step, own)

    @cached_property
    def _function(self) -> Callable[[int, float], float]:
        key = f"{self.kind}_policy"
        options = {name: value for name, value in self.written.items() if name != "name"}
        if self.name == "onecycle":
            cycle = {**(onecycle.__kwdefaults__ or {}), **check_options(onecycle, options, key)}
            return lambda step, own: _onecycle(step, self.steps, **cycle)
        shared = {name: value for name, value in options.items() if name in COMMON}
        given = {**(common.__kwdefaults__ or {}), **check_options(common, shared, key)}
        start, end, shape = given["start"], given["end"], self._shape(key, options, given)
        for name, value in (("start", start), ("end", end)):
            if value is not None:
                at_least(f"{key}.{name}", value, 0)
                if self.kind == "momentum":
                    between(f"{key}.{name}", value, 0, 1)
        return lambda step, own: _from_to(own if start is None else start, end, shape(step))

    def _shape(self, key: str, options: Mapping[str, Any], given: Mapping[str, Any]) -> Shape:
        length = self.steps if given["steps"] is None else given["steps"]
        at_least(f"{key}.steps", length, 1)
        function = POLICIES[self.name]
        choices = [*COMMON, *(name for name in function.__annotations__ if name not in ("steps", "return"))]
        own = {name: value for name, value in options.items() if name not in COMMON}
        own["steps"] = length + (given["convention"] == "transformers")
        try:
            shape: Shape = function(**check_options(function, own, "policy", choices))
        except ConfigError as error:
            raise error.renamed(key + error.key.removeprefix("policy")) from None
        return shape


def make_value_policy(
    kind: Kind, written: Mapping[str, Any] | str | None, steps: int | None, rates: PolicySettings
) -> ValuePolicy | None:
    """The policy that is `written` (`{name: cosine, end: 0.4}`), None for nothing. Raises `ConfigError`.

    `rates` are the settings of the rates' policy: a one-cycle of the momentum has its peak where theirs is.
    """
    key = f"{kind}_policy"
    written = {"name": written} if isinstance(written, str) else written
    if not written:
        return None
    if not isinstance(written, Mapping):
        raise ConfigError(key, written, "must be a mapping, e.g. {name: cosine, end: 0.4}")
    choices = sorted(BLENDS | ({"onecycle"} if kind == "momentum" else set()))
    name = written.get("name")
    if name is None:
        raise ConfigError(f"{key}.name", "???", "must be given")
    if ALIASES.get(name, name) not in choices:
        raise UnknownNameError(key, name, choices, "no such policy of a value")
    if steps is None:
        raise ConfigError("steps", None, f"{key} needs the number of optimizer steps")
    if ALIASES.get(name, name) == "onecycle" and rates.policy == "onecycle":
        written = {"pct_start": rates.options.get("pct_start", 0.3), **written}
    return ValuePolicy(kind, dict(written), steps)


def _onecycle(step: int, steps: int, *, base: float, max: float, pct_start: float) -> float:  # noqa: A002
    for name, value in (("base", base), ("max", max), ("pct_start", pct_start)):
        between(f"momentum_policy.{name}", value, 0, 1)
    if base > max:
        raise ConfigError("momentum_policy.base", base, f"is above max={max:g}")
    peak = float(pct_start * steps) - 1
    if step <= peak:
        start, end, p = max, base, step / peak if peak else 0.0
    else:
        start, end, p = base, max, (step - peak) / (steps - 1 - peak) if steps - 1 > peak else 1.0
    return end + (start - end) / 2.0 * (math.cos(math.pi * min(p, 1.0)) + 1)


def _from_to(start: float, end: float, factor: float) -> float:
    """`start` for the factor 1, `end` for 0, both exactly."""
    return float(start * factor + end * (1 - factor))
