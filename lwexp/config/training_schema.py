"""Sections of the training itself: its loss, an early stop, the average of its weights, what is measured of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .section import Count, Fraction, NonNegative, Section


class LossConfig(Section):
    """Any `torch.nn` loss by its class name."""

    name: str
    label_smoothing: Fraction
    class_weights: Literal["balanced"] | list[NonNegative] | None
    options: dict[str, Any]


class EarlyStoppingConfig(Section):
    """The training ends after `patience` evaluations in a row without an improvement; null: never."""

    patience: Count | None
    min_delta: NonNegative


class AverageConfig(Section):
    """The exponential moving average of the weights (EMA); `decay` null: none."""

    decay: Annotated[float, Field(gt=0, lt=1)] | None
    every_steps: Count
    start_step: Annotated[int, Field(ge=0)]
    warmup: bool


class DiagnosticsConfig(Section):
    """Every how many optimizer steps the steps of all groups are measured; null: never."""

    every_steps: Count | None
