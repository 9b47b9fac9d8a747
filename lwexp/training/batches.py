"""Batches for the loop, the same way for one process and for many: all agree before each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lwexp.distributed.world import World
from lwexp.host.signals import STOP, Requests

from .checkpoint.checkpointer import Checkpointer
from .loss import BatchWeight


@dataclass(frozen=True)
class Batches:
    """The batches of one optimizer step: this process's shard of each."""

    batches: list[Any]
    weights: list[float]  # what the mean loss of each divides by
    total: float  # the sum of these in all processes: what the mean loss of the whole step divides by

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.batches)


@dataclass
class BatchFeed:
    """Feeds batches in lists, and lets signals and checkpoints in between two of them."""

    weight: BatchWeight
    world: World
    signals: Requests
    checkpointer: Checkpointer
    flush: Callable[[], None]  # brings the numbers of all steps

    def __call__(self, batches: Iterable[Any], size: int, more: Callable[[], bool] = lambda: True) -> Iterator[Batches]:
        """`batches` in lists of `size`, the last one shorter, while there shall be `more`.

        Before each list and after the last, all processes agree: an error or a signal in one ends all, a checkpoint is
        saved by all at the same step, and each knows what the mean loss of the whole list divides by.
        """
        lists = _lists(batches, size)
        while True:
            failure, found = None, None
            try:
                found = next(lists, None) if more() else None
            except Exception as error:
                failure = error
            weights = [self.weight(labels) for _, labels in found or ()]
            total = self.agree(failure, sum(weights))
            if found is None:
                return
            yield Batches(found, weights, total)

    def agree(self, failure: Exception | None = None, weight: float = 0.0) -> float:
        """Save and stop where it is due or asked for in any process; returns the sum of `weight` over all."""
        signals = self.signals
        save = signals.save or (self.world.is_rank_zero and self.checkpointer.due())
        stops = [float(signals.stop == signum) for signum in STOP]
        signals.save = False
        failed, saves, total, *sums = self.world.sum_numbers([failure is not None, save, weight, *stops])
        stop = next((signum for signum, count in zip(STOP, sums, strict=True) if count and not failed), None)
        if saves or stop is not None:
            self.checkpointer.save(self.flush)
        if failed:
            self.world.raise_failure(failure)
        if stop is not None:
            signals.stop = stop
            signals.raise_stop()
        return total


def _lists(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk = []
    for batch in batches:
        chunk.append(batch)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
