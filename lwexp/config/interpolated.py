"""Values that interpolations give, as if they had been typed in their place: `lr=${oc.env:LR}` is `lr=0.1`.

The environment holds texts only. A text that an interpolation gives becomes what Hydra would read it as (a number, true
or false, null, a list), unless the key takes a text.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from .section import Section

_YES, _NO = {"true", "yes", "on", "y", "1"}, {"false", "no", "off", "n", "0"}  # as OmegaConf reads them


def typed(value: Any, written: Any, annotation: Any) -> Any:
    """`value`, the resolved form of `written`, with the texts in it that interpolations gave as what they say.

    `annotation` is the type that the schema has for it.

    >>> typed({"lr": "0.1", "name": "1"}, {"lr": "${oc.env:LR}", "name": "1"}, None)
    {'lr': 0.1, 'name': '1'}
    """
    return _typed(value, written, [annotation])


def _typed(value: Any, written: Any, annotations: Iterable[Any]) -> Any:
    kinds = [kind for annotation in annotations for kind in _members(annotation)]
    if isinstance(value, Mapping):
        return {key: _typed(part, _within(written, key), _below(kinds, key)) for key, part in value.items()}
    if isinstance(value, list):
        return [_typed(part, _within(written, i), _below(kinds, i)) for i, part in enumerate(value)]
    return _read(value, kinds) if isinstance(value, str) and "${" in str(written) else value


def _within(written: Any, key: Any) -> Any:
    if isinstance(written, Mapping):
        return written.get(key)
    return written[key] if isinstance(written, list) else written  # one interpolation gave the whole


def _members(annotation: Any) -> list[Any]:
    """The types that `annotation` allows."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _members(part)]
    return [] if annotation in (None, Any) else [annotation]


def _below(kinds: Iterable[Any], key: Any) -> list[Any]:
    """The types of what is at `key` in a value of `kinds`; empty where the schema leaves that open."""
    found: list[Any] = []
    for kind in kinds:
        if get_origin(kind) in (dict, list):
            found.append(get_args(kind)[-1])
        elif isinstance(kind, type) and issubclass(kind, Section):
            found += [f.annotation for name, f in kind.model_fields.items() if key in (name, f.alias)]
    return found


def _read(text: str, kinds: list[Any]) -> Any:
    if str in kinds or any(get_origin(kind) is Literal and text in get_args(kind) for kind in kinds):
        return text
    if bool in kinds and text.lower() in _YES | _NO:
        return text.lower() in _YES
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"key={text}")
        value = text if override.is_sweep_override() else override.value()
    except HydraException:
        return text
    return text if isinstance(value, str) else value
