"""Errors a user can cause, as one line each: the key, the value, why it cannot be, and the nearest valid choices.

LwexpError
├── ConfigError (also ValueError)   a mistake in what was asked for; exit code 2
│   ├── UnknownNameError            a value that names nothing
│   │   └── UnknownGroupError       (also KeyError) a name that no group of the plan has
│   └── UnknownOptionError          a key that does not exist
└── RunError                        something failed while running; exit code 1
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LwexpError(Exception):
    """Any error that lwexp explains in one line; `exit_code` is what the command line returns for it."""

    exit_code = 1


class ConfigError(LwexpError, ValueError):
    """`key` was given `value`, which cannot be; `why` says what is wrong and, where it helps, what is allowed."""

    exit_code = 2

    def __init__(self, key: str, value: object, why: str) -> None:
        """Join the three into one line."""
        self.key, self.value, self.why = key, value, why
        super().__init__(f"{key}={_shown(value)}: {why}")

    def renamed(self, key: str) -> ConfigError:
        """The same error about another `key`."""
        return _rebuild(type(self), key, self.value, self.why)

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, object, str]]:
        """Pickle by the three parts, so that an error crosses process borders (launchers of sweeps)."""
        return (_rebuild, (type(self), self.key, self.value, self.why))  # type: ignore[return-value]


class UnknownNameError(ConfigError):
    """`value` is none of `choices`; the message ends with the nearest of them."""

    def __init__(self, key: str, value: object, choices: Iterable[str], what: str = "no such name") -> None:
        """`what` says what was looked for, e.g. 'no such decay'."""
        super().__init__(key, value, f"{what}; {nearest(str(value), choices)}")


class UnknownGroupError(UnknownNameError, KeyError):
    """No group of the plan has the name `value`."""

    __str__ = BaseException.__str__  # KeyError would put the line in quotes


class UnknownOptionError(ConfigError):
    """The dotted `key` does not exist; the message ends with the nearest of `choices`, keys with or without a path."""

    def __init__(self, key: str, value: object, choices: Iterable[str], what: str = "unknown option") -> None:
        """`what` says who does not know the key, e.g. 'Adam has no such option'."""
        choices = list(choices)
        whole = any("." in choice for choice in choices)
        super().__init__(key, value, f"{what}; {nearest(key if whole else key.rpartition('.')[2], choices)}")


class RunError(LwexpError):
    """The run could not go on, through no mistake in the config."""


class NoLayerwiseRatesWarning(UserWarning):
    """Rates were to fall with depth, and all layers of the network are in one group."""


def nearest(value: str, choices: Iterable[str], count: int = 3) -> str:
    """Words that point from `value` to valid choices: the closest ones, or all of a short list.

    >>> nearest("liner", ["linear", "cosine", "none"])
    'did you mean linear?'
    >>> nearest("xyz", ["linear", "cosine"])
    'choices: cosine, linear'
    """
    names = sorted(set(choices))
    close = difflib.get_close_matches(value, names, n=count, cutoff=0.6)
    if close:
        return f"did you mean {', '.join(close)}?"
    shown = ", ".join(names[:12])
    return f"choices: {shown}{f', … ({len(names)} in all)' if len(names) > 12 else ''}" if names else "there are none"


def _shown(value: object) -> str:
    """`value` as it would be typed on the command line, kept on one short line."""
    text = " ".join(str(value).split()) if value is not None else "null"
    return text if len(text) <= 200 else f"{text[:197]}..."


def _rebuild(kind: type[ConfigError], key: str, value: object, why: str) -> ConfigError:
    error = kind.__new__(kind)
    ConfigError.__init__(error, key, value, why)
    return error
