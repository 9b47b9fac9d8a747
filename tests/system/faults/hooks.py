"""What happens to a training at a step, asked for by environment variables; outside lwexp, through torch's own hook.

FAULTS_KILL_AT     number of this process's optimizer steps after which it ends by SIGKILL
FAULTS_KILL_AFTER  and so many seconds later, from another thread: anywhere in what follows the step (0: at once)
FAULTS_STEP_SECONDS  sleep in every optimizer step, so that a tiny training takes a while and no processor
FAULTS_STEP_TIMES  file that gets the monotonic time of each optimizer step's end, one a line
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any


def install() -> None:
    """Hook into torch's optimizers as the environment asks."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    kill_at = int(os.environ.get("FAULTS_KILL_AT", "0"))
    after = float(os.environ.get("FAULTS_KILL_AFTER", "0"))
    pause = float(os.environ.get("FAULTS_STEP_SECONDS", "0"))
    times = os.environ.get("FAULTS_STEP_TIMES")
    if not (kill_at or pause or times):
        return
    count = 0

    def hook(optimizer: Any, *_: Any) -> None:
        nonlocal count
        if all(each.grad is None for group in optimizer.param_groups for each in group["params"]):
            return  # not the training's: torch's schedulers have simulated optimizers that step without gradients
        count += 1
        if times:
            with Path(times).open("a", encoding="ascii") as file:
                file.write(f"{time.monotonic():.6f}\n")
        if count == kill_at:
            if not after:
                _kill()
            threading.Timer(after, _kill).start()
        if pause:
            time.sleep(pause)

    register_optimizer_step_post_hook(hook)


def leave_pictures_out() -> None:
    """They take most of so short a run."""
    import lwexp.plots.process

    lwexp.plots.process.write_plots = lambda *_, **__: []


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
