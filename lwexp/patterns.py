"""Patterns that name parameters: a dotted prefix (`layer4`) or a glob (`blocks.*.norm1.*`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import translate
from functools import lru_cache

from .errors import UnknownNameError


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    if any(c in pattern for c in "*?["):
        return re.compile(translate(pattern))
    return re.compile(rf"{re.escape(pattern)}(\..*)?\Z", re.DOTALL)


def matches(pattern: str, name: str) -> bool:
    """Whether `pattern` covers the parameter `name`.

    A pattern with `*`, `?` or `[` is a glob over the whole name (`*` crosses dots); any other is a dotted prefix.

    >>> matches("layer4", "layer4.0.conv1.weight"), matches("layer4", "layer40.weight")
    (True, False)
    >>> matches("*.bias", "fc.bias"), matches("fc.*", "fc.bias"), matches("fc.bias", "fc.bias")
    (True, True, True)
    """
    return _compiled(pattern).match(name) is not None


def first_matches(patterns: Sequence[str], names: Sequence[str], key: str) -> dict[str, str]:
    """For each of `names` that some pattern covers, the first such pattern in the order written.

    Raises `UnknownNameError` for a pattern that covers no name at all; `key` is the option it was written under.
    """
    for pattern in patterns:
        if not any(matches(pattern, name) for name in names):
            raise UnknownNameError(key, pattern, prefixes(names), "the pattern matches no parameter")
    found = {}
    for name in names:
        for pattern in patterns:
            if matches(pattern, name):
                found[name] = pattern
                break
    return found


def prefixes(names: Iterable[str]) -> list[str]:
    """Every dotted prefix of `names`, the names included: what a user may have meant by a pattern."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            found[".".join(parts[:end])] = None
    return list(found)
