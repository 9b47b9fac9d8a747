"""Dotted keys of the config: which are the user's own names, which make rates layer-wise; nested values flattened."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lwexp.core.decay import ALIASES

# Options that are lists of texts: a single one may stand for a list of one
LISTS_OF_TEXTS = (
    "freeze", "train", "split_groups", "no_weight_decay", "l2_sp.new", "wise_ft.new", "lora.target",
    "checkpoint.allow_targets",
)  # fmt: skip
# Sections that are one choice of a config group
GROUPS = ("data", "model", "weights", "grouping", "decay", "optimizer", "policy", "tracking")
# Mappings whose keys the user chose and in which the order counts
USER_KEYED = (
    "lr_overrides", "lr_mults", "group_options", "policies", "unfreeze.at", "decay.rates",
    "grouping.patterns", "policy.options", "loss.options", "data.options", "data.augment_options", "callbacks",
    "metrics", "tags",
)  # fmt: skip
# Those at the top level, in which the first match wins
IN_ORDER = ("lr_overrides", "lr_mults", "group_options", "policies")
# Settings of which parts have which rate, 0 if frozen; a run and its uniform twin agree in everything else
LAYERWISE = (
    "mult", "decay", "grouping", "index_from", "lr_overrides", "lr_mults", "split_groups", "lr_events", "policies",
    "phases", "freeze", "train", "freeze_mode", "freeze_stats",
    "unfreeze",
)  # fmt: skip
# Options that belong to one run or sweep, which a new run from its config does not take over
OF_ONE_RUN = ("from_run", "sweep", "name", "notes")
# Sections and keys that do not change the numbers of a training
_HARMLESS_SECTIONS = ("tracking", "diagnostics", "checkpoint", "find", "preview", "sweep", "tags")
_HARMLESS = (
    "name", "notes",
    "resume", "from_run", "progress", "device", "threads", "deterministic", "compile", "channels_last", "parallel",
    "data.workers", "data.cache", "grouping.timeout",  # another plan is found by its groups
    "recipe.source", "recipe.differs",
)  # fmt: skip
# Keys that say which examples a run has and how they are split; scores on different ones cannot be compared
_DATA = (
    "data", "dataset", "data.name", "data.path", "data.dataset", "data.subset", "data.text", "data.label",
    "data.split_seed", "data.val_fraction", "data.test_fraction", "data._target_", "data.options", "data.split",
    "data.root", "data.image", "data.suffix", "data.task", "data.delimiter",
)  # fmt: skip


def is_layerwise(key: str) -> bool:
    """Whether the option `key` sets how rates differ between parts of the network.

    >>> [is_layerwise(key) for key in ("mult", "decay.rates", "freeze", "lr", "multiple")]
    [True, True, True, False, False]
    """
    return key.partition(".")[0] in LAYERWISE


def is_data(key: str) -> bool:
    """Whether the option `key` says which examples a run is trained and tested on.

    >>> [is_data(key) for key in ("data.path", "data.split", "data.options.download", "data.augment", "lr")]
    [True, True, True, False, False]
    """
    return key in _DATA or key.startswith("data.options.")


def changes_numbers(key: str) -> bool:
    """Whether the option `key` changes the numbers of a training.

    >>> [changes_numbers(key) for key in ("lr", "seed", "threads", "tracking", "checkpoint.keep")]
    [True, True, False, False, False]
    """
    return key not in _HARMLESS and key.partition(".")[0] not in _HARMLESS_SECTIONS


def by_pattern(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Options by pattern, however they were typed: `group_options.layer4.0.eps=1` is `{layer4: {0: {eps: 1}}}`.

    >>> by_pattern({"layer4": {0: {"eps": 1}}, "fc": {"eps": 2, "lr": 3}})
    {'layer4.0': {'eps': 1}, 'fc': {'eps': 2, 'lr': 3}}
    """
    found: dict[str, Any] = {}
    for path, value in flatten(values).items():
        pattern, _, option = path.rpartition(".")
        if pattern and value != {}:
            found.setdefault(pattern, {})[option] = value
        else:
            found[path] = value
    return found


def has_mult(decay: Mapping[Any, Any]) -> bool:
    """Whether the section `decay` uses the top-level `mult`: decay=linear, and measured decays with that option.

    >>> has_mult({"name": "geometric"}), has_mult({"name": "linear", "stem_lr": 1e-5}), has_mult({"name": "cosine"})
    (True, False, False)
    >>> has_mult({"name": "update_ratio"}), has_mult({"name": "temp_balance"})
    (True, False)
    """
    from lwexp.core.measured.lookup import takes_mult

    name = ALIASES.get(str(decay.get("name")), decay.get("name"))
    return takes_mult(name) or (name == "linear" and decay.get("stem_lr") is None)


def with_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config `values` with a list of one in the place of a single text where texts are listed.

    >>> with_lists({"freeze": "conv1", "no_weight_decay": True, "checkpoint": {"allow_targets": "my.Net"}})
    {'freeze': ['conv1'], 'no_weight_decay': True, 'checkpoint': {'allow_targets': ['my.Net']}}
    """
    found = dict(values)
    for key in LISTS_OF_TEXTS:
        section, _, name = key.rpartition(".")
        part = values.get(section) if section else values
        if isinstance(part, Mapping) and isinstance(part.get(name), str) and part[name]:
            if section:
                found[section] = {**part, name: [part[name]]}
            else:
                found[name] = [part[name]]
    return found


def with_one_mult(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config `values` with `decay.mult`, another name of the top-level `mult` for decays that use it, in its place.

    >>> with_one_mult({"mult": 0.95, "decay": {"name": "geometric", "mult": 0.8}})
    {'mult': 0.8, 'decay': {'name': 'linear'}}
    """
    decay = values.get("decay")
    if isinstance(decay, Mapping) and str(decay.get("name")) in ALIASES:
        decay = {**decay, "name": ALIASES[decay["name"]]}
        values = {**values, "decay": decay}
    if not isinstance(decay, Mapping) or "mult" not in decay or not has_mult({"name": decay.get("name")}):
        return dict(values)
    if decay.get("_target_") is not None or decay.get("target") is not None:  # a function of the user's own
        return dict(values)
    return {**values, "mult": decay["mult"], "decay": {key: decay[key] for key in decay if key != "mult"}}


def flatten(values: Mapping[Any, Any], prefix: str = "", keep: Collection[str] = ()) -> dict[str, Any]:
    """One level of dotted keys: `{layer4: {0: 0.1}}`, as typed `lr_overrides.layer4.0=0.1`, is `{"layer4.0": 0.1}`.

    Mappings at the keys in `keep`, such as `USER_KEYED`, stay whole, and so do empty ones.

    >>> flatten({"layer4": {0: 0.1}, "fc": 1.0})
    {'layer4.0': 0.1, 'fc': 1.0}
    >>> flatten({"decay": {"name": "explicit", "rates": {"fc": 1.0}}}, keep=USER_KEYED)
    {'decay.name': 'explicit', 'decay.rates': {'fc': 1.0}}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and path not in keep:
            flat.update(flatten(value, f"{path}.", keep))
        else:
            flat[path] = value
    return flat


def leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings and lists.

    >>> list(leaves({"layers": [1, {"size": 2}]}))
    [('layers.0', 1), ('layers.1.size', 2)]
    """
    if isinstance(values, (Mapping, list)) and values:
        for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, values
