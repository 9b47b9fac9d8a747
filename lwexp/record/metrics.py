"""Metrics and steps as a loop gives them, checked before they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lwexp.core.options import at_least, whole
from lwexp.errors import ConfigError
from lwexp.formatting import one_line


def as_mapping(key: str, value: object) -> Mapping[str, Any]:
    """`value` if it is a mapping of names, empty for None. Raises `ConfigError`."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigError(key, value, "must be a mapping of names to values")
    return value


def as_texts(key: str, value: object) -> dict[str, str]:
    """`value` as a mapping of names to texts. Raises `ConfigError`."""
    return {name: str(each) for name, each in as_mapping(key, value).items()}


def as_numbers(metrics: object) -> dict[str, float]:
    """The values of `metrics`, numbers or tensors with one element. Raises `ConfigError`."""
    return {name: _number(name, value) for name, value in as_mapping("metrics", metrics).items()}


def as_step(step: object) -> int:
    """`step` as the number of an optimizer step. Raises `ConfigError`."""
    number = whole("step", step)
    at_least("step", number, 0)
    return number


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, (str, bytes)):
            return float(value.detach() if isinstance(value, torch.Tensor) else value)
        why = "a text"
    except (TypeError, ValueError, RuntimeError) as error:
        why = one_line(error)
    shown = f"{type(value).__name__} of shape {tuple(value.shape)}" if hasattr(value, "shape") else value
    raise ConfigError(f"metrics.{name}", shown, f"must be a number ({why})")
