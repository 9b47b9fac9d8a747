"""What the plain commands (`lwexp.ui`, `lwexp.sync`, `lwexp.report`) share: their options are a run's `tracking.*`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lwexp.errors import ConfigError, LwexpError, UnknownOptionError
from lwexp.formatting import fit_terminal, version_line

from .defaults import defaults, documented
from .schema import MLflowConfig


class UsageError(LwexpError):
    """The command line cannot be read."""

    exit_code = 2


class Parser(argparse.ArgumentParser):
    """argparse's, with mistakes as one line and exit code 2, without the usage."""

    def __init__(self, prog: str, description: str, options: Sequence[str]) -> None:
        """`options` are the `tracking.*` keys that the command takes, explained at the end of its help."""
        fit_terminal()
        known = documented("tracking/mlflow")
        lines = [(f"  {key}=…", known[key.partition(".")[2]][1]) for key in options]
        width = max(len(option) for option, _ in lines)
        epilog = "\n".join(["options of lwexp.run, written as there:", *(f"{o:<{width}}  {why}" for o, why in lines)])
        super().__init__(
            prog=prog, description=description, epilog=epilog, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        self.add_argument("--version", action="version", version=version_line())

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError`."""
        raise UsageError(f"{message}; see {self.prog} --help")


def tracking_config(options: Sequence[str], known: Sequence[str]) -> MLflowConfig:
    """The tracking section with `options`, written `tracking.key=value`, of which `known` are allowed.

    What is not given has the default that it has for a run. Raises `UsageError`, `ConfigError`.
    """
    values = defaults("tracking/mlflow")
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise UsageError(f"{option!r}: options are written {', '.join(f'{key}=…' for key in known)}")
        if name not in known:
            raise UnknownOptionError(name, value, known)
        key = name.partition(".")[2]
        values[key] = _seconds(name, value) if isinstance(values[key], float) else value
    return MLflowConfig(**values)


def number(key: str, value: str, kind: type[int] | type[float]) -> float:
    """`value` as a number. Raises `ConfigError`."""
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(key, value, "must be a number") from None


def _seconds(key: str, value: str) -> float:
    seconds = number(key, value, float)
    if not 0 < seconds < float("inf"):
        raise ConfigError(key, value, "must be above 0, in seconds")
    return seconds


def output_file(key: str, path: Path) -> Path:
    """`path`, where a command writes a file. Raises `ConfigError` for a folder, before any work is done."""
    if not path.name or path.is_dir():
        raise ConfigError(key, path, "is a folder; give the name of the file")
    return path
