"""Options that are typed as in other programs: `--lr 0.01`, `lr 0.01`, `lr= 0.01`. The error says what to type."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lwexp.config.defaults import documented
from lwexp.config.keys import GROUPS
from lwexp.errors import ConfigError


def check_flags(arguments: Sequence[str], flags: Collection[str]) -> None:
    """Raise `ConfigError` for the name of an option that is written as a flag, with or without its value.

    `flags` are those that there are; Python's parser would take `--mult` for a short form of `--multirun`.
    """
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = flag.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if not flag.startswith("--") or flag.partition("=")[0] in flags or not _is_option(name):
            continue
        if not equals and following and "=" not in following and not following.startswith("-"):
            raise _mistyped(f"{flag} {following}", name, following)
        raise _mistyped(flag, name, value)


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
