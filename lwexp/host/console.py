"""What a command is doing, shown where it would otherwise be silent: a line in place on a terminal, lines in a log.

A command starts the `console`, and what takes time says so: `with console.doing("reading the data"): …`. On a terminal
the present activity is shown in place after a second. In a log file or a pipe it becomes a line after three seconds
without one, then every five, and later at distances that grow with the time so far, so that the log of a long training
stays short.

The console is one per process, as its terminal is. Where no command has started it, in a library or a notebook, it does
nothing.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

What = str | Callable[[], str]

FIRST_SECONDS, NEXT_SECONDS = 3.0, 5.0  # of silence before the first line about an activity and before others
_GROWTH, _LONGEST_SECONDS = 0.1, 300.0  # or such a part of the time so far, where that is longer; at most so many
_IN_PLACE_SECONDS = 1.0
_TICK_SECONDS = 0.25

log = logging.getLogger(__name__)


def columns() -> int:
    """The width of the terminal that standard error is, else that of COLUMNS, else 80."""
    with suppress(OSError, ValueError, AttributeError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    return shutil.get_terminal_size().columns


def duration(seconds: float) -> str:
    """Seconds in readable units.

    >>> duration(0.0), duration(0.4), duration(7.4), duration(200), duration(7300)
    ('0 s', '0.4 s', '7 s', '3 min 20 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if 0.05 <= seconds < 0.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class _Activity:
    """What is done, since when, whether a bar shows it on a terminal, and whether a line was written about it."""

    def __init__(self, what: What, own_bar: bool = False) -> None:
        self.what, self.own_bar, self.said, self.since = what, own_bar, False, time.monotonic()

    def line(self, now: float) -> str:
        """The activity and how long it has taken."""
        text, seconds = self.what if isinstance(self.what, str) else self.what(), now - self.since
        return f"{text} …" if seconds < 1 else f"{text} … {duration(seconds)}"


class Console:
    """The present activity and how it is shown."""

    def __init__(self) -> None:
        """Nothing is shown before `start`."""
        self._lock = threading.RLock()
        self._pid = 0  # of the process that shows
        self._lines = True
        self._doing = [_Activity("")]
        self._written = time.monotonic()
        self._shown = ""  # in place
        self._muted = 0

    def start(self, what: What, *, lines: bool = True) -> None:
        """Show what this process does from now on, at first `what`. `lines`: also where there is no terminal."""
        with self._lock:
            self._doing, self._lines, self._muted = [_Activity(what)], lines, 0
            self.wrote()
            if self._pid != os.getpid():
                self._pid = os.getpid()
                threading.Thread(target=self._watch, args=(self._pid,), name="console", daemon=True).start()

    def stop(self) -> None:
        """Show nothing more."""
        with self._lock:
            self._clear()
            self._pid = 0

    def now(self, what: What) -> None:
        """What is done from now on where nothing else is said."""
        with self._lock:
            self._clear()
            self._doing[0] = _Activity(what)

    @contextmanager
    def doing(self, what: What, *, own_bar: bool = False) -> Iterator[None]:
        """What is done within the block, a text or a function that makes one; `own_bar`: a bar shows it on a terminal.

        Of blocks within each other the innermost counts.
        """
        with self._lock:
            self._doing.append(_Activity(what, own_bar))
        try:
            yield
        finally:
            with self._lock:
                self._clear()
                if len(self._doing) > 1:
                    self._doing.pop()

    @contextmanager
    def left_to_another(self) -> Iterator[None]:
        """Show nothing in place within the block: another process uses the terminal."""
        with self._lock:
            self._clear()
            self._muted += 1
        try:
            yield
        finally:
            with self._lock:
                self._muted -= 1

    def wrote(self) -> None:
        """Something else was written."""
        self._written = time.monotonic()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Room for a line: what is shown in place, bars included, is removed, and comes back later."""
        with self._lock:
            self._clear()
            tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
            with nullcontext() if tqdm is None else tqdm.external_write_mode(file=sys.stdout):
                yield
            self.wrote()

    @property
    def on_terminal(self) -> bool:
        """Whether lines go to a terminal."""
        return _is_terminal(sys.stdout)

    @property
    def width(self) -> int:
        """Columns of a line: the terminal's; where lines go elsewhere they may have any length."""
        return columns() if self.on_terminal else 1_000_000

    def _watch(self, pid: int) -> None:
        while self._pid == pid == os.getpid():
            time.sleep(_TICK_SECONDS)
            with self._lock:
                if self._pid == pid:
                    with suppress(Exception):  # a closed stream, a text that cannot be made: the work continues
                        self._show()

    def _show(self) -> None:
        now, activity = time.monotonic(), self._doing[-1]
        silent = now - self._written
        if _is_terminal(sys.stderr) and not self._muted and not activity.own_bar and silent >= _IN_PLACE_SECONDS:
            line = activity.line(now)
            self._in_place(line if len(line) < columns() else f"{line[: columns() - 2]}…")
        if not self._lines or (_is_terminal(sys.stderr) and _is_terminal(sys.stdout)):
            return
        # The base's begin is that of a phase; what is done again and again, in an epoch, is no reason for more lines.
        outer = self._doing[min(1, len(self._doing) - 1)]
        least = NEXT_SECONDS if activity.said else FIRST_SECONDS
        if silent >= min(max(least, _GROWTH * (now - outer.since)), _LONGEST_SECONDS):
            activity.said = True
            self._written = now
            self._line(activity.line(now))

    @staticmethod
    def _line(text: str) -> None:
        if logging.getLogger().handlers:
            log.info(text)
        else:
            print(text, flush=True)

    def _in_place(self, text: str) -> None:
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()
        self._shown = text

    def _clear(self) -> None:
        if self._shown:
            self._shown = ""
            with suppress(OSError, ValueError):
                sys.stderr.write("\r\033[K")
                sys.stderr.flush()

    def _after_fork(self) -> None:
        """A child has no such thread, and must not wait for a lock that was held at its birth."""
        self._lock, self._pid, self._shown = threading.RLock(), 0, ""


class ConsoleHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Hydra's handler of the console, whose lines make room for what is shown in place."""

    def handle(self, record: logging.LogRecord) -> Any:
        """Write the line. The console's lock is taken before the handler's, as its own thread takes them."""
        with console.writing():
            return super().handle(record)


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # none, or closed
        return False


console = Console()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=console._after_fork)
