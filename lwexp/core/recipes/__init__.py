"""Recipes: what published work sets, by name. Plain data; `use.py` fills the arguments of `make_plan` with them."""

from __future__ import annotations

from lwexp.errors import UnknownNameError

from .base import Recipe
from .layer_decay import LAYER_DECAY
from .own import OWN
from .tuning import TUNING

RECIPES: dict[str, Recipe] = {each.name: each for each in (*LAYER_DECAY, *TUNING, *OWN)}

__all__ = ["RECIPES", "Recipe", "recipe"]


def recipe(name: str) -> Recipe:
    """The recipe of this name. Raises `UnknownNameError`.

    >>> recipe("mae").mult
    0.65
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES, "no such recipe")
    return RECIPES[name]
