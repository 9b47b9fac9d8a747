"""An override that Hydra cannot parse: what is wrong with it, and the same word with quotes where it needs them.

Hydra's grammar takes letters without accents, digits and a few signs as they stand; anything else in a value (`#`, `(`,
`=`, `ü`) needs quotes of its own, inside those of the shell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from lwexp.errors import ConfigError, UnknownOptionError

_KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w.@/:$-]*", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_/\-\\+.$%*@?|:{}\[\], \t'\"]")  # what may be in a value without being looked at
_OPENED, _CLOSED = "[{(", "]})"


def unparsed(override: str, known: list[str]) -> ConfigError:
    """The error about an `override` that Hydra's parser refuses; `known` are the keys that there are."""
    key, equals, value = override.partition("=")
    if not equals:
        return ConfigError("override", override, "options are written key=value; see --help")
    if not _KEY.fullmatch(key):
        return UnknownOptionError(key, value, known)
    if value.startswith("="):
        return ConfigError(key, value, f"options are written with one equals sign, {key}={value[1:]}")
    mended = _mended(value.strip())
    if mended is None:
        return ConfigError(key, value, _open_end(value) or f"{_culprit(value)}; write it in a file for --config-dir")
    return ConfigError(key, value, f"{_culprit(value)}; write {shlex.quote(f'{key}={mended}')}")


def _mended(value: str) -> str | None:
    """`value` with quotes where it needs them; None if they do not help."""
    if value[:1] in ("[", "{"):
        if _open_end(value):
            return None
        mended = _in_container(value)
        return mended if mended is not None and parses(mended) else None
    if "${" in value and _open_end(value):
        return None
    if "," in value and ", " not in value:  # the values of a sweep
        if _open_end(value):
            return None
        parts = [part if parses(part) else _quoted(part) for part in value.split(",")]
        return None if None in parts else ",".join(map(str, parts))
    return _quoted(value)


def _in_container(value: str) -> str | None:
    """A list or mapping with its elements quoted, as far as they need it."""
    value = value.strip()
    if parses(value) and not value.startswith("{"):
        return value
    if value[:1] == "[" and value[-1:] == "]":
        parts = [_in_container(part) for part in _parts(value[1:-1])]
        return None if None in parts else f"[{','.join(map(str, parts))}]"
    if value[:1] == "{" and value[-1:] == "}":
        items = []
        for part in _parts(value[1:-1]):
            name, sign, inner = part.partition(":" if ":" in part else "=")
            mended = _in_container(inner) if sign else None
            if mended is None:
                return None
            items.append(f"{_escaped(name.strip())}: {mended}")
        return f"{{{', '.join(items)}}}"
    return _quoted(value)


def _quoted(text: str) -> str | None:
    for quote in ('"', "'"):
        mended = f"{quote}{text.replace(quote, chr(92) + quote)}{quote}"
        if parses(mended):
            return mended
    return None


def _escaped(name: str) -> str:
    """The key of a mapping, where Hydra knows no quotes."""
    return re.sub(r"(?<!\\)([()\[\]{}=,])", r"\\\1", name)


def _parts(text: str) -> Iterator[str]:
    """The elements between commas, brackets and quotes kept whole."""
    depth, quote, part = 0, "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        depth += (character in _OPENED) - (character in _CLOSED)
        if character == "," and not depth and not quote:
            yield part
            part = ""
        else:
            part += character
    if part.strip():
        yield part


def _open_end(value: str) -> str | None:
    """What is not closed in `value`."""
    for opened, closed in zip(_OPENED[:2], _CLOSED[:2], strict=True):
        if value.count(opened) != value.count(closed):
            many = opened if value.count(opened) > value.count(closed) else closed
            return f"has a {many!r} without its pair; a list is written [a,b], a mapping {{a: 1}}"
    return None


def _culprit(value: str) -> str:
    odd = next((character for character in value if not _PLAIN.match(character)), None)
    return f"Hydra cannot read {'it as it stands' if odd is None else f'{odd!r} here'}"


def parses(value: str) -> bool:
    """Whether Hydra takes `value` as the value of an override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return False
    return True
