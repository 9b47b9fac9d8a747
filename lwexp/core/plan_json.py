"""A plan as JSON and back: every field of its table, and the hash that they must have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from lwexp.errors import ConfigError, UnknownOptionError

from .options import scalar
from .plan_table import OptimizerPart, PlanTable


def write(plan: PlanTable) -> str:
    """The plan's settings, notes, hash and groups."""
    settings = {f.name: getattr(plan, f.name) for f in fields(PlanTable) if f.name not in ("groups", "recipe")}
    settings |= {} if plan.recipe is None else {"recipe": asdict(plan.recipe)}
    groups = [asdict(g) for g in plan.groups]
    if not any(part.options for g in plan.groups for part in g.parts):  # a group is one param group of its name
        groups = [{key: value for key, value in g.items() if key != "parts"} for g in groups]
    if all(g.base_scale == 1 for g in plan.groups):
        groups = [{key: value for key, value in g.items() if key != "base_scale"} for g in groups]
    if plan.measured is None:
        groups = [{key: value for key, value in g.items() if key != "measured"} for g in groups]
        del settings["measured"]
    written = {**settings, "hash": plan.hash, "groups": groups}
    return json.dumps(written, indent=1, ensure_ascii=False, default=str)


def read(text: str, kind: type[PlanTable]) -> dict[str, Any]:
    """The fields of the table that `write` wrote; raises `ConfigError`."""
    try:
        written = json.loads(text)
    except (TypeError, ValueError) as error:
        raise ConfigError("plan", str(text)[:40], f"is not the JSON of a plan: {error}") from error
    if not isinstance(written, Mapping):
        raise ConfigError("plan", str(text)[:40], "is not the JSON of a plan, which is an object")
    hash_of_file = written.get("hash")
    found = _fields("plan", {key: value for key, value in written.items() if key != "hash"}, kind)
    if not found["groups"]:
        raise ConfigError("plan.groups", "[]", "needs at least one group")
    if not any(g.parts for g in found["groups"]):
        found["groups"] = tuple(
            replace(g, parts=(OptimizerPart(g.name, g.optimizer_names),)) if g.optimizer_names else g
            for g in found["groups"]
        )
    table = kind(**found)
    if hash_of_file is not None and hash_of_file != table.hash:
        why = f"the groups give {table.hash}: the plan was changed; without its hash it is read as it is"
        raise ConfigError("plan.hash", hash_of_file, why)
    return found


def _fields(key: str, written: Any, kind: Any) -> dict[str, Any]:
    """The fields of the dataclass `kind`, converted from what JSON has."""
    if not isinstance(written, Mapping):
        raise ConfigError(key, written, "must be an object")
    known = {f.name: f for f in fields(kind)}
    for name in written:
        if name not in known:
            raise UnknownOptionError(f"{key}.{name}", written[name], known)
    hints = get_type_hints(kind)
    found = {}
    for name, field in known.items():
        if name in written:
            found[name] = _value(f"{key}.{name}", written[name], hints[name])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{key}.{name}", "???", "must be given")
    return found


def _value(key: str, value: Any, hint: Any) -> Any:
    if get_origin(hint) in (Union, UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        hint = next((kind for kind in get_args(hint) if isinstance(value, list) == (get_origin(kind) is tuple)), hint)
    if is_dataclass(hint):
        return hint(**_fields(key, value, hint))  # type: ignore[operator]
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ConfigError(key, value, "must be a list")
        kinds = get_args(hint)
        each = [kinds[0]] * len(value) if kinds[1:] == (...,) else kinds
        if len(each) != len(value):
            raise ConfigError(key, value, f"must have {len(each)} values")
        return tuple(_value(f"{key}.{i}", v, kind) for i, (v, kind) in enumerate(zip(value, each, strict=True)))
    if hint in (float, int, bool, str):
        return scalar(key, value, hint)
    if get_origin(hint) is Mapping and not isinstance(value, Mapping):
        raise ConfigError(key, value, "must be an object")
    return _plain(value)


def _plain(value: Any) -> Any:
    """`value` with tuples, as a plan has them, where JSON has lists."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list) else value
