"""The choices of `recipe=`: made from the data in `lwexp/core/recipes`, as if each had a file in conf/recipe/."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from lwexp.core.recipes import RECIPES, Recipe
from lwexp.core.warmup import LENGTHS

from .defaults import CONF, defaults, dump
from .keys import GROUPS, flatten

if TYPE_CHECKING:
    from .schema import RunConfig

NONE = "none"
_FOLDER = "recipe"  # policy=recipe/mae: the policy of that recipe
# Top-level keys of recipes: another recipe ends what an earlier one or the user has set there
KEYS = (
    "recipe", "lr", "mult", "grouping", "decay", "policy", "optimizer", "freeze", "train", "freeze_mode",
    "freeze_stats", "lr_overrides", "lr_mults", "split_groups", "lr_events", "policies", "phases", "unfreeze",
    "group_options",
    "no_weight_decay", "weight_decay_mult", "independent_weight_decay", "weight_decay_policy", "momentum_policy",
    "index_from", "clip_grad_norm", "l2_sp", "wise_ft", "lora",
)  # fmt: skip


def names() -> list[str]:
    """The choices, `none` first."""
    return [NONE, *RECIPES]


def is_choice(path: str) -> bool:
    """Whether `path` is `recipe/<name>` or the part of a recipe in a group, `policy/recipe/<name>`."""
    *folders, name = path.split("/")
    if folders == ["recipe"]:
        return name in names()
    return len(folders) == 2 and folders[1] == _FOLDER and name in RECIPES and folders[0] in RECIPES[name].settings


def config_of(path: str) -> tuple[dict[str, Any], str]:
    """What a file at `path` would hold, and its package."""
    *folders, name = path.split("/")
    if folders == ["recipe"]:
        return (top_level(RECIPES[name]) if name != NONE else {}), "_global_"
    return section(RECIPES[name], folders[0]), folders[0]


def section(recipe: Recipe, group: str) -> dict[str, Any]:
    """The whole section `group` with the recipe: what its choice has by default, and the recipe's values in it."""
    own = dict(recipe.settings[group])
    file = f"{group}/{own.get('kind') or own.get('name')}"
    return {**(defaults(file) if (CONF / f"{file}.yaml").is_file() else {}), **own}


def top_level(recipe: Recipe) -> dict[str, Any]:
    """The config of a recipe besides its sections, with Hydra's list of those."""
    groups = [group for group in recipe.settings if group in GROUPS]
    described = {key: value for key, value in asdict(recipe).items() if key not in ("settings", "what")}
    rates = {key: None for key in ("lr", "mult") if described[key] is not None}
    return {
        "defaults": [{f"override /{group}": f"{_FOLDER}/{recipe.name}"} for group in groups],
        "recipe": {**described, "sizes": [dict(size) for size in recipe.sizes]},
        **rates,
        **{key: value for key, value in recipe.settings.items() if key not in groups},
    }


@cache
def composed(name: str | None) -> Mapping[str, Any] | None:
    """The values that the recipe of this name sets; None where there is none of that name."""
    if name not in RECIPES:
        return None
    recipe = RECIPES[name]
    own = {key: value for key, value in top_level(recipe).items() if key != "defaults"}
    return {**own, **{group: section(recipe, group) for group in recipe.settings if group in GROUPS}}


def published(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the recipe of a plain config sets, if it is one of lwexp's."""
    recipe = values.get("recipe")
    name = recipe.get("name") if isinstance(recipe, Mapping) else None
    return (composed(name) if isinstance(name, str) else None) or {}


def recipe_of(config: RunConfig) -> Recipe:
    """The recipe as the config describes it, with what follows from the network; one without a name changes nothing."""
    values = config.recipe.model_dump(exclude_none=True)
    return Recipe(**{"name": "", **values, "sizes": tuple(values["sizes"])})


def changed_options(config: RunConfig) -> list[str]:
    """`key=value` of what differs from the recipe, where it is one of lwexp's."""
    of_recipe = composed(config.recipe.name) or {}
    values = config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    found: dict[str, Any] = {}
    for key, usual in of_recipe.items():
        own = values.get(key)
        if key in GROUPS and kind_of(usual) != kind_of(own):
            found[key] = kind_of(own)
        elif isinstance(usual, Mapping):
            flat = flatten(own or {}, f"{key}.")
            found |= {
                name: flat.get(name) for name, each in flatten(usual, f"{key}.").items() if flat.get(name) != each
            }
        elif own != usual:
            found[key] = own
    return [f"{key}={value}" for key, value in found.items()]


def kind_of(section: Mapping[str, Any] | None) -> Any:
    """The choice of a group that its section shows."""
    section = section or {}
    return section.get("kind") or section.get("name") or section.get("_target_")


def with_given_lengths(values: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
    """`values` where a length of the warm-up, or a way to unfreeze, on the command line ends the recipe's other one."""
    for group, ways in (("policy", LENGTHS), ("unfreeze", ("every_epochs", "every_steps", "at"))):
        section, of_recipe = values.get(group), published(values).get(group, {})
        chosen = [key for key in ways if any(f"{each}.".startswith(f"{group}.{key}.") for each in given)]
        if chosen and isinstance(section, Mapping):
            ended = [key for key in ways if key not in chosen and key in section and of_recipe.get(key)]
            usual = defaults()["unfreeze"] if group == "unfreeze" else {"warmup_steps": 0}
            values = {**values, group: {**section, **{key: usual.get(key) for key in ended}}}
    return values


def pages() -> list[str]:
    """What `--help recipe` prints: each with its values."""
    return [f"recipe={name}  # {recipe.what}\n{dump(composed(name) or {})}" for name, recipe in RECIPES.items()]
