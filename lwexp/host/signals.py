"""Signals: those that end a training let the current step finish, those that clusters send in advance save its state.

SIGINT (Ctrl-C) and SIGTERM end a training after its step, with a checkpoint; a second Ctrl-C ends it at once. SIGUSR1
and SIGUSR2, which a cluster sends some time before it ends a job, only ask for a checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
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


class _CommandHandlers:
    """The handlers of a command, from `handle_in_command` on, and whether a signal has asked for its end."""

    def __init__(self, *, launched: bool) -> None:
        self.launched = launched
        self.stopped = False

    def terminate(self, signum: int, frame: FrameType | None) -> None:
        first, self.stopped = not self.stopped, True
        if first or not self.launched:
            raise Interrupted(signum)

    def interrupt(self, signum: int, frame: FrameType | None) -> None:
        self.stopped = True
        raise KeyboardInterrupt

    def nothing_to_save(self, signum: int, frame: FrameType | None) -> None:
        """Outside the training there is no new state; the default action would end the process."""


def handle_in_command(*, launched: bool = False) -> None:
    """From now on SIGTERM raises `Interrupted`; SIGUSR1 and SIGUSR2, which would end the process, do nothing.

    Those two keep a handler that is not Python's default. `launched`: by another process, which may get the same
    signals, reports them to the user, and sends SIGTERM in any case; so after a first signal SIGTERM does nothing.
    """
    handlers = _CommandHandlers(launched=launched)
    if launched and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, handlers.interrupt)
    signal.signal(signal.SIGTERM, handlers.terminate)
    for signum in _SAVE:
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, handlers.nothing_to_save)


def end_quietly(code: int) -> None:
    """From now on a signal that ends a command ends this process at once, with `code`, which is decided.

    Python and libraries still clean up at the end of a process; an exception there would be printed and change nothing.
    """

    def leave(signum: int, frame: FrameType | None) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # the signal may have come in the middle of a write
                stream.flush()
        os._exit(code)

    with held_back(STOP):
        for signum in STOP:
            handler = signal.getsignal(signum)
            if handler is signal.default_int_handler or isinstance(
                getattr(handler, "__self__", None), _CommandHandlers
            ):
                signal.signal(signum, leave)


def _command_handlers() -> _CommandHandlers | None:
    """Those installed by `handle_in_command`, also beneath a `Requests`."""
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return owner.command if isinstance(owner, Requests) else owner if isinstance(owner, _CommandHandlers) else None


def _is_replaceable(handler: Handler) -> bool:
    return handler in _DEFAULT or isinstance(getattr(handler, "__self__", None), _CommandHandlers)


def ignore_in_worker(worker: int) -> None:
    """For a DataLoader's worker processes: clusters and terminals signal every process of a job.

    A worker that such a signal ends would end the training too, before its checkpoint is written.
    """
    for signum in (*STOP, *_SAVE):
        signal.signal(signum, signal.SIG_IGN)


@contextmanager
def held_back(signals: Collection[signal.Signals] = _HELD_BACK) -> Iterator[None]:
    """Block `signals`, by default those that end or save a training: here for the `with` block, and after it they act.

    In processes started in the block they stay blocked: multiprocessing's helpers, which a cluster signals as well,
    would end, and how their jobs ended would be unknown.
    """
    if hasattr(signal, "pthread_sigmask"):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        yield


def take_signals() -> None:
    """Unblock the signals in a child started under `held_back`."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)


class Requests:
    """What signals request in a `with` block: `stop` is the signal that ends the training, `save` a checkpoint.

    Handlers are installed in the main thread only, in place of the default ones and lwexp's own; those of others (the
    launcher of a cluster, a notebook) stay. The end of the `with` block restores the previous ones, and raises for a
    signal that the block has not handled.
    """

    def __init__(self, *, stops: bool, quiet: bool = False, then: Callable[[], None] | None = None) -> None:
        """With `stops` false, SIGINT and SIGTERM keep their handlers: they end the training at once.

        `quiet`: another process reports a signal to the user. `then` is called at the first signal that ends the
        training.
        """
        self.stop: int | None = None
        self.save = False
        self._signals = (*(STOP if stops else ()), *_SAVE)
        self._former: dict[int, Handler] = {}
        self._pid = os.getpid()
        self._second_ends = False
        self.command = _command_handlers()
        self._quiet = quiet or (self.command is not None and self.command.launched)
        self._then = then

    def __enter__(self) -> Requests:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for signum in self._signals:
                if _is_replaceable(signal.getsignal(signum)):
                    self._former[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restore the previous handlers."""
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
            if self.command is not None:
                self.command.stopped = True
            if not self._quiet:
                report(signum)
            if self._then is not None:
                self._then()


def report(signum: int) -> None:
    """Print that the signal ends a training, and when."""
    name = signal.Signals(signum).name
    text = f"\n{name}: the step is finished and a checkpoint written; a second Ctrl-C stops at once\n"
    os.write(2, text.encode())  # sys.stderr may be in the middle of a write of its own


def report_stop(stopped: BaseException) -> None:
    """`report` the signal that raised `stopped`, if one did."""
    if isinstance(stopped, Interrupted):
        report(stopped.signum)
    elif isinstance(stopped, KeyboardInterrupt):
        report(signal.SIGINT)


_DEFAULT: tuple[Handler, ...] = (signal.SIG_DFL, signal.default_int_handler)
