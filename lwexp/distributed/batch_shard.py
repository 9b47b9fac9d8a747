"""How a batch is split among the processes of a training."""

from __future__ import annotations

from typing import NamedTuple


class BatchShard(NamedTuple):
    """The shard of `rank` when each batch is split among `ranks`."""

    rank: int
    ranks: int

    def bounds(self, samples: int) -> tuple[int, int]:
        """First and last index (exclusive) of the shard in a batch of `samples`; sizes differ by at most one.

        >>> [BatchShard(rank, 3).bounds(8) for rank in range(3)]
        [(0, 2), (2, 5), (5, 8)]
        """
        return self.rank * samples // self.ranks, (self.rank + 1) * samples // self.ranks


WHOLE_BATCH = BatchShard(0, 1)
