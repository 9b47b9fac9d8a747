"""This process's rank as set by a launcher (torchrun, accelerate) and what only rank 0 does.

Imports no torch: the rank is needed before a config is composed.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from lwexp.errors import ConfigError
from lwexp.host.signals import Interrupted

GRACE_SECONDS = 10.0
_REQUIRED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """Rank of this process and number of processes, in all and on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def read_launch() -> Launch:
    """The launcher's environment variables; a single process unless all required ones are set.

    Raises `ConfigError` where one is not an integer.
    """
    given = os.environ
    if any(not given.get(name) for name in _REQUIRED) or given["WORLD_SIZE"] == "1":
        return Launch()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    texts = [given["RANK"], given["WORLD_SIZE"], given.get("LOCAL_RANK") or given["RANK"]]
    texts.append(given.get("LOCAL_WORLD_SIZE") or given["WORLD_SIZE"])
    for name, text in zip(names, texts, strict=True):
        if not text.isdecimal():
            raise ConfigError(name, text, "is not an integer; it is set by torchrun or accelerate launch")
    return Launch(*map(int, texts))


def is_rank_zero() -> bool:
    """Whether this process prints and writes for all: the only one, or rank 0 of several."""
    return os.environ.get("RANK", "0") == "0" or read_launch().rank == 0


def refuse_sweep() -> None:
    """Raise `ConfigError` where several processes would each start the same sweep."""
    size = read_launch().size
    if size > 1:
        raise ConfigError("WORLD_SIZE", size, "a sweep is started by one process; start each of its runs on several")


def wait_for_rank_zero() -> None:
    """Wait before exiting with an error that rank 0 reports: a launcher kills all processes when one has exited.

    Returns when interrupted, or after ten seconds.
    """
    try:
        time.sleep(GRACE_SECONDS)
    except (KeyboardInterrupt, Interrupted):
        return
