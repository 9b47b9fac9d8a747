"""What every benchmark here shares: the machine in a line, contestants taken in turns, medians with their spread.

Times on a busy machine drift by more than the differences that matter. So contestants are compared round by round, each
round in another order, and the ratio to the reference is the median of the rounds' own ratios.
"""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch


class Spread(NamedTuple):
    """Median and quartiles of repeated measurements, in their unit."""

    median: float
    low: float  # the first quartile
    high: float  # the third


def machine() -> str:
    """One line: processor, cores and the threads that torch uses, torch's version, the GPU if there is one."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, {torch.get_num_threads()} threads; torch {torch.__version__}; {gpu}"


def interleave(contestants: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each contestant returned in each of `repeats` rounds; every round takes all of them, in a random order."""
    order, shuffled = list(contestants), random.Random(0)
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        shuffled.shuffle(order)
        for name in order:
            measured[name].append(contestants[name]())
    return measured


def children_cpu() -> float:
    """Seconds of processor time of the living processes that this one has started; 0 without /proc."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else 0.0


def spread(values: Sequence[float]) -> Spread:
    """The median and the quartiles of `values`; of a single value, itself.

    >>> spread([4.0, 1.0, 3.0, 2.0, 5.0])
    Spread(median=3.0, low=2.0, high=4.0)
    """
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratio(values: Sequence[float], reference: Sequence[float]) -> Spread:
    """The spread of `values` over `reference`, round by round.

    >>> ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]).median
    3.0
    """
    return spread([value / other for value, other in zip(values, reference, strict=True)])


def cell(found: Spread, digits: int = 2) -> str:
    """A spread as a table shows it.

    >>> cell(Spread(1.5, 1.25, 2.0))
    '1.50 (1.25-2.00)'
    """
    return f"{found.median:.{digits}f} ({found.low:.{digits}f}-{found.high:.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns as wide as they need to be; all but the first are aligned to the right.

    >>> print(table(["way", "ms"], [["plain", "1.25"]]))
    | way   |   ms |
    | :---- | ---: |
    | plain | 1.25 |
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return f"| {' | '.join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)])} |"

    return "\n".join([line(header), line(rule), *(line(row) for row in rows)])


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        import platform

        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )
