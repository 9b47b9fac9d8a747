"""What a training shows: a bar of the epoch under way on a terminal, a line of every evaluation, how long it takes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from lwexp.data import EpochLoader
from lwexp.formatting import metric_text
from lwexp.host.console import columns, console, duration
from lwexp.tracking import Tracker

from .callbacks import Callback
from .state import Learner, Progress, StepResult

log = logging.getLogger(__name__)

_JOB_CHARACTERS = 24  # of a job's name in front of a bar
_LEAST_BAR = 8  # columns
# What a bar shows beside loss and rates, the richest first
_BARS = (
    "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]{postfix}",
    "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",
    "{desc} |{bar}| {n_fmt}/{total_fmt} <{remaining}{postfix}",
    "{desc} {n_fmt}/{total_fmt} <{remaining}{postfix}",
    "{desc} {n_fmt}/{total_fmt}{postfix}",
)


class Pace:
    """How long a training takes, by the steps and evaluations that it made in this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._stepping = self._evaluating = 0.0  # seconds
        self._steps = self._evaluations = 0
        self._mark = self._epoch = clock()
        self.losses: list[float] = []  # of this epoch's steps, finite ones

    def epoch_start(self) -> None:
        """An epoch starts or resumes."""
        self._mark = self._epoch = self._clock()
        self.losses = []

    def step(self, loss: float) -> None:
        """A step has ended; it took the time since the one before."""
        now = self._clock()
        self._stepping, self._steps, self._mark = self._stepping + now - self._mark, self._steps + 1, now
        if math.isfinite(loss):
            self.losses.append(loss)

    def evaluation(self) -> None:
        """An evaluation has ended."""
        now = self._clock()
        self._evaluating, self._evaluations, self._mark = (
            self._evaluating + now - self._mark,
            self._evaluations + 1,
            now,
        )

    @property
    def epoch_seconds(self) -> float:
        """Seconds since the epoch started."""
        return self._clock() - self._epoch

    def left(self, steps: int, evaluations: int) -> float | None:
        """Seconds for so many further steps and evaluations; None before the first step."""
        if not self._steps:
            return None
        each = self._evaluating / self._evaluations if self._evaluations else 0.0
        return steps * self._stepping / self._steps + evaluations * each


class EpochLog(Callback):
    """Writes a line for each evaluation to the log, and tells the console what the training does."""

    def __init__(self, progress: Progress, steps_per_epoch: int, title: str = "") -> None:
        """`steps_per_epoch`: optimizer steps; `title` stands in front of the epoch while it is under way."""
        self._progress, self._per_epoch = progress, max(steps_per_epoch, 1)
        self.title = f"{title}: " if title else ""
        self.pace = Pace()
        self._loss = math.nan

    def epoch_start(self, progress: Progress) -> None:
        """The clock of the epoch starts."""
        self.pace.epoch_start()

    def step_end(self, result: StepResult) -> None:
        """Keep the loss and the time."""
        self._loss = result.loss
        self.pace.step(result.loss)

    def evaluation_end(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Write the line."""
        self.pace.evaluation()
        own = {key.partition("/")[2]: value for key, value in metrics.items() if key.startswith("val/")}
        losses = self.pace.losses
        trained = [f"train loss {sum(losses) / len(losses):.4f}"] if losses else []
        shown = [f"val {metric_text(name, value)}" for name, value in own.items() if name == "loss"]
        shown += [metric_text(name, value) for name, value in own.items() if name != "loss" and "/" not in name]
        left = self._left(progress.epoch + 1)
        took = duration(self.pace.epoch_seconds) + (f", {duration(left)} left" if left else "")
        log.info(
            "%s",
            fitting(
                [f"epoch {progress.epoch + 1}/{progress.epochs}", f"step {progress.step}/{progress.steps}",
                 *trained, *shown, took],
                keep=[0, 2, 3, 4, len(trained) + len(shown) + 2],
            ),
        )  # fmt: skip

    def text(self) -> str:
        """What the training does, for the console."""
        progress = self._progress
        where = f"{self.title}training, epoch {min(progress.epoch + 1, progress.epochs)}/{progress.epochs}, "
        where += f"step {progress.step}/{progress.steps}"
        loss = f", loss {self._loss:.4f}" if math.isfinite(self._loss) else ""
        left = self._left(progress.epoch)
        return where + loss + (f", {duration(left)} left" if left else "")

    def _left(self, epochs_done: int) -> float | None:
        progress = self._progress
        left = progress.steps - progress.step
        return self.pace.left(left, max(min(-(-left // self._per_epoch), progress.epochs - epochs_done), 0))


class ProgressBar(Callback):
    """Shows loss and rates of the epoch under way, on a terminal only."""

    def __init__(self, train: EpochLoader, accumulate: int, title: str = "") -> None:
        """`accumulate` batches of `train` make an optimizer step; `title` stands in front."""
        self._train, self._accumulate, self._title = train, accumulate, title
        self._bar: tqdm[Any] | None = None
        self._total = 0

    def setup(self, learner: Learner, tracker: Tracker) -> None:
        """Find the head and the stem among the groups."""
        self._head, *_, self._stem = learner.optimized_groups * 2

    def epoch_start(self, progress: Progress) -> None:
        """Start a bar for the rest of the epoch."""
        self._progress = progress
        left = -(-(self._train.epoch_sampler.batches_per_epoch - progress.batches) // self._accumulate)
        total = min(left, progress.steps - progress.step)
        title = f"epoch {progress.epoch + 1}/{progress.epochs}"
        if self._title:
            job = self._title if len(self._title) <= _JOB_CHARACTERS else f"{self._title[: _JOB_CHARACTERS - 1]}…"
            title = f"{job}: {title}"
        self._total = total
        self._bar = tqdm(
            total=total,
            desc=title,
            unit="step",
            leave=False,
            dynamic_ncols=True,
            bar_format=bar_format(len(title), total, columns()),
            disable=None,  # unless it is a terminal
        )

    def step_end(self, result: StepResult) -> None:
        """Move it; after an evaluation within the epoch, a new one."""
        if self._bar is None:
            self.epoch_start(self._progress)
        if self._bar is not None and not self._bar.disable:
            head, stem = result.rates[self._head], result.rates[self._stem]
            self._bar.bar_format = bar_format(len(self._bar.desc), self._total, columns())
            shown = [f"loss {result.loss:.3f}", f"stem {stem:.1e}", f"head {head:.1e}"]
            if self._head == self._stem:
                shown = [shown[0], f"lr {head:.1e}"]
            room = columns() - len(self._bar.desc) - 2 * len(str(self._total)) - 2
            while len(shown) > 1 and len(", ".join(shown)) + 2 > room:
                shown.pop()
            self._bar.set_postfix_str(", ".join(shown), refresh=False)
            self._bar.update()
            console.wrote()

    def evaluation_start(self, split: str) -> None:
        """Remove it."""
        self.close()

    def epoch_undone(self, progress: Progress) -> None:
        """Remove it."""
        self.close()

    def close(self) -> None:
        """Remove it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def bar_format(title: int, total: int, width: int) -> str:
    """The richest form of a bar that leaves room for loss and rates: the bar goes first, then times, at last counts.

    `title`: characters of its title; `total`: steps; `width`: columns of the terminal.
    """
    digits = 2 * len(str(total)) + 1
    rates = len(", loss 12.345, stem 1.0e-03, head 1.0e-03")
    for form in _BARS:
        fixed = form.replace("{bar}", "b" * _LEAST_BAR).replace("{percentage:3.0f}", "100")
        fixed = fixed.replace("{elapsed}", "00:00").replace("{remaining}", "00:00").replace("{rate_fmt}", "12.34step/s")
        needed = len(fixed) - len("{desc}{n_fmt}/{total_fmt}{postfix}") + title + digits + rates
        if needed < width:
            return form
    return _BARS[-1]


def fitting(parts: Sequence[str], keep: Sequence[int]) -> str:
    """`parts` two blanks apart; on a terminal that is too narrow those not in `keep`, positions, go, the last first."""
    shown = list(range(len(parts)))
    dropped = [place for place in shown if place not in keep]
    while dropped and len("  ".join(parts[i] for i in shown)) > console.width:
        shown.remove(dropped.pop())
    return "  ".join(parts[i] for i in shown)
