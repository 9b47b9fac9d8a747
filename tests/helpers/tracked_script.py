"""A training script of a user: `python -m tests.helpers.tracked_script <how it ends> [first step] [last step]`.

Writes each step to truth.txt once `record.step` has returned: its number, the loss and the rates, exactly.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TextIO

import lwexp
from lwexp.record.live import Record
from tests.helpers.tracked_loops import losses, network


def main() -> None:
    ends, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    plan = lwexp.make_plan(network(), lr=0.1, mult=0.7)
    optimizer = plan.optimizer("sgd")
    scheduler = plan.scheduler(optimizer, lambda step: 1 / (1 + step / 7))
    scheduler.load_state_dict({**scheduler.state_dict(), "step": first})
    record = lwexp.track(scheduler, folder="outputs/runs/mine", resume="auto", params={"ends": ends})
    with Path("truth.txt").open("a", encoding="utf-8", buffering=1) as truth:
        if ends == "object":
            train(record.start(), scheduler, truth, first, last)
            sys.exit(0)  # without record.end()
        if ends == "object-error":
            train(record.start(), scheduler, truth, first, last)
            raise ValueError("no more data")
        with record:
            train(record, scheduler, truth, first, last)


def train(record: Record, scheduler: lwexp.PlanScheduler, truth: TextIO, first: int, last: int) -> None:
    optimizer = scheduler.optimizer
    for number, loss in zip(range(first, last), losses(optimizer, last - first), strict=True):
        record.step({"train/loss": loss})
        values = [loss.item(), *(group["lr"] for group in optimizer.param_groups)]
        truth.write(" ".join([str(number), *(value.hex() for value in values)]) + "\n")
        scheduler.step()
        time.sleep(0.002)


if __name__ == "__main__":
    main()
