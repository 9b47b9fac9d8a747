"""What a launcher (torchrun, accelerate) tells its processes, and how all but the first of them keep quiet.

Nothing here imports torch: it is asked before a config is composed.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lwexp.errors import ConfigError
from lwexp.host.signals import Interrupted

if TYPE_CHECKING:
    from omegaconf import DictConfig

_GRACE_SECONDS = 10.0
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """Which of how many processes this is, in all and on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def launched() -> Launch:
    """What the environment says; a single process where it does not say all that is needed, or says one."""
    given = os.environ
    if any(not given.get(name) for name in _NEEDED) or given["WORLD_SIZE"] == "1":
        return Launch()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    texts = [given["RANK"], given["WORLD_SIZE"], given.get("LOCAL_RANK") or given["RANK"]]
    texts.append(given.get("LOCAL_WORLD_SIZE") or given["WORLD_SIZE"])
    for name, text in zip(names, texts, strict=True):
        if not text.isdecimal():
            raise ConfigError(name, text, "is no count; it is set by torchrun or accelerate launch")
    return Launch(*map(int, texts))


def follows() -> bool:
    """Whether this is one of several processes and not the first, which speaks and writes for all."""
    return os.environ.get("RANK", "0") != "0" and launched().rank > 0


def refuse_sweep() -> None:
    """Raise `ConfigError` where several processes would each start the same sweep."""
    size = launched().size
    if size > 1:
        raise ConfigError("WORLD_SIZE", size, "a sweep is started by one process; start each of its runs on several")


def leave_to_first() -> None:
    """Before this process ends with a mistake that the first one tells: a launcher kills all when one has ended.

    Returns when it is ended, or after ten seconds in which nobody did.
    """
    try:
        time.sleep(_GRACE_SECONDS)
    except (KeyboardInterrupt, Interrupted):
        return


def make_quiet(config: DictConfig) -> None:
    """Let Hydra make no folder and no log, as the first process makes them for all."""
    import warnings

    from omegaconf import open_dict, read_write

    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.run.dir = str(Path.cwd())
        handlers = {"none": {"class": "logging.NullHandler"}}
        config.hydra.job_logging = {"version": 1, "handlers": handlers, "root": {"handlers": ["none"]}}
    warnings.simplefilter("ignore")
