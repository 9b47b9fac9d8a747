"""Dotted keys of the config: which are the user's own names, which make rates layer-wise; nested values flattened."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

# Sections that are one choice of a config group
GROUPS = ("data", "model", "weights", "grouping", "decay", "optimizer", "policy", "tracking")
# Mappings whose keys the user chose and in which the order counts
USER_KEYED = (
    "lr_overrides", "decay.rates", "grouping.patterns", "policy.options", "loss.options", "data.options", "callbacks",
)  # fmt: skip
# Settings of how the rate falls with depth; a run and its uniform twin agree in everything else
LAYERWISE = ("mult", "decay", "grouping", "index_from", "lr_overrides")


def is_layerwise(key: str) -> bool:
    """Whether the option `key` sets how the rate falls with depth.

    >>> [is_layerwise(key) for key in ("mult", "decay.rates", "lr_overrides", "lr", "multiple")]
    [True, True, True, False, False]
    """
    return key.partition(".")[0] in LAYERWISE


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
