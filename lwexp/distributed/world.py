"""The ranks of a training as seen by one of them: what rank 0 does for all, and what all agree on."""

from __future__ import annotations

import contextlib
import gc
import itertools
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
from torch import Tensor

from lwexp.errors import ConfigError, LwexpError, RunError
from lwexp.formatting import one_line
from lwexp.host.device import build_device
from lwexp.host.signals import Interrupted

from .batch_shard import WHOLE_BATCH, BatchShard
from .launch import Launch, read_launch

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")
_POLL_SECONDS = 0.02
_SHUTDOWN_SECONDS = 600.0
_PEER_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket|process group", re.IGNORECASE)


class RemoteError(LwexpError):
    """An error raised on another rank, re-raised here with its text and `exit_code`."""

    def __init__(self, error: BaseException) -> None:
        """Keep the text of `error` only: not every exception can be pickled."""
        self.exit_code = getattr(error, "exit_code", 1)
        super().__init__(one_line(error, limit=None))


class World:
    """Base class: a single process; every collective is the identity."""

    rank = 0
    size = 1
    shard: BatchShard = WHOLE_BATCH  # of each batch, the one this rank trains on

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process prints and writes for all."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this rank, by the config's `device`. Raises `ConfigError` where it is not available."""
        return build_device(name)

    def on_rank_zero(self, action: Callable[[], T]) -> T:
        """Run `action` on rank 0 only; all ranks return its result, or raise its error.

        The other ranks wait without a timeout.
        """
        return action()

    def on_all_ranks(self, action: Callable[[], T]) -> T:
        """Run `action` on every rank and return its result; if it fails on any, all raise."""
        return action()

    def agree(self, failure: Exception | None, numbers: Sequence[float]) -> list[float]:
        """The sums of `numbers` (the same count on each rank) over all ranks; if one has a `failure`, all raise."""
        failed, *sums = self.sum_numbers([failure is not None, *numbers])
        if failed:
            self.raise_failure(failure)
        return sums

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        """The sums of `numbers` (the same count on each rank) over all ranks."""
        return [float(number) for number in numbers]

    def raise_failure(self, failure: Exception | None) -> NoReturn:
        """Raise this rank's `failure`, or where it has none, that of the first rank that has one."""
        assert failure is not None
        raise failure

    def all_gather(self, value: T) -> list[T]:
        """The `value` of each rank, in rank order."""
        return [value]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks of tensors of one shape, the same on each."""
        return tensor

    def detect_lost_ranks(self) -> AbstractContextManager[None]:
        """Context in which a lost peer (a rank whose process ended) raises `RunError`."""
        return nullcontext()

    def leave(self, error: BaseException | None = None) -> None:
        """Leave the training, after `error` if one ends it. Other ranks wait until rank 0 has reported it."""


SINGLE = World()


class DistributedWorld(World):
    """Several processes, connected by a process group of torch.distributed."""

    def __init__(self, launch: Launch, store: Store) -> None:
        """The process group exists already; `store` is shared by all ranks."""
        self.rank, self.size, self._launch, self._store = launch.rank, launch.size, launch, store
        self.shard = BatchShard(self.rank, self.size)
        self._turns = itertools.count()

    def device(self, name: str) -> torch.device:
        """One GPU per process of this machine, or the CPU."""
        if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return torch.device("cpu")
        if name not in ("auto", "cuda"):
            raise ConfigError("device", name, "several processes train on auto, cpu or cuda, one GPU each")
        count = torch.cuda.device_count()
        if self._launch.local_size > count:
            why = f"this machine has {count} GPUs for {self._launch.local_size} processes"
            raise ConfigError("device", name, why)
        device = torch.device("cuda", self._launch.local_rank)
        torch.cuda.set_device(device)
        return device

    def on_rank_zero(self, action: Callable[[], T]) -> T:
        """Other ranks poll the store: a blocking collective would time out and ignore signals."""
        from torch.distributed import broadcast_object_list

        done, error = f"turn {next(self._turns)}", None
        found: list[Any] = [None, None]
        if self.is_rank_zero:
            try:
                found[0] = action()
            except Exception as failure:
                error, found[1] = failure, RemoteError(failure)
            self._store.set(done, "")
        else:
            self._await(done)
        broadcast_object_list(found, src=0)
        if error is not None:
            raise error
        if found[1] is not None:
            raise found[1]
        result: T = found[0]
        return result

    def on_all_ranks(self, action: Callable[[], T]) -> T:
        """All raise the same error, that of the lowest rank that has one."""
        failure: Exception | None = None
        result: Any = None
        try:
            result = action()
        except Exception as error:
            failure = error
        self.agree(failure, [])
        return result  # type: ignore[no-any-return]

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        """One all-reduce, on the CPU."""
        return self.sum(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def raise_failure(self, failure: Exception | None) -> NoReturn:
        """Errors of other ranks are raised as `RemoteError`."""
        others = self.all_gather(None if failure is None else RemoteError(failure))
        if failure is not None:
            raise failure
        raise next(other for other in others if other is not None)

    def all_gather(self, value: T) -> list[T]:
        """`value` is pickled."""
        from torch.distributed import all_gather_object

        found: list[Any] = [None] * self.size
        all_gather_object(found, value)
        return found

    def sum(self, tensor: Tensor) -> Tensor:
        """All-reduce on the tensor's device."""
        from torch.distributed import all_reduce

        total = tensor.detach().clone()
        all_reduce(total)
        return total

    @contextlib.contextmanager
    def detect_lost_ranks(self) -> Iterator[None]:
        """Recognized by the error texts of gloo and NCCL."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, LwexpError) or not _PEER_LOST.search(str(error)):
                raise
            raise RunError("another process of this training has ended, so this one cannot continue") from error

    def leave(self, error: BaseException | None = None) -> None:
        """Through the store. After an error that the ranks did not agree on, at once: the others wait for this rank."""
        with contextlib.suppress(Exception):  # the store is gone once rank 0 has ended
            if self.is_rank_zero:
                self._store.set("ended", "")
            elif isinstance(error, (LwexpError, KeyboardInterrupt, Interrupted)):
                self._await("ended", _SHUTDOWN_SECONDS)
        if error is None:
            gc.collect()  # a trainer refers to itself: its model must not outlive the group, whose threads would abort
            torch.distributed.destroy_process_group()

    def _await(self, key: str, seconds: float = float("inf")) -> None:
        deadline = time.monotonic() + seconds
        while not self._store.check([key]) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def join() -> World:
    """The world of this training; of several processes, as soon as all have started."""
    launch = read_launch()
    if launch.size == 1:
        return SINGLE
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if not distributed.is_available():
        raise ConfigError("WORLD_SIZE", launch.size, "this build of torch trains in one process only")
    on_gpus = torch.cuda.is_available() and distributed.is_nccl_available()
    # No Python handler runs while this waits for the other ranks; a launcher's SIGTERM must end it all the same.
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        store, _, _ = next(rendezvous("env://", launch.rank, launch.size))
        backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
        distributed.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.size)
    finally:
        signal.signal(signal.SIGTERM, handler)
    return DistributedWorld(launch, PrefixStore("lwexp", store))
