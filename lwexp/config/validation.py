"""A config checked against its schema: the first mistake as a `ConfigError` with its dotted key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from lwexp.errors import ConfigError, UnknownNameError, UnknownOptionError

from .keys import by_pattern, flatten
from .schema import RunConfig
from .section import Section

Model = TypeVar("Model", bound=BaseModel)


def check(values: Mapping[str, Any]) -> RunConfig:
    """The typed config of the resolved mapping `values`; `ConfigError` names the first key that is wrong."""
    values = dict(values)
    if isinstance(values.get("unfreeze"), Mapping):
        values["unfreeze"] = dict(values["unfreeze"])
    for section, key, flat in (
        (values, "lr_overrides", flatten), (values, "lr_mults", flatten), (values, "group_options", by_pattern),
        (values["unfreeze"], "at", flatten), (values, "policies", dict), (values, "tags", flatten),
    ):  # fmt: skip
        if isinstance(section, dict) and section.get(key, ...) is None:
            section[key] = {}  # null: none, also not those of a file, with which `{}` would be merged
        elif isinstance(section, dict) and isinstance(section.get(key), Mapping):
            section[key] = flat(section[key])
    for key, value in flatten(values).items():
        if value == "???":
            raise ConfigError(key, value, "must be given")
    return validate(RunConfig, values)


def validate(schema: type[Model], values: Mapping[str, Any], prefix: str = "") -> Model:
    """`values` as an instance of `schema`. Raises `ConfigError`; `prefix` as in `as_config_error`."""
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        raise as_config_error(error, values, schema, prefix) from None


def as_config_error(
    error: ValidationError, values: Mapping[str, Any], schema: type[BaseModel], prefix: str = ""
) -> ConfigError:
    """The most specific of pydantic's findings about `values` as one line: an unknown key, else the first.

    `prefix` is the dotted key of `values` in the whole config, with a dot at its end.
    """
    findings = error.errors(include_url=False)
    first = _path_of(findings[0], values)
    # the members of a union all complain; the one that came furthest meant the same as the user
    alike = [f for f in findings if _path_of(f, values)[: len(first)] == first]
    deepest = max(alike, key=lambda f: len(_path_of(f, values)))
    found = next((f for f in findings if f["type"] == "extra_forbidden"), deepest)
    parts = _path_of(found, values)
    key = prefix + ".".join(str(part) for part in parts)
    if found["type"] == "extra_forbidden":
        return UnknownOptionError(key, found["input"], _siblings(found["loc"], schema))
    if found["type"] == "missing":
        return ConfigError(key, "???", "must be given")
    if found["type"] == "union_tag_not_found":
        return ConfigError(f"{key}.name", None, "must be given")
    if found["type"].startswith("union_tag"):
        return UnknownNameError(
            f"{key}.name", _tag(found["input"]), _tags(str(found["ctx"].get("expected_tags", ""))), f"no such {key}"
        )
    words = [f["ctx"]["expected"] for f in alike if f["type"] == "literal_error" and _path_of(f, values) == parts]
    others = "".join(f", or {word}" for word in words if found["type"] != "literal_error")
    return ConfigError(key, found["input"], f"{_reason(found['msg'])}{others}")


def _path_of(finding: Any, values: Mapping[str, Any]) -> list[int | str]:
    return _real_path(finding["loc"], values, absent=finding["type"] == "missing")


def _reason(message: str) -> str:
    message = message.removeprefix("Input ").removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _tag(value: Any) -> Any:
    return value.get("name") if isinstance(value, Mapping) else value


def _tags(expected: str) -> list[str]:
    return [tag.strip(" '") for tag in expected.split(",") if tag.strip()]


def _real_path(loc: tuple[int | str, ...], values: Any, *, absent: bool) -> list[int | str]:
    """`loc` without the tags of unions that pydantic puts into it, so that it can be typed on the command line.

    `absent`: the last part is a key that is missing from `values`.
    """
    path: list[int | str] = []
    for i, part in enumerate(loc):
        keys = range(len(values)) if isinstance(values, list) else values if isinstance(values, Mapping) else ()
        is_tag = i == 1 and i < len(loc) - 1 and isinstance(values, Mapping) and values.get("name") == part
        if part in keys and not is_tag:  # the texts' tag is a key of theirs as well
            values = values[part]
        elif i < len(loc) - 1 or not absent:
            continue  # a union's tag, or the type that a member of a union was tried as
        path.append(part)
    return path


def _siblings(loc: tuple[int | str, ...], schema: type[BaseModel]) -> list[str]:
    """The keys of the section around the last part of `loc`."""
    section: Any = schema
    for part in loc[:-1]:
        if isinstance(section, dict):  # a union of sections by tag, and `part` the tag
            section = section[part]
        elif isinstance(part, str):
            field = section.model_fields[part]
            members = _sections(field.annotation)
            section = {_tag_of(m): m for m in members} if len(members) > 1 else members[0]
    return [field.alias or name for name, field in section.model_fields.items()]


def _sections(annotation: Any) -> list[type[Section]]:
    """The sections that a type consists of, however wrapped."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


def _tag_of(section: type[Section]) -> str:
    return str(get_args(section.model_fields["name"].annotation)[0])
