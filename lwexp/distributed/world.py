"""The processes of a training as one of them sees them: who does what for all, and what all agree on."""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from lwexp.data import WHOLE, Part
from lwexp.errors import ConfigError, LwexpError, RunError
from lwexp.host.signals import Interrupted

from .launch import Launch, launched

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")
_POLL_SECONDS = 0.02
_LAST_WORD_SECONDS = 600.0
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket|process group", re.IGNORECASE)


class ElsewhereError(LwexpError):
    """What another process met, told here as it told it; `exit_code` is that of its error."""

    def __init__(self, error: BaseException) -> None:
        """Take over the text of `error`."""
        self.exit_code = getattr(error, "exit_code", 1)
        super().__init__(" ".join(str(error).split()) or type(error).__name__)


class Processes:
    """A training's processes; this class itself is the only one of its training, for which all is easy."""

    rank = 0
    size = 1
    part: Part = WHOLE  # of each batch, this process's own

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this process, of what `device` in the config asks for. Raises `ConfigError`."""
        from lwexp.experiment.instantiate import build_device

        return build_device(name)

    def first(self, action: Callable[[], T]) -> T:
        """What `action` returns in the first process, which alone does it, or the error that it raises there.

        The others wait, for however long.
        """
        return action()

    def together(self, action: Callable[[], T]) -> T:
        """What `action` returns here; where it fails in any process, all raise."""
        return action()

    def agree(self, failure: Exception | None, numbers: Sequence[float]) -> list[float]:
        """The sums of `numbers` (equally many in each process) over all; raises where one of them has a `failure`."""
        if failure is not None:
            raise failure
        return list(numbers)

    def all_gathered(self, value: T) -> list[T]:
        """The `value` of each process, in their order."""
        return [value]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same in each, of tensors of one shape."""
        return tensor

    def watching(self) -> AbstractContextManager[None]:
        """A block in which the loss of another process is a `RunError`."""
        return nullcontext()

    def leave(self, error: BaseException | None = None) -> None:
        """The end, after the `error` that ends it: the first process tells, so the others let it end before them."""


ALONE = Processes()


class Team(Processes):
    """Several processes, with a process group of torch.distributed."""

    def __init__(self, launch: Launch, store: Store) -> None:
        """After the process group has been made; `store` is common to all."""
        self.rank, self.size, self._launch, self._store = launch.rank, launch.size, launch, store
        self.part = Part(self.rank, self.size)
        self._turns = itertools.count()

    def device(self, name: str) -> torch.device:
        """A GPU for each process of this machine, or the CPU."""
        if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return torch.device("cpu")
        if name not in ("auto", "cuda"):
            raise ConfigError("device", name, "several processes train on auto, cpu, or cuda: a GPU for each")
        count = torch.cuda.device_count()
        if self._launch.local_size > count:
            why = f"this machine has {count} of them for {self._launch.local_size} processes"
            raise ConfigError("device", name, why)
        device = torch.device("cuda", self._launch.local_rank)
        torch.cuda.set_device(device)
        return device

    def first(self, action: Callable[[], T]) -> T:
        """By the store, which the others ask again and again: a collective would time out, and heed no signal."""
        from torch.distributed import broadcast_object_list

        done, error = f"turn {next(self._turns)}", None
        found: list[Any] = [None, None]
        if self.is_first:
            try:
                found[0] = action()
            except Exception as failure:
                error, found[1] = failure, ElsewhereError(failure)
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

    def together(self, action: Callable[[], T]) -> T:
        """With the same error in all: that of the first process that has one."""
        failure: Exception | None = None
        result: Any = None
        try:
            result = action()
        except Exception as error:
            failure = error
        self.agree(failure, [])
        return result  # type: ignore[no-any-return]

    def agree(self, failure: Exception | None, numbers: Sequence[float]) -> list[float]:
        """By one sum over all processes, on the CPU."""
        failed, *sums = self.sum(torch.tensor([failure is not None, *numbers], dtype=torch.float64)).tolist()
        if failed:
            others = self.all_gathered(None if failure is None else ElsewhereError(failure))
            if failure is not None:
                raise failure
            raise next(other for other in others if other is not None)
        return sums

    def all_gathered(self, value: T) -> list[T]:
        """By pickling."""
        from torch.distributed import all_gather_object

        found: list[Any] = [None] * self.size
        all_gather_object(found, value)
        return found

    def sum(self, tensor: Tensor) -> Tensor:
        """On the tensor's device."""
        from torch.distributed import all_reduce

        total = tensor.detach().clone()
        all_reduce(total)
        return total

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """By the texts of the errors of gloo and NCCL."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, LwexpError) or not _LOST.search(str(error)):
                raise
            raise RunError("another process of this training has ended, so this one cannot go on") from error

    def leave(self, error: BaseException | None = None) -> None:
        """By the store; after an error that is not agreed on, at once: the others wait for this process in vain."""
        with contextlib.suppress(Exception):  # where the store is gone, all has ended
            if self.is_first:
                self._store.set("ended", "")
            elif isinstance(error, (LwexpError, KeyboardInterrupt, Interrupted)):
                self._await("ended", _LAST_WORD_SECONDS)
        if error is None:
            torch.distributed.destroy_process_group()

    def _await(self, key: str, seconds: float = float("inf")) -> None:
        deadline = time.monotonic() + seconds
        while not self._store.check([key]) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def join() -> Processes:
    """The processes of this training; of several, as soon as all of them have come."""
    launch = launched()
    if launch.size == 1:
        return ALONE
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if not distributed.is_available():
        raise ConfigError("WORLD_SIZE", launch.size, "this build of torch trains in one process only")
    on_gpus = torch.cuda.is_available() and distributed.is_nccl_available()
    # While it waits in here for the others a process runs no handler; what a launcher sends must end it all the same.
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        store, _, _ = next(rendezvous("env://", launch.rank, launch.size))
        backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
        distributed.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.size)
    finally:
        signal.signal(signal.SIGTERM, handler)
    return Team(launch, PrefixStore("lwexp", store))
