"""The schema of what acts on weights rather than on rates: the way back to the start, and adapters."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .section import Count, NonNegative, Positive, Section


class L2SPConfig(Section):
    """A penalty toward the starting weights (L2-SP); `alpha` null: none."""

    alpha: Positive | None
    beta: NonNegative
    all_parameters: bool
    new: list[str]


class WiseFTConfig(Section):
    """The average of starting and trained weights, evaluated at the end; `alpha` null: not."""

    alpha: Annotated[float, Field(ge=0, le=1)] | None
    new: list[str]


class LoraConfig(Section):
    """Low-rank adapters of the library peft in place of the weights of a network; `rank` null: none."""

    rank: Count | None
    alpha: Positive | None
    dropout: Annotated[float, Field(ge=0, lt=1)]
    target: list[str]
