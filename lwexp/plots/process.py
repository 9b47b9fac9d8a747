"""A plan's rates as pictures, drawn by `lwexp.plots.rates` in a process of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lwexp.core.plan import Plan
from lwexp.core.schedule import Schedule
from lwexp.errors import RunError

from .rate_table import RateTable, subsample


def draw_plan(plan: Plan, schedule: Schedule, steps: int, folder: Path) -> list[Path]:
    """Pictures of the rates at all `steps`, before any is taken; returns the files written to `folder`."""
    shown = subsample(np.arange(steps))
    return write_plots(_table(plan, schedule.table(shown.tolist()).numpy(), shown), folder)


def draw_seen(plan: Plan, rates: Sequence[Sequence[float]], folder: Path) -> list[Path]:
    """The same from rates seen in training, one row per step, for policies that look at it."""
    shown = subsample(np.arange(len(rates)))
    return write_plots(_table(plan, np.asarray(rates, dtype=np.float64)[shown], shown), folder)


def _table(plan: Plan, rates: np.ndarray, steps: np.ndarray) -> RateTable:
    mult = f", mult={plan.mult:g}" if plan.decay == "linear" else ""
    return RateTable(
        title=f"{plan.model}: {plan.grouping}, {plan.decay}, lr={plan.lr:g}{mult}",
        names=plan.labels,
        depths=[g.depth for g in plan.groups],
        frozen=[g.frozen for g in plan.groups],
        rates=rates,
        steps=steps,
    )


def write_plots(table: RateTable, folder: Path) -> list[Path]:
    """The files that `lwexp.plots.rates.write_plots` writes, by a process of its own; raises `RunError`.

    matplotlib, and the memory that it draws in, would else stay with a training for as long as it takes. The jobs of a
    sweep draw themselves: they are forked from a process that has imported it.
    """
    if "lwexp.sweep.warm" in sys.modules:
        from . import rates

        try:
            return rates.write_plots(table, folder)
        except Exception as error:
            raise RunError(f"the pictures of the plan cannot be drawn: {type(error).__name__}: {error}") from error
    texts = {"title": table.title, "names": table.names, "depths": table.depths, "frozen": table.frozen}
    sent = io.BytesIO()
    np.savez(sent, rates=table.rates, steps=table.steps, texts=np.array(json.dumps(texts)))
    command = [sys.executable, "-m", "lwexp.plots.rates", str(folder)]
    # A session of its own: Ctrl-C is for the training.
    done = subprocess.run(command, input=sent.getvalue(), capture_output=True, start_new_session=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise RunError(f"the pictures of the plan cannot be drawn: {reason or f'exit code {done.returncode}'}")
    return [Path(path) for path in json.loads(done.stdout)]
