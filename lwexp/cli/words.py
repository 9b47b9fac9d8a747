"""Options that are typed as in other programs: `--lr 0.01`, `lr 0.01`, `lr= 0.01`. The error says what to type."""

from __future__ import annotations

from collections.abc import Sequence

from lwexp.config.defaults import documented
from lwexp.config.keys import GROUPS
from lwexp.errors import ConfigError


def check_flags(flag: str, arguments: Sequence[str]) -> None:
    """Raise `ConfigError` if the unknown `flag` is the name of an option, with or without its value."""
    name, equals, value = flag.lstrip("-").partition("=")
    name = name.replace("-", "_")
    if not _is_option(name):
        return
    typed = flag
    place = arguments.index(flag) + 1 if flag in arguments else len(arguments)
    if not equals and place < len(arguments) and "=" not in arguments[place] and not arguments[place].startswith("-"):
        value = arguments[place]
        typed = f"{flag} {value}"
    raise _mistyped(typed, name, value)


def check_words(words: Sequence[str]) -> None:
    """Raise `ConfigError` for a key and a value that blanks separate."""
    for i, word in enumerate(words):
        key, equals, value = word.partition("=")
        if value or not _is_option(key):
            continue
        rest = words[i + 1 : i + 3]
        if not equals and rest[:1] == ["="]:
            taken = rest
        elif not equals and rest and rest[0].startswith("="):
            taken = rest[:1]
        else:
            taken = [text for text in rest[:1] if "=" not in text and not _is_option(text)]
        if taken:
            raise _mistyped(" ".join([word, *taken]), key, taken[-1].lstrip("="))


def _mistyped(typed: str, key: str, value: str) -> ConfigError:
    why = f"options are written key=value, without dashes or blanks: {key}={value or '…'}"
    return ConfigError("command line", typed, why)


def _is_option(name: str) -> bool:
    return name in documented() or name.partition(".")[0] in GROUPS
