"""Signals: those that end a training wait for the step in hand, those that clusters send before save its state.

SIGINT (Ctrl-C) and SIGTERM end a training after its step, with a checkpoint; a second Ctrl-C ends it at once. SIGUSR1
and SIGUSR2, which a cluster sends some time before it ends a job, only ask for a checkpoint.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

Handler = Callable[[int, FrameType | None], Any] | int | None

STOP = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name))
_SAVE = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))  # not on Windows
_HELD_BACK = {signal.SIGTERM, *_SAVE}


class Interrupted(BaseException):
    """SIGTERM arrived: unwind like KeyboardInterrupt, so that the run ends KILLED and not RUNNING."""

    def __init__(self, signum: int = signal.SIGTERM) -> None:
        """`signum` is the number of the signal."""
        super().__init__(signum)
        self.signum = signum

    def __str__(self) -> str:
        """The signal's name."""
        return signal.Signals(self.signum).name


_told_by_launcher = False  # in a job of a sweep
_stopped = False  # a signal has asked for the end


def handle_in_command(*, told_by_launcher: bool = False) -> None:
    """From now on SIGTERM raises `Interrupted`; SIGUSR1 and SIGUSR2, which would end the process, do nothing.

    Those two keep a handler that somebody else installed. `told_by_launcher`: another process, which may get the same
    signals, reports them to the user, and sends SIGTERM in any case; so after a first signal SIGTERM does nothing.
    """
    global _told_by_launcher
    _told_by_launcher = told_by_launcher
    if told_by_launcher and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)
    for signum in _SAVE:
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, _nothing_to_save)


def ignore_in_worker(worker: int) -> None:
    """For a DataLoader's worker processes: clusters and terminals signal every process of a job.

    A worker that such a signal ends would take the training with it, before its checkpoint is written.
    """
    for signum in (*STOP, *_SAVE):
        signal.signal(signum, signal.SIG_IGN)


@contextmanager
def held_back() -> Iterator[None]:
    """Within the `with` block signals that end or save a training wait; processes started in it never take them.

    multiprocessing's helpers, which a cluster signals as well, would die of them and leave their jobs' ends unknown.
    """
    if hasattr(signal, "pthread_sigmask"):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        yield


def take_signals() -> None:
    """In a process started by one of those: take them again."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)


class Requests:
    """What signals ask of a training, from `with` on: `stop` is the signal that ends it, `save` asks for a checkpoint.

    Handlers are installed in the main thread alone, in place of the default ones and lwexp's own; one that somebody
    else installed (the launcher of a cluster, a notebook) stays. The end of the `with` block puts the former ones back,
    and raises for a signal that the block has not handled.
    """

    def __init__(self, *, stops: bool, quiet: bool = False, then: Callable[[], None] | None = None) -> None:
        """With `stops` false, SIGINT and SIGTERM keep their handlers: they end the training at once.

        `quiet`: a signal is not reported here; another process reports it. `then` is called at the first
        signal that ends the training.
        """
        self.stop: int | None = None
        self.save = False
        self._signals = (*(STOP if stops else ()), *_SAVE)
        self._former: dict[int, Handler] = {}
        self._pid = os.getpid()
        self._second_ends = False
        self._quiet = quiet or _told_by_launcher
        self._then = then

    def __enter__(self) -> Requests:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for signum in self._signals:
                if signal.getsignal(signum) in _REPLACEABLE:
                    self._former[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Put the former handlers back."""
        for signum, handler in self._former.items():
            if signal.getsignal(signum) == self._note:
                signal.signal(signum, handler)
        self._former = {}
        if kind is None:
            self.raise_stop()

    def raise_stop(self) -> None:
        """Raise KeyboardInterrupt or `Interrupted` if a signal has asked for the end."""
        if self.stop is not None:
            raise KeyboardInterrupt if self.stop == signal.SIGINT else Interrupted(self.stop)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a forked child, before it ignores signals
        if signum in _SAVE:
            self.save = True
            return
        if signum == signal.SIGINT:
            if self._second_ends:
                raise KeyboardInterrupt
            self._second_ends = True
        if self.stop is None:
            self.stop = signum
            _note_stop()
            if not self._quiet:
                tell(signum)
            if self._then is not None:
                self._then()


def tell(signum: int) -> None:
    """Say that a training ends because of the signal, and when."""
    name = signal.Signals(signum).name
    text = f"\n{name}: the step is finished and a checkpoint written; a second Ctrl-C stops at once\n"
    os.write(2, text.encode())  # sys.stderr may be in the middle of a write of its own


def tell_of(stopped: BaseException) -> None:
    """As `tell`, of the signal that `stopped` comes from, if it comes from one."""
    if isinstance(stopped, Interrupted):
        tell(stopped.signum)
    elif isinstance(stopped, KeyboardInterrupt):
        tell(signal.SIGINT)


def _note_stop() -> bool:
    """Whether this is the first signal that asks for the end of this process."""
    global _stopped
    before, _stopped = _stopped, True
    return not before


def _terminate(signum: int, frame: FrameType | None) -> None:
    if _note_stop() or not _told_by_launcher:
        raise Interrupted(signum)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    _note_stop()
    raise KeyboardInterrupt


def _nothing_to_save(signum: int, frame: FrameType | None) -> None:
    """Outside the training there is no new state; the default action would end the process."""


_DEFAULT: tuple[Handler, ...] = (signal.SIG_DFL, signal.default_int_handler)
_REPLACEABLE = (*_DEFAULT, _terminate, _interrupt, _nothing_to_save)
