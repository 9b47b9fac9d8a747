"""The arguments of a command as Hydra wants them: options before flags, `resume` and `sweep.resume` looked up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from lwexp.errors import ConfigError, UnknownNameError


def check_arguments(arguments: Sequence[str], *, own_folder: bool) -> list[str]:
    """`arguments` with the options before the flags and with what `resume` and `sweep.resume` stand for.

    An unknown flag is a `ConfigError` of one line; Hydra's parser would print its whole usage. `own_folder`: a run is
    resumed in its own folder.
    """
    from hydra._internal.utils import get_args_parser

    from lwexp.sweep.resume import carried_on

    from .resume_option import with_saved_config

    parser = get_args_parser()

    def fail(message: str) -> NoReturn:
        raise ConfigError("command line", " ".join(arguments), f"{message}; see --help")

    parser.error = fail  # type: ignore[method-assign]
    known, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UnknownNameError("command line", unknown[0], flags, "no such flag (options are written key=value)")
    flags = [argument for argument in arguments if argument not in known.overrides]
    given = carried_on(known.overrides) if own_folder else list(known.overrides)
    if given != known.overrides and not known.multirun:
        flags.append("-m")
    overrides = with_saved_config(given, multirun="-m" in flags or known.multirun, own_folder=own_folder)
    return [*overrides, *flags]
