"""A run's name where none is given: its model, its data and what else differs from the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from lwexp.config.defaults import CONF, defaults, load
from lwexp.config.keys import GROUPS, USER_KEYED, changes_numbers, flatten, has_mult
from lwexp.config.monitored import with_monitor
from lwexp.config.recipes import kind_of, published
from lwexp.config.schema import RunConfig
from lwexp.config.weights_schema import LettersConfig, PretrainedConfig, SourceTaskConfig, WeightsFileConfig
from lwexp.formatting import one_line, printable

LONGEST = 120  # characters of a name
_LONGEST_VALUE = 32
# Most telling first; then the others, as the config has them
_FIRST = (
    "recipe", "lr", "mult", "decay", "grouping", "policy", "weights", "freeze", "train", "unfreeze", "lr_overrides",
    "lr_mults",
    "lr_events", "policies", "phases", "optimizer",
)  # fmt: skip
_LAST = ("seed",)
# Keys of sections that the first parts of a name show
_SHOWN = {"model": ("name", "source", "config_class"), "data": ("path", "dataset", "root", "name")}


def run_name(config: RunConfig, values: Mapping[str, Any]) -> str:
    """The name of a run whose plain config is `values`: at most 120 characters, whole parts only.

    >>> shortened(["resnet18", "lr=0.01", "mult=0.9"], 18)
    'resnet18 lr=0.01 …'
    """
    parts = [config.model.label, *_data(values), *_differing(values)]
    return shortened([one_line(part) for part in parts], LONGEST)


def own_tags(config: RunConfig) -> dict[str, str]:
    """The user's tags as MLflow keeps them, texts."""
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in config.tags.items()}


def shortened(parts: list[str], longest: int) -> str:
    """As many of `parts` as fit; an ellipsis stands for the others."""
    whole = " ".join(parts)
    if len(whole) <= longest:
        return whole
    shown = parts[:-1]
    while len(shown) > 1 and len(" ".join(shown)) + 2 > longest:
        shown = shown[:-1]
    return f"{' '.join(shown)[: longest - 2]} …"


def data_label(data: Mapping[str, Any]) -> str:
    """A short name of a data section: that of its folder, of its data set, or of its kind."""
    for key in ("path", "dataset"):
        if data.get(key):
            return PurePath(str(data[key])).name or str(data[key])
    return str(data.get("name"))


def weights_text(config: RunConfig) -> str:
    """Where the weights at the start are from."""
    weights, label = config.weights, printable(config.model.label)
    if isinstance(weights, PretrainedConfig):
        return f"published with {label}" + (f", {printable(weights.tag)}" if weights.tag else "")
    if isinstance(weights, WeightsFileConfig):
        return printable(weights.path)
    if isinstance(weights, SourceTaskConfig):
        return f"of a source task: {weights.epochs} epochs on the other half of the classes"
    if isinstance(weights, LettersConfig):
        return f"of printed letters: {weights.epochs} epochs"
    return f"random, seed {config.seed}"


def _data(values: Mapping[str, Any]) -> list[str]:
    data = values["data"]
    return [] if data["name"] == _usual_choice("data") else [data_label(data)]


def _differing(values: Mapping[str, Any]) -> Iterator[str]:
    """`key=value` of what differs from the defaults, most telling first."""
    found = {**_of_groups(values), **_of_top_level(values)}
    order = {name: place for place, name in enumerate(_FIRST)} | dict.fromkeys(_LAST, 1000)
    for key in sorted(found, key=lambda key: order.get(key.partition(".")[0], 100)):
        if changes_numbers(key):
            yield f"{key}={_shown(found[key])}"


def _of_groups(values: Mapping[str, Any]) -> dict[str, Any]:
    """The choices that are not the usual ones, and the options in which a choice differs from its file."""
    found: dict[str, Any] = {}
    for group in GROUPS:
        section = dict(values[group])
        kind = section.pop("kind", None)  # policy=torch: `name` is the scheduler's class
        name = str(kind or section.get("name") or section.get("source"))
        target = section.pop("_target_", None)
        known = _defaults_of(group, name) | {"name": section.get("name")}
        of_recipe = published(values).get(group)
        if of_recipe is not None and kind_of(of_recipe) == name:
            known = {**of_recipe}
        if group == "policy":  # a plateau's own metric is that of `monitor` unless it names one
            known = with_monitor({**values, group: known})[group]
        known.pop("kind", None)
        known.pop("_target_", None)
        if group in _SHOWN:  # in front of the others
            section, known = section | dict.fromkeys(_SHOWN[group]), known | dict.fromkeys(_SHOWN[group])
        elif target is not None or name != (kind_of(of_recipe) or _usual_choice(group)):
            found[group] = target or section.get("name")
        flat, usual = flatten(section, keep=_below(group)), flatten(known, keep=_below(group))
        found |= {f"{group}.{key}": value for key, value in flat.items() if usual.get(key) != value}
    return found


def _of_top_level(values: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in values.items() if key not in GROUPS}
    of_recipe = published(values)
    flat = flatten(own, keep=USER_KEYED)
    usual = {**flatten(defaults(), keep=USER_KEYED), **flatten(of_recipe, keep=USER_KEYED)}
    if of_recipe:
        flat = {"recipe": of_recipe["recipe"]["name"], **flat}
    differing = {key: value for key, value in flat.items() if usual.get(key) != value}
    if not has_mult(values["decay"]):
        differing.pop("mult", None)  # it does not count, or follows from the ends
    return differing


def _below(group: str) -> list[str]:
    """The keys of a section that hold the user's own names."""
    return [key.removeprefix(f"{group}.") for key in USER_KEYED if key.startswith(f"{group}.")]


def _defaults_of(group: str, name: str) -> dict[str, Any]:
    there = name.isidentifier() and (CONF / group / f"{name}.yaml").is_file()
    return defaults(f"{group}/{name}") if there else {}


def _usual_choice(group: str) -> str:
    """The choice that `conf/config.yaml` makes."""
    listed = load(CONF / "config.yaml")["defaults"]
    return next(str(entry[group]) for entry in listed if isinstance(entry, Mapping) and group in entry)


def _shown(value: Any) -> str:
    """`value` about as it is typed."""
    if isinstance(value, Mapping):
        text = f"{{{','.join(f'{key}:{_shown(each)}' for key, each in value.items())}}}"
    elif isinstance(value, (list, tuple)):
        text = f"[{','.join(map(_shown, value))}]"
    elif isinstance(value, float):
        text = f"{value:g}"
    else:
        text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return one_line(text, _LONGEST_VALUE)
