"""The arguments of a command as Hydra wants them: options before flags, `resume` and `sweep.resume` looked up."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lwexp.config.overrides import FOLDERS_URI, given_value
from lwexp.errors import ConfigError, UnknownNameError
from lwexp.formatting import version_line

from .help_pages import Page, run_page
from .words import check_flags, check_words

SHOWS = frozenset(["-c", "--cfg", "-i", "--info", "-sc", "--shell-completion"])  # flags that print, and run nothing


def check_arguments(arguments: Sequence[str], page: Page = run_page, *, own_folder: bool) -> list[str]:
    """`arguments` with the options before the flags and with what `resume` and `sweep.resume` stand for.

    An unknown flag is a `ConfigError` of one line; Hydra's parser would print its whole usage. `--help` prints `page`
    and `--version` lwexp's version, and the process ends. `own_folder`: a run is resumed in its own folder.
    """
    from hydra._internal.utils import get_args_parser

    if "--version" in arguments:
        print(version_line())
        sys.exit(0)
    parser = get_args_parser()

    def fail(message: str) -> NoReturn:
        raise ConfigError("command line", " ".join(arguments), f"{message}; see --help")

    parser.error = fail  # type: ignore[method-assign]
    check_flags(arguments, {flag for action in parser._actions for flag in action.option_strings})
    known, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UnknownNameError("command line", unknown[0], flags, "no such flag (options are written key=value)")
    if known.help:
        topics = [override for override in known.overrides if "=" not in override]
        _print_page(page(topics, Path(known.config_dir) if known.config_dir else None))
        sys.exit(0)
    check_words(known.overrides)
    _check_config_folder(known)
    flags = [argument for argument in arguments if argument not in known.overrides]
    overrides: list[str] = list(known.overrides)
    multirun: bool = known.multirun
    os.environ.pop(FOLDERS_URI, None)
    if own_folder and _gives(overrides, "sweep.resume"):
        from lwexp.sweep.resume import with_resumed_sweep

        overrides, config_dir = with_resumed_sweep(overrides, known.config_dir, known.config_name)
        if overrides != known.overrides:
            flags += [] if config_dir is None else ["--config-dir", config_dir]
            flags, multirun = [*flags, *([] if multirun else ["-m"])], True
    shown = SHOWS.intersection(flag.partition("=")[0] for flag in flags)
    if shown and multirun:
        why = "shows one config, not those of a sweep: a command without it, and with one value of each option"
        raise ConfigError(min(shown), "-m" if known.multirun else "sweep.resume", why)
    if _gives(overrides, "study") and not _gives(overrides, "hydra/sweeper"):
        if not shown and not (multirun and own_folder):
            name = given_value("study", overrides)
            raise ConfigError("study", name, f"is many runs: python -m lwexp.study study={name}")
        overrides = [*overrides, "hydra/sweeper=study"]
    if _gives(overrides, "resume"):
        from .resume_option import with_saved_config

        overrides = with_saved_config(overrides, multirun=multirun, own_folder=own_folder)
    if _gives(overrides, "from_run"):
        from .resume_option import with_config_of_run

        overrides = with_config_of_run(overrides, trains=own_folder)
    return [*overrides, *flags]


def _check_config_folder(known: Namespace) -> None:
    """Refuse a config that Hydra would pass over: lwexp's own config.yaml comes first."""
    for flag, folder in (("--config-dir", known.config_dir), ("--config-path", known.config_path)):
        name = (known.config_name or "config").removesuffix(".yaml")
        if folder is None or name != "config" or not (Path(folder) / "config.yaml").is_file():
            continue
        if (Path(folder) / "journal.lwexp").is_file():
            why = f"is the folder of a run; from_run={folder} starts a new run from its config"
            raise ConfigError(flag, folder, why)
        if flag == "--config-dir" and known.config_name:
            why = "has a config.yaml, but lwexp's own of that name is read; give yours another name"
            raise ConfigError(flag, folder, why)


def _print_page(text: str) -> None:
    """Print `text`; a reader such as `head` may close the pipe before its end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again when it ends


def _gives(overrides: Sequence[str], key: str) -> bool:
    """Also keeps what looks a run up from being imported by commands that need none."""
    return any(override.lstrip("+~").partition("=")[0] == key for override in overrides)
