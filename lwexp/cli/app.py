"""The Hydra application behind `run` and `preview`: every mistake of the user is one line and exit code 2."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Callable
from typing import Any

from lwexp import redaction
from lwexp.config.defaults import CONF
from lwexp.distributed import launch
from lwexp.formatting import fit_terminal
from lwexp.host.console import console
from lwexp.host.signals import Interrupted, end_quietly, handle_in_command

from .arguments import SHOWS, check_arguments
from .help_pages import Page
from .task import Task, refuse

# Sections whose keys depend on the choice
_OPEN = (
    "model", "grouping", "decay", "policy", "optimizer", "data", "weights", "tracking", "lr_overrides",
    "lr_mults", "group_options", "loss", "metrics", "callbacks", "tags", "policies", "unfreeze", "weight_decay_policy",
    "momentum_policy",
)  # fmt: skip

# Flags of commands that only print something, in a form that other programs read
_ASKS = SHOWS | {"-h", "--help", "--hydra-help", "--version", "--package", "-p", "--resolve"}


@redaction.redacted_output()
def main(task: Callable[[Any], Any], folder: str, page: Page) -> None:
    """Compose the config from the command line and run `task(config)`; `page` is the command's help.

    Its folder is made below outputs/`folder`.

    Exit codes: 0: success; 1: failed while running; 2: a mistake in the command or the config; 130, 143: interrupted.
    A traceback is shown only for errors of lwexp itself, or with HYDRA_FULL_ERROR=1.
    """
    fit_terminal()
    if launch.is_rank_zero() and not _ASKS.intersection(argument.partition("=")[0] for argument in sys.argv[1:]):
        console.start("loading PyTorch")
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    register(folder)
    import hydra

    from .callback import LwexpCallback

    # Hydra would print its own errors over several lines and exit with 1; with this it raises them instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    handle_in_command()
    # torch logs its cache's statistics at the exit, and they reach the console when an interrupt comes early
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.WARNING)
    code = 0
    try:
        trains = folder == "runs"
        sys.argv[1:] = check_arguments(sys.argv[1:], page, own_folder=trains)
        with Task(task, trains=trains) as job:
            LwexpCallback.task = job
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    except (KeyboardInterrupt, Interrupted) as stopped:
        code = 130 if isinstance(stopped, KeyboardInterrupt) else 143
        end_quietly(code)
        if launch.is_rank_zero():
            print("interrupted", file=sys.stderr)
        sys.exit(code)
    except Exception as error:
        code = 1
        if wants_traceback:
            raise
        from lwexp.config.hydra_errors import as_lwexp_error

        known = as_lwexp_error(error, sys.argv[1:])
        if known is None:
            raise
        code = known.exit_code
        refuse(known)
    finally:
        console.stop()
        end_quietly(code)
        if not wants_traceback:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def register(folder: str) -> None:
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
