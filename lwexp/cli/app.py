"""The command line: Hydra's composition with every mistake of the user's as one line and exit code 2."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import uuid
from collections.abc import Callable
from typing import Any, NoReturn

from lwexp import redaction
from lwexp.config.defaults import CONF, defaults
from lwexp.distributed import launch
from lwexp.errors import ConfigError, LwexpError, UnknownNameError, UnknownOptionError
from lwexp.host.signals import Interrupted, handle_in_command

_OPEN = (
    "model", "grouping", "decay", "policy", "optimizer", "data", "weights", "tracking", "lr_overrides", "loss",
    "callbacks",
)  # fmt: skip


@redaction.redacted_output()
def main(task: Callable[[Any], Any], folder: str) -> None:
    """Compose the config from the command line and run `task(config)`; its folder is made below outputs/`folder`.

    Exit codes are 0: success; 2: a mistake in what was asked for; 130, 143: interrupted; 1: failed while running. A
    traceback is shown only for errors that are nobody's mistake but lwexp's, or with HYDRA_FULL_ERROR=1.
    """
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    _prepare(folder)
    import hydra

    # Hydra would print its own errors over several lines and exit with 1; with this it raises them instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    handle_in_command()
    # torch logs its cache's statistics at the exit, and they reach the console when an interrupt comes early
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.WARNING)
    try:
        sys.argv[1:] = _checked_arguments(sys.argv[1:], own_folder=folder == "runs")
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(
            _one_lined(task, trains=folder == "runs")
        )()
    except (KeyboardInterrupt, Interrupted) as stopped:
        code = 130 if isinstance(stopped, KeyboardInterrupt) else 143
        if launch.is_rank_zero():
            print("interrupted", file=sys.stderr)
        sys.exit(code)
    except Exception as error:
        if wants_traceback:
            raise
        known = explained(error)
        if known is None:
            raise
        refuse(known)
    finally:
        if not wants_traceback:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _one_lined(task: Callable[[Any], Any], *, trains: bool) -> Callable[[Any], Any]:
    """`task` that ends the process on an error of ours; Hydra would add lines of its own to an exception.

    In a multirun the other jobs go on, so the error is left to Hydra, which hands it to the sweep. `trains`: the jobs
    of a multirun are trainings, which run as `sweep.worker` has it.
    """

    @functools.wraps(task)
    def told(config: Any) -> Any:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        if HydraConfig.get().mode == RunMode.MULTIRUN:
            if not trains:
                return task(config)
            from lwexp.sweep.worker import run_in_sweep

            return run_in_sweep(task, config)
        try:
            return task(config)
        except (LwexpError, KeyboardInterrupt, Interrupted) as error:
            from lwexp.experiment.folder import remove_if_unused

            remove_if_unused()
            if not isinstance(error, LwexpError):
                raise
            refuse(error)

    return told


def refuse(error: LwexpError) -> NoReturn:
    """End the process with the error's line and code; of several processes, rank 0 prints it."""
    if launch.is_rank_zero():
        print(redaction.redact(f"error: {error}"), file=sys.stderr)
    else:
        launch.wait_for_rank_zero()
    sys.exit(error.exit_code)


def explained(error: BaseException) -> LwexpError | None:
    """`error` as one of ours if it is a mistake in the config or on the command line, else None."""
    from hydra.errors import (
        ConfigCompositionException,
        HydraException,
        MissingConfigException,
        OverrideParseException,
    )
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, LwexpError):
        return error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, name = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
        return UnknownNameError(group or "config", name, list(error.options), "no such choice")
    if isinstance(error, OverrideParseException):
        return ConfigError("override", error.override, _one_line(error).split("See https")[0])
    if isinstance(error, ConfigCompositionException):
        found = re.search(r"Could not override '([^']+)'", str(error))
        if found and "No match in the defaults list" not in str(error):
            return UnknownOptionError(found[1], _typed_value(found[1]), _known_keys())
        found = re.search(r"Error merging override \+*([^=\s]+)=", str(error))
        several = re.search(r"(?:argument|parameters) '[+~]*([^'=]+)=", str(error))
        if several:
            why = "several values are for a sweep: add -m; a list is written [a,b]"
            return ConfigError(several[1], _typed_value(several[1]), why)
        if found:
            return ConfigError(found[1], _typed_value(found[1]), "is of another kind (a list, a mapping, one value)")
        return ConfigError("config", _asked(), _one_line(error))
    if isinstance(error, ValueError) and "Config group override must be" in str(error):
        typed = [a.partition("=") for a in sys.argv[1:]]
        key, _, value = next((t for t in typed if (CONF / t[0]).is_dir() and not t[2].isidentifier()), typed[0])
        return ConfigError(key, value, "must be the name of a choice")
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return ConfigError(error.full_key, _typed_value(error.full_key), _one_line(error).partition(" full_key:")[0])
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return ConfigError("config", _asked(), _one_line(error))
    return None


def _prepare(folder: str) -> None:
    """Register with Hydra what it needs before it composes."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from . import choices

    choices.register()
    OmegaConf.register_new_resolver("lwexp_folder", lambda: folder, replace=True)
    sweeps = "sweeps" if folder == "runs" else folder
    OmegaConf.register_new_resolver("lwexp_sweeps", lambda: sweeps, replace=True)
    OmegaConf.register_new_resolver("lwexp_unique", lambda: uuid.uuid4().hex[:6], use_cache=True, replace=True)
    # Hydra refuses keys that a file lacks. In these parts the schema decides, with the nearest names in its answer.
    sections = OmegaConf.create({key: {} for key in _OPEN})
    for key in _OPEN:
        OmegaConf.set_struct(sections[key], False)
    ConfigStore.instance().store(name="sections", node=sections, provider="lwexp")


def _checked_arguments(arguments: list[str], *, own_folder: bool) -> list[str]:
    """`arguments` with the options before the flags, as Hydra's parser wants them, and `resume=<run>` looked up.

    A flag that it does not know is refused in one line; the parser would print its whole usage. `own_folder`: a run
    that is resumed goes on in its own folder.
    """
    from hydra._internal.utils import get_args_parser

    from lwexp.experiment import resume
    from lwexp.sweep.resume import carried_on

    parser = get_args_parser()

    def fail(message: str) -> NoReturn:
        raise ConfigError("command line", " ".join(arguments), f"{message}; see --help")

    parser.error = fail  # type: ignore[method-assign]
    known, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UnknownNameError("command line", unknown[0], flags, "no such flag (options are written key=value)")
    flags = [argument for argument in arguments if argument not in known.overrides]
    asked = carried_on(known.overrides) if own_folder else list(known.overrides)
    if asked != known.overrides and not known.multirun:
        flags.append("-m")
    overrides = resume.with_saved_config(asked, multirun="-m" in flags or known.multirun, own_folder=own_folder)
    return [*overrides, *flags]


def _known_keys() -> list[str]:
    """What may stand on the left of `=`: the keys of config.yaml and the groups."""
    config = defaults()
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    sections = ("unfreeze", "loss", "checkpoint", "sweep", "preview")
    nested = [f"{key}.{inner}" for key in sections for inner in config[key]]
    return [*groups, *nested, *config]


def _typed_value(key: str) -> str:
    """What the command line gave `key`."""
    values = [a.partition("=")[2] for a in sys.argv[1:] if a.lstrip("+~").partition("=")[0] == key]
    return values[-1] if values else "?"


def _asked() -> str:
    """The command line as the user typed it, but for where `resume` leads."""
    from lwexp.experiment import resume

    return " ".join(resume.asked(sys.argv[1:]))


def _one_line(error: BaseException) -> str:
    cause = error.__cause__
    text = f"{error} {cause}" if cause is not None and str(cause) not in str(error) else str(error)
    return " ".join(text.split())
