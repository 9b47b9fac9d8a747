"""Options of groupings, decays and policies: the keyword-only arguments of the functions that build them.

The signature is the schema, so a new function needs no second list of its options.
"""

from __future__ import annotations

import inspect
import math
import numbers
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lwexp.errors import ConfigError, UnknownNameError, UnknownOptionError


def check_options(
    function: Callable[..., Any], options: Mapping[str, Any], key: str, choices: Iterable[str] | None = None
) -> dict[str, Any]:
    """`options` with numbers of the annotated type, or an error that names `key.<option>`.

    `choices` for the error about an unknown option are by default the arguments of `function`.

    Raises `UnknownOptionError` for an option that is not a keyword-only argument of `function`, and `ConfigError` for
    one of the wrong type, for NaN and infinity, and for one without default that is missing.
    """
    parameters = inspect.signature(function).parameters
    known = {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    hints = get_type_hints(function)
    for name in options:
        if name not in known:
            raise UnknownOptionError(f"{key}.{name}", options[name], known if choices is None else choices)
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in options:
            raise ConfigError(f"{key}.{name}", "???", "must be given")
    return {name: _convert(f"{key}.{name}", value, hints.get(name, Any)) for name, value in options.items()}


def _convert(key: str, value: Any, hint: Any) -> Any:
    """`value` if it is of the type `hint`, with integers converted to float where `hint` is float."""
    if hint is Any:
        return value
    if value == "???":
        raise ConfigError(key, value, "must be given")
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(key, value, arguments)
    if origin is Literal:
        if value not in arguments:
            raise UnknownNameError(key, value, [str(a) for a in arguments], "not among the choices")
        return value
    return _convert_plain(key, value, hint, origin, arguments)


def _one_of(key: str, value: Any, kinds: Sequence[Any]) -> Any:
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _convert(key, value, kind)
            except ConfigError as error:
                errors.append(error)
    raise errors[0]


def _convert_plain(key: str, value: Any, hint: Any, origin: Any, arguments: Sequence[Any]) -> Any:
    if hint in (float, int, bool, str):
        return scalar(key, value, hint)
    if origin in (list, tuple, Sequence) and (isinstance(value, str) or not isinstance(value, Sequence)):
        raise ConfigError(key, value, "must be a list")
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(key, value, "must be a mapping")
        return {str(k): _convert(f"{key}.{k}", v, arguments[1]) for k, v in value.items()}
    if origin in (list, tuple, Sequence):
        return [_convert(f"{key}.{i}", v, arguments[0]) for i, v in enumerate(value)]
    return value


def scalar(key: str, value: Any, kind: type) -> Any:
    """`value` as a `kind`: a float, an int, a bool or a text; raises `ConfigError`."""
    if kind is float:
        return number(key, value)
    if kind is int:
        return whole(key, value)
    if not isinstance(value, kind):
        raise ConfigError(key, value, f"must be {'true or false' if kind is bool else 'a text'}")
    return value


def number(key: str, value: Any) -> float:
    """`value` as a float if it is any real number (NumPy's too) and finite; raises `ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigError(key, value, "must be a number")
    if not math.isfinite(value):
        raise ConfigError(key, value, "must be finite")
    return float(value)


def rate(key: str, value: Any) -> float:
    """`value` as a float if it is a learning rate: a finite number of at least 0; raises `ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigError(key, value, "must be a number")
    if not math.isfinite(value) or value < 0:
        raise ConfigError(key, value, "a rate must be finite and at least 0")
    return float(value)


def whole(key: str, value: Any) -> int:
    """`value` as an int if it is a whole number of any type (NumPy's, 10.0); raises `ConfigError`."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or int(value) != value:
        raise ConfigError(key, value, "must be a whole number")
    return int(value)


def at_least(key: str, value: float, minimum: float, *, strictly: bool = False) -> None:
    """Raise `ConfigError` unless `value` >= `minimum` (or >, `strictly`)."""
    if value < minimum or (strictly and value == minimum):
        raise ConfigError(key, value, f"must be {'above' if strictly else 'at least'} {minimum:g}")


def between(key: str, value: float, low: float, high: float) -> None:
    """Raise `ConfigError` unless `low` <= `value` <= `high`."""
    if not low <= value <= high:
        raise ConfigError(key, value, f"must be from {low:g} to {high:g}")
