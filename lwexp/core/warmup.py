"""The warm-up of a policy: its length, in steps, epochs or as a fraction of the training, and its factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lwexp.errors import ConfigError

from .options import at_least, between

LENGTHS = ("warmup_steps", "warmup_fraction", "warmup_epochs")


@dataclass(frozen=True)
class Warmup:
    """The factors of the first `steps` optimizer steps."""

    steps: int = 0
    kind: Literal["linear", "hold"] = "linear"
    from_zero: bool = False

    def __call__(self, step: int) -> float:
        """The factor at `step` < `steps`: (step + 1) / steps, from zero step / steps; 1 where the rate is held.

        >>> [Warmup(4)(0), Warmup(4)(3), Warmup(4, from_zero=True)(0), Warmup(4, "hold")(0)]
        [0.25, 1.0, 0.0, 1.0]
        """
        if self.kind == "hold":
            return 1.0
        return (step if self.from_zero else step + 1) / self.steps


def warmup_option(options: Mapping[str, Any]) -> tuple[str, Any]:
    """Key and value of the option that sets the length of the warm-up. Raises `ConfigError` for more than one."""
    given = [key for key in LENGTHS if options.get(key)]
    if len(given) > 1:
        why = f"is given beside {given[0]}={options[given[0]]}; give one of them"
        raise ConfigError(f"policy.{given[1]}", options[given[1]], why)
    key = given[0] if given else LENGTHS[0]
    return f"policy.{key}", options.get(key) or 0


def count_warmup_steps(options: Mapping[str, Any], steps: int | None, steps_per_epoch: int) -> int:
    """The warm-up's optimizer steps; `options` are checked already, `steps` are those of the training.

    A fraction is rounded up, as Hugging Face's Trainer does; epochs to the nearest step.
    """
    key, value = warmup_option(options)
    for each in LENGTHS:
        at_least(f"policy.{each}", options.get(each) or 0, 0)
    count = int(value)
    if key == "policy.warmup_fraction":
        between(key, value, 0, 1)
        if steps is None:
            raise ConfigError(key, value, "needs the number of optimizer steps; warmup_steps does not")
        count = math.ceil(steps * value)
    elif key == "policy.warmup_epochs":
        count = round(value * steps_per_epoch)
    if steps is not None and count > steps:
        raise ConfigError(key, value, f"the warm-up is longer than the training of {steps} steps")
    return count
