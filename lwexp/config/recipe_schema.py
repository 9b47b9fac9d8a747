"""The schema of what a config says of its recipe."""

from __future__ import annotations

from typing import Literal

from .section import Count, Positive, Section


class RecipeSize(Section):
    """The rates of a recipe for networks of so many weights and more."""

    weights: Positive
    lr: Positive | None = None
    mult: Positive | None = None


class RecipeConfig(Section):
    """Whose rates these are, and what follows from the batch size and the network: `lwexp.core.recipes.Recipe`."""

    name: str | None
    source: str
    differs: str
    lr: Positive | None
    batch_size: Count | None
    scaling: Literal["none", "linear", "sqrt"]
    mult: Positive | None
    sizes: list[RecipeSize]
