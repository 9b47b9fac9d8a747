"""What the plain commands (`lwexp.report`, `lwexp.predict`, …) share: their parser, options and exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from lwexp.errors import ConfigError, LwexpError, UnknownOptionError
from lwexp.formatting import fit_terminal, version_line
from lwexp.redaction import redact_addresses

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

    def add_network_options(self, *, device: bool = True, code: str = "network is") -> None:
        """Which weights of a run, on which device, and which code of the user's own may be executed for its `code`."""
        self.add_argument("--weights", default="best", help="best (default, by validation) or last (of the last step)")
        if device:
            self.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
        self.add_argument(
            "--allow-target", action="append", default=[], metavar="NAME",
            help=f"a class or function of your own that the run's {code} made by, e.g. my_nets.Net",
        )  # fmt: skip


def exit_code_of(prog: str, action: Callable[[], int]) -> int:
    """The exit code of a command: what `action` returns, that of a mistake, which is printed as one line, or 130."""
    try:
        return action()
    except LwexpError as error:
        print(f"{prog}: {redact_addresses(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # a reader such as `head` has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def without_store(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The `words` of a command line that are no `tracking.uri=…`, and that option.

    >>> without_store(["latest", "tracking.uri=sqlite:///a.db", "photos"])
    (['latest', 'photos'], {'tracking.uri': 'sqlite:///a.db'})
    """
    options = dict(word.split("=", 1) for word in words if word.startswith("tracking.uri="))
    return [word for word in words if not word.startswith("tracking.uri=")], options


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
