"""Patterns that name parameters: a dotted prefix (`layer4`), a glob (`blocks.*.norm1.*`) or a kind (`kind/norm`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import translate
from functools import lru_cache

from lwexp.errors import UnknownNameError

KIND = "kind/"


class NamedSet(str):
    """A pattern that stands for a set of names: what `kind/norm` means in one network (`lwexp.core.kinds`)."""

    names: frozenset[str]

    def __new__(cls, pattern: str, names: Iterable[str]) -> NamedSet:
        """`pattern` is how it was written."""
        made = super().__new__(cls, pattern)
        made.names = frozenset(names)
        return made

    def __reduce__(self) -> tuple[type[NamedSet], tuple[str, frozenset[str]]]:
        """To copy and pickle it."""
        return NamedSet, (str(self), self.names)

    def match(self, name: str) -> bool:
        """Whether it has `name`."""
        return name in self.names


def _glob(pattern: str) -> NamedSet | re.Pattern[str] | None:
    """What matches whole names; None for a prefix."""
    return pattern if isinstance(pattern, NamedSet) else _compiled(pattern)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """The regular expression of a glob; None for a prefix."""
    return re.compile(translate(pattern)) if any(c in pattern for c in "*?[") else None


def matches(pattern: str, name: str) -> bool:
    """Whether `pattern` covers the parameter `name`.

    A pattern with `*`, `?` or `[` is a glob over the whole name (`*` crosses dots); any other is a dotted prefix.

    >>> matches("layer4", "layer4.0.conv1.weight"), matches("layer4", "layer40.weight")
    (True, False)
    >>> matches("*.bias", "fc.bias"), matches("fc.*", "fc.bias"), matches("fc.bias", "fc.bias")
    (True, True, True)

    What stands for a kind of parameters is a `NamedSet`.
    """
    glob = _glob(pattern)
    if glob is None:
        return name == pattern or name.startswith(f"{pattern}.")
    return bool(glob.match(name))


def first_indices(patterns: Sequence[str], names: Iterable[str]) -> dict[str, int]:
    """For each of `names` that some pattern covers, the index of the first such pattern.

    >>> first_indices(["layer4.1", "*.bias", "layer4"], ["fc.bias", "fc.weight", "layer4.1.bias", "layer4.0.bias"])
    {'fc.bias': 1, 'layer4.1.bias': 0, 'layer4.0.bias': 1}
    """
    globs, plain = [], dict[str, int]()
    for i, pattern in enumerate(patterns):
        glob = _glob(pattern)
        if glob is None:
            plain.setdefault(pattern, i)
        else:
            globs.append((i, glob))
    found: dict[str, int] = {}
    for name in names if patterns else ():
        # Prefixes are looked up in a dict, so that many cost no more than one.
        first = (
            min((plain[p] for p in _prefixes(name) if p in plain), default=len(patterns)) if plain else len(patterns)
        )
        first = next((i for i, glob in globs if i < first and glob.match(name)), first)
        if first < len(patterns):
            found[name] = first
    return found


def first_matches(patterns: Sequence[str], names: Sequence[str], key: str) -> dict[str, str]:
    """For each of `names` that some pattern covers, the first such pattern in the order written.

    Raises `UnknownNameError` for a pattern that covers no name at all, under the option `key`.
    """
    found = {name: patterns[i] for name, i in first_indices(patterns, names).items()}
    taken = set(found.values())
    for pattern in patterns:
        if pattern not in taken and not any(matches(pattern, name) for name in names):
            raise UnknownNameError(key, pattern, prefixes(names), "the pattern matches no parameter")
    return found


def prefixes(names: Iterable[str]) -> list[str]:
    """Every dotted prefix of `names`, including the names: candidates for a mistyped pattern."""
    return list(dict.fromkeys(prefix for name in names for prefix in _prefixes(name)))


def _prefixes(name: str) -> Iterator[str]:
    """The dotted prefixes of `name`, shortest first, and `name`."""
    end = name.find(".")
    while end >= 0:
        yield name[:end]
        end = name.find(".", end + 1)
    yield name
